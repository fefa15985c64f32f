"""What an experiment is, and how it is measured: in turns, round after round, until it is steady.

An experiment is a function that prepares what is compared and returns it by name:

    @experiment(claims={"adding takes time": lambda r: r["add"].total > 2 * r["rest"].total})
    def adding(device, n=1_000_000):
        x = torch.rand(n, device=device)
        return {"add": lambda: repeat(lambda: x + x, 10), "rest": lambda: repeat(lambda: None, 10)}

A value that can be called is *timed*: it is called once a round, and returns an iterator whose
steps are timed one by one. What a step yields, a token for example, is kept as well. Every other
value is a *fact*, kept as it is.

In a round those that are compared take turns, some steps each, so that all see the same machine. A
first, short round warms up and is not kept. Then rounds follow until the spread is small. The
statistic is the same everywhere: of each step the median over the rounds; a total is the sum of
these medians.
"""

import math
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import islice
from pathlib import Path

import psutil
import torch
from tqdm.auto import tqdm

from ..config import need
from ..timing import synchronize
from .code_hash import code_hash
from .records import Record

WARM_UP = 3  # steps of each, not kept
END = object()  # stands for a step where there are no more


@dataclass(frozen=True)
class Experiment:
    """An experiment, ready to be measured; see the module's text.

    function    (device, **settings) -> what is compared, by name
    claims      sentence -> condition on the record of a CPU
    gpu_claims  sentence -> condition on the record of each GPU
    small       settings of a reader's own run, where the whole takes longer than a minute
    turn        steps that each does in its turn
    least, most how many rounds
    spread      the largest relative error of a median that is accepted
    """

    function: callable
    claims: dict = field(default_factory=dict)
    gpu_claims: dict = field(default_factory=dict)
    small: dict = field(default_factory=dict)
    turn: int = 10
    least: int = 5
    most: int = 40
    spread: float = 0.03

    @property
    def name(self):
        return self.function.__name__

    def code(self):
        """A hash of the code that is measured: this experiment and all of kvcache that it uses."""
        return code_hash(self.function)

    def measure(self, device="cpu", seconds=None, **settings):
        """Measure on a device; returns a Record.

        seconds  None: rounds go on until they are steady. A number: they go on for about so long,
                 at least one, however far apart they are.

        Raises UnsteadyError if the rounds are still too far apart after `most` of them, or if not
        even one round was done after twice the seconds; RuntimeError for what has no steps.
        """
        start = time.perf_counter()
        with tqdm(desc=f"{self.name}, preparing", unit=" steps", leave=False) as progress:
            found = self.function(device, **settings) or {}
            timed = {name: thing for name, thing in found.items() if callable(thing)}
            facts = {name: found[name] for name in found if name not in timed}
            about = (self.name, machine(device), date.today().isoformat(), commit(), self.code())
            record = Record(*about, settings, {name: [] for name in timed}, {}, facts)
            progress.set_description(self.name)
            begun = time.perf_counter()
            until = math.inf if seconds is None else begun + 2 * seconds
            one_round(timed, WARM_UP, device, progress, until, WARM_UP)
            while timed and not self.enough(record, seconds, time.perf_counter() - begun):
                times, given = one_round(timed, self.turn, device, progress, until)
                for name in timed:
                    record.rounds[name].append(times[name])
                record.gave.update(given)
                until = math.inf  # one round is there
        return replace(record, took=round(time.perf_counter() - start, 1))

    def enough(self, record, seconds, spent):
        """Whether the rounds so far suffice. Raises UnsteadyError if there were enough in vain."""
        n_rounds = len(next(iter(record.rounds.values())))
        if seconds is not None:  # one more round would take too long
            return n_rounds > 0 and spent + spent / n_rounds > seconds
        error, worst = max((record.error(name), name) for name in record.rounds)
        problem = f"after {n_rounds} rounds '{worst}' is known to ± {error:.1%}, not to"
        remedy = f"close what else is running; make measure NAME={self.name}"
        unsteady = n_rounds >= self.most and error > self.spread
        need(not unsteady, f"{problem} ± {self.spread:.0%}", remedy, UnsteadyError)
        return n_rounds >= self.least and not error > self.spread  # nan counts as steady


def experiment(**options):
    """Makes an experiment of a function; for the options see Experiment."""
    return lambda function: Experiment(function, **options)


class UnsteadyError(RuntimeError):
    """The machine was too busy for a measurement that deserves the name."""


def one_round(timed, turn, device, progress, until=math.inf, most=None):
    """(seconds of each step, what each step gave), by name; at most `most` steps of each.

    Raises UnsteadyError if it is not done by the time `until`, RuntimeError for what has no steps.
    """
    running = {name: islice(begin(), most) for name, begin in timed.items()}
    seconds, gave = {name: [] for name in timed}, {}
    while running:
        for name, steps in list(running.items()):
            for _ in range(turn):
                synchronize(torch.device(device))
                start = time.perf_counter()
                given = next(steps, END)
                synchronize(torch.device(device))
                if given is END:
                    del running[name]
                    break
                took = time.perf_counter() - start
                seconds[name].append(float(f"{took:.4g}"))  # four digits are enough
                if given is not None:
                    tensor = isinstance(given, torch.Tensor)
                    gave.setdefault(name, []).append(given.squeeze().tolist() if tensor else given)
                progress.update()
            late, remedy = time.perf_counter() > until, "give it more seconds"
            need(not late, "one round takes too long on this machine", remedy, UnsteadyError)
    if nothing := [name for name in timed if not seconds[name]]:
        raise RuntimeError(f"{nothing[0]} has no steps; return an iterator with at least one.")
    return seconds, gave


def repeat(work, n_steps):
    """The steps of an experiment that does the same again and again; what it returns is let go."""
    for _ in range(n_steps):
        work()
        yield None


def machine(device):
    """What a record says of the machine."""
    name, n_bytes = processor(), psutil.virtual_memory().total
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, n_bytes = properties.name, properties.total_memory
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    versions = {name: sys.modules[name].__version__ for name in loaded}
    said = {"device": torch.device(device).type, "name": name, "cores": psutil.cpu_count()}
    said |= {"threads": torch.get_num_threads(), "memory_gb": round(n_bytes / 1e9, 1)}
    said |= {"system": f"{platform.system()} {platform.machine()}"}
    return said | {"versions": {"python": platform.python_version(), **versions}}


def processor():
    """The name of the processor; Linux has it in a file."""
    listed = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", listed.read_text()) if listed.is_file() else None
    return named[1] if named else platform.processor()


def commit():
    """The commit that lies here, or None outside a checkout."""
    command = ["git", "-C", Path(__file__).parent, "rev-parse", "--short=12", "HEAD"]
    found = shutil.which("git") and subprocess.run(command, capture_output=True, text=True).stdout
    return (found or "").strip() or None
