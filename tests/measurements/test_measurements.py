"""Measurements: what is on record bears out every claim, and is of the code that lies here."""

import copy
import functools
import hashlib
import linecache
import re
import time
from dataclasses import replace

import bench
import chapters
import measure
import nbformat
import pytest
import told_numbers
import torch
from conftest import ROOT

from kvcache import GPTConfig
from kvcache.measurements import code_hash, experiment, measured, speed
from kvcache.measurements.experiments import Experiment, UnsteadyError, repeat
from kvcache.measurements.machine import bandwidth, machine
from kvcache.measurements.records import (
    FOLDER,
    Record,
    broken_claims,
    broken_here,
    read,
    recorded,
    records,
)
from kvcache.measurements.showing import Shown, in_units

EXPERIMENTS = measure.all_experiments()
RECORDS = records()


def claims_of(record):
    experiment = EXPERIMENTS[record.experiment]
    cpu = record.machine["device"] == "cpu"
    return (experiment.claims if cpu else experiment.gpu_claims).items()


CLAIMS = [
    pytest.param(record, condition, id=f"{record.device}, {record.experiment}: {sentence}")
    for record in RECORDS
    for sentence, condition in claims_of(record)
]


def test_each_experiment_has_a_record_and_each_record_an_experiment():
    assert {record.experiment for record in RECORDS if record.device == "cpu"} == set(EXPERIMENTS)
    assert {record.experiment for record in RECORDS} <= set(EXPERIMENTS)


def test_the_records_are_whole_small_and_of_one_machine():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*.json"))
    assert size < 2_000_000
    assert not list(FOLDER.rglob("*.half"))
    ours = [record for record in RECORDS if record.device == "cpu"]
    assert len({(r.machine["name"], r.machine["cores"]) for r in ours}) == 1
    assert all(record.settings == {} for record in RECORDS), "of a small run"


@pytest.mark.parametrize("name", measure.packaged())
def test_the_cpu_record_is_of_the_code_that_lies_here(name):
    assert recorded(name).code == EXPERIMENTS[name].code(), f"make measure NAME={name}"


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda record: f"{record.device}, {record.experiment}"
)
def test_a_record_was_measured_until_it_was_steady(record):
    experiment = EXPERIMENTS[record.experiment]
    assert all(record.error(name) <= experiment.spread for name in record.rounds)
    assert all(len(rounds) >= experiment.least for rounds in record.rounds.values())


def test_a_reader_waits_a_minute_at_most_for_what_has_no_clock_in_it():
    whole = [r for r in RECORDS if not r.rounds and not EXPERIMENTS[r.experiment].small]
    assert {r.experiment: r.took for r in whole if r.device == "cpu" and r.took > 45} == {}


@pytest.mark.parametrize(("record", "condition"), CLAIMS)
def test_a_claim_holds_on_each_record(record, condition):
    assert condition(record)


@pytest.mark.parametrize(("record", "condition"), CLAIMS)
def test_a_claim_fails_when_its_record_contradicts_it(record, condition):
    assert any(not holds(condition, wrong) for wrong in contradictions(record))


def holds(condition, record):
    try:
        return condition(record)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return True  # it says nothing


def contradictions(record):
    """Copies of a record, each with something changed that a claim may rest on."""
    for name, rounds in record.rounds.items():
        n = len(rounds[0])
        changes = [[factor] * n for factor in (0.01, 0.5, 2, 100)] + [[100, *[1] * (n - 1)]]
        changes += [[100 ** (i / n) for i in steps] for steps in (range(n), range(n, 0, -1))]
        for change in changes:
            changed = [[a * b for a, b in zip(steps, change, strict=True)] for steps in rounds]
            yield replace(record, rounds=record.rounds | {name: changed})
    for name, given in record.gave.items():
        yield replace(record, gave=record.gave | {name: spoiled(given, 0)})
        yield replace(record, gave=record.gave | {name: spoiled(given, -1)})
    for path in leaves(record.facts):
        for value in (-1e9, 0, 1, 1e9, True, False, None, "other", []):
            yield replace(record, facts=with_leaf(record.facts, path, value))
    facts = record.facts
    for path in leaves(record.facts):
        if isinstance(leaf(facts, path), int | float):
            facts = with_leaf(facts, path, 1.0)
    yield replace(record, facts=facts)


def spoiled(given, position):
    """The same nested lists with one other value in them."""
    if not isinstance(given, list):
        return "other"
    changed = list(given)
    changed[position] = spoiled(given[position], position)
    return changed


def leaves(tree, path=()):
    """The paths to all values of nested dicts and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list) and value:
            yield from leaves(value, (*path, key))
        yield (*path, key)


def leaf(tree, path):
    return functools.reduce(lambda inside, key: inside[key], path, tree)


def with_leaf(tree, path, value):
    """The same tree with another value at a path."""
    changed = copy.deepcopy(tree)
    leaf(changed, path[:-1])[path[-1]] = value
    return changed


# How it is measured


def sleeps(*seconds):
    """The steps of something that takes so long."""
    for each in seconds:
        time.sleep(each)
        yield each


def test_what_is_compared_takes_turns():
    order = []

    def noting(name):
        for _ in range(5):
            yield order.append(name)

    @experiment(turn=2, least=1, spread=1e9)
    def turns(device):
        return {name: lambda name=name: noting(name) for name in "ab"}

    turns.measure()
    assert "".join(order) == "aaabbb" + "aabbaabbab"  # the first three of each warm up


def test_rounds_go_on_until_they_are_steady():
    lengths = iter([0.001] * 6 + [0.01] * 3 + [0.001] * 300)

    @experiment(least=3, most=30, spread=0.2)
    def settling(device):
        return {"work": lambda: sleeps(*[next(lengths) for _ in range(3)])}

    record = settling.measure()
    assert 3 <= len(record.rounds["work"]) < 30
    assert record.error("work") <= 0.2


def test_what_does_not_get_steady_is_refused_with_a_remedy():
    lengths = iter([0.001, 0.02] * 100)

    @experiment(least=3, most=4, spread=0.01)
    def restless(device):
        return {"work": lambda: sleeps(next(lengths))}

    with pytest.raises(UnsteadyError, match=r"'work' is known to .* make measure NAME=restless"):
        restless.measure()
    # A reader's own run goes on, and says how far the rounds are apart.
    assert restless.measure(seconds=0.3).error("work") > 0.01


def test_a_readers_run_ends_in_time():
    @experiment(least=5, most=10**6, spread=0)
    def endless(device, n=100):
        return {"work": lambda: sleeps(*[0.001] * n)}

    start = time.perf_counter()
    record = endless.measure(seconds=0.5, n=10)
    assert time.perf_counter() - start < 5
    assert record.settings == {"n": 10}


def test_a_round_that_takes_too_long_for_a_reader_is_given_up():
    @experiment(turn=1)
    def slow(device):
        return {"work": lambda: sleeps(*[0.05] * 100)}

    start = time.perf_counter()
    with pytest.raises(UnsteadyError, match="one round takes too long on this machine"):
        slow.measure(seconds=0.2)
    assert time.perf_counter() - start < 3


def test_what_has_no_steps_is_named():
    with pytest.raises(RuntimeError, match="idle has no steps"):
        experiment()(lambda device: {"idle": lambda: iter([])}).measure()


def test_facts_and_what_steps_give_are_kept():
    @experiment(least=1, spread=1e9)
    def giving(device):
        tokens = [torch.tensor([[7]]), torch.tensor([[8]])]
        return {"a": lambda: iter(tokens), "b": lambda: repeat(lambda: 5, 2), "fact": 3}

    record = giving.measure()
    assert record.facts == {"fact": 3}
    assert record.gave == {"a": [7, 8]}
    assert record["b"].seconds.shape[1] == 2
    assert record.timing("a", torch.tensor([[1]])).token_ids.tolist() == [[1, 7, 8]]


# What is on record


def a_record(**changes):
    machine = {"device": "cpu", "name": "A processor", "cores": 2, "threads": 2}
    machine |= {"memory_gb": 8, "system": "x", "versions": {"torch": "2", "python": "3"}}
    rounds = {"a": [[1.0, 2.0], [3.0, 2.0], [1.0, 50.0]], "b": [[1.0], [1.0], [1.0]]}
    values = ("x", machine, "2026-11-26", "abc", "hash", {}, rounds, {}, {})
    return replace(Record(*values), **changes)


def test_the_statistic_is_the_median_of_each_step():
    timing = a_record()["a"]
    assert timing.per_token.tolist() == [1.0, 2.0]
    assert timing.total == 3.0
    assert timing.tokens_per_second == pytest.approx(2 / 3)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = a_record(rounds={"a": [[0.00123456]]}, gave={"a": [None]})
    path = record.write(tmp_path)
    assert path == tmp_path / "cpu" / "x.json"
    assert read(path) == replace(record, rounds={"a": [[0.001235]]})
    gpu = record.machine | {"device": "cuda", "name": "Some GPU 80GB"}
    assert replace(record, machine=gpu).write(tmp_path).parent.name == "some-gpu-80gb"
    assert [each.device for each in records("x", tmp_path)] == ["cpu", "some-gpu-80gb"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"experiment": "x"}', None])
def test_a_damaged_record_is_named(tmp_path, text):
    path = a_record(rounds={"a": [[]]}).write(tmp_path)
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no record .*make measure NAME=x"):
        read(path)


def test_a_record_of_another_experiment_is_named(tmp_path):
    path = a_record().write(tmp_path).rename(tmp_path / "cpu" / "y.json")
    with pytest.raises(ValueError, match=r"y\.json is no record \(it is one of x on A processor\)"):
        read(path)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record of x; make measure NAME=x"):
        recorded("x", tmp_path)


def test_one_machine_model_is_on_record():
    record = recorded("machine")
    assert 1e9 < bandwidth(record) < 1e12
    assert EXPERIMENTS["machine"] is machine


# Of which code


WORK = """
from dataclasses import dataclass
SIZE = 3
makers = {"a": lambda: helper()}
printed = 4

@dataclass
class Half:
    a: int

    def value(self):
        return 1

class Whole(Half):
    def twice(self):
        return 2 * self.value()

whole = Whole(1)

def helper():
    return "#a"

def work(device):
    return whole.twice() + SIZE, [make() for make in makers.values()]
"""


def hash_of(source):
    """The hash of a function of a notebook whose cell this is."""
    name = f"<hashed {hashlib.sha256(source.encode()).hexdigest()}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"__name__": "__main__", "In": ["no Python (", source]}
    exec(compile(source, name, "exec"), namespace)
    return code_hash.code_hash(namespace["work"])


@pytest.mark.parametrize(
    ("code", "instead"),
    [
        ("return 1", "return 1  # why"),
        ("return 2 * self.value()", "return 2  *  self.value()"),
        ("work(device):", 'work(device):\n    """What it does."""'),
        ("class Half:", 'class Half:\n    """Half of it."""\n'),
        ("printed = 4", "printed = 5"),
    ],
)
def test_comments_docstrings_and_spaces_cost_nothing(code, instead):
    assert hash_of(WORK.replace(code, instead)) == hash_of(WORK)


@pytest.mark.parametrize(
    ("code", "instead"),
    [
        ("twice() + SIZE", "twice() - SIZE"),
        ("SIZE = 3", "SIZE = 4"),
        ("return 1", "return 2"),
        ("2 * self", "3 * self"),
        ("Whole(1)", "Whole(2)"),
        ("lambda: helper()", "lambda: helper() * 2"),
        ('"#a"', '"#b"'),  # no comment
        ("a: int", "a: float"),
    ],
)
def test_other_code_is_noticed_in_the_experiment_and_in_what_it_uses(code, instead):
    assert hash_of(WORK.replace(code, instead)) != hash_of(WORK)


def test_the_shape_of_the_model_counts(monkeypatch):
    code = EXPERIMENTS["writing"].code()
    monkeypatch.setattr("kvcache.measurements.speed.GPT2_124M", GPTConfig(50, 24, 16, 4, 2))
    assert EXPERIMENTS["writing"].code() != code


# How a notebook shows it


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An experiment that is on record, in a folder of its own."""

    @experiment(least=2, spread=1e9, claims={"it takes time": lambda r: r["work"].total > 0.001})
    def toy(device, n=3):
        return {"work": lambda: sleeps(*[0.002] * n)}

    monkeypatch.setattr(records, "__defaults__", ("*", tmp_path))
    monkeypatch.setattr(recorded, "__defaults__", (tmp_path,))
    monkeypatch.setattr("kvcache.measurements.showing.SECONDS", 0.05)
    toy.measure().write(tmp_path)
    return toy


def test_while_the_book_is_built_nothing_is_measured(toy, monkeypatch, capsys):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "record")
    monkeypatch.setattr(type(toy), "measure", None)
    assert measured(toy) == recorded("toy")
    assert "Measured on" in capsys.readouterr().out


def test_a_record_of_other_code_is_refused(toy, monkeypatch):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "record")
    replace(recorded("toy"), code="other").write(recorded.__defaults__[0])
    with pytest.raises(
        ValueError, match="the record of toy is of other code; make measure NAME=toy"
    ):
        measured(toy)


def test_a_record_that_contradicts_a_claim_is_refused(toy, monkeypatch):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "record")
    replace(recorded("toy"), rounds={"work": [[0.0001]]}).write(recorded.__defaults__[0])
    with pytest.raises(ValueError, match=r"does not bear out .*it takes time"):
        measured(toy)


def test_a_readers_kernel_measures_and_shows_both(toy, monkeypatch, capsys):
    monkeypatch.delenv("KVCACHE_MEASUREMENTS", raising=False)
    assert measured(toy) == recorded("toy")
    said = capsys.readouterr().out
    assert "on record, CPU | here |" in said
    assert said.count(" ms ") == 2
    assert "does not hold" not in said


def test_a_reader_is_told_what_does_not_hold(toy, monkeypatch, capsys):
    monkeypatch.delenv("KVCACHE_MEASUREMENTS", raising=False)
    replace(recorded("toy"), date="2000-01-01").write(recorded.__defaults__[0])
    toy.claims["it is long ago"] = lambda r: r.date == "2000-01-01"
    measured(toy)
    assert 'it does not hold that "it is long ago"' in capsys.readouterr().out


def test_what_is_about_to_change_is_not_checked(toy, monkeypatch):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "renew")
    replace(recorded("toy"), code="other").write(recorded.__defaults__[0])
    assert measured(toy).code == "other"


def test_a_setting_that_means_nothing_is_refused(toy, monkeypatch):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "Record")
    with pytest.raises(ValueError, match="KVCACHE_MEASUREMENTS is 'Record'; leave it unset"):
        measured(toy)


def test_a_gpus_record_of_other_code_says_its_commit():
    gpu = {"device": "cuda", "name": "Some GPU", "versions": {"torch": "2.11.0+cu130"}}
    said = repr(Shown([a_record(machine=gpu)], code="new"))
    assert "on Some GPU (other code than today's, of commit abc, PyTorch 2.11.0:" in said
    assert "other code" not in repr(Shown([a_record(machine=gpu)], code="hash"))


def test_the_raw_data_is_linked(monkeypatch):
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "record")
    assert 'href="../records/cpu/x.json"' in Shown([a_record()])._repr_markdown_()
    monkeypatch.delenv("KVCACHE_MEASUREMENTS")
    assert "/blob/main/kvcache/measurements/records/cpu/x.json" in repr(Shown([a_record()]))


def test_runs_are_compared_over_the_steps_that_both_have():
    here = a_record(rounds={"a": [[9.0]]}, settings={"n": 1})
    one, other = Shown([a_record()], here).rows()
    assert [re.split(" ±| \\(", cell)[0] for cell in one] == ["a", "1 s", "9 s"]
    assert (other[0], other[2]) == ("b", "")


def test_facts_stand_side_by_side():
    facts = {"error": 0.25, "by rank": {"64": [1, 2], "128": 2.5}, "text": "x", "ids": [1] * 9}
    one = a_record(rounds={}, facts=facts)
    other = replace(one, facts={"error": 1})
    rows = [["error", "0.25", "1"], ["by rank, 64, 1", "1", ""], ["by rank, 64, 2", "2", ""]]
    assert list(Shown([one], other).rows()) == [*rows, ["by rank, 128", "2.5", ""]]


@pytest.mark.parametrize(("seconds", "text"), [(2, "2 s"), (0.0123456, "12.3 ms"), (4e-6, "4 µs")])
def test_times_have_the_unit_that_suits_them(seconds, text):
    assert in_units(seconds) == text


# Commands


def test_an_experiment_that_is_unknown_is_named(capsys):
    assert measure.main(["nothing"]) == 2
    assert "There is no experiment nothing; there are machine" in capsys.readouterr().out


def test_an_interruption_keeps_what_was_finished(tmp_path, monkeypatch):
    def at_once(self, device, seconds):
        if self.name == "writing":
            raise KeyboardInterrupt
        return recorded(self.name)

    monkeypatch.setattr(Experiment, "measure", at_once)
    with pytest.raises(KeyboardInterrupt):
        list(measure.measure(["machine", "writing"], folder=tmp_path))
    assert [path.stem for path in tmp_path.rglob("*.json")] == ["machine"]


CHAPTER = """from kvcache.measurements import experiment, measured
from kvcache.measurements.experiments import repeat

@experiment(least=1, spread=1e9)
def resting(device):
    return {"rest": lambda: repeat(lambda: None, 3)}

@experiment(least=1, spread=1e9)
def failing(device):
    raise RuntimeError("no luck")
"""


def test_an_experiment_of_a_chapter_is_measured_by_running_it(tmp_path):
    cells = [CHAPTER, "measured(failing)", "measured(resting)", "raise SystemExit"]
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    told = dict(measure.measure_in_chapter(path, ["resting", "failing", "other"], 1, tmp_path))
    assert told["failing"] == "no luck"
    assert told["other"] == "no cell calls it: measured(other)"
    assert list(read(tmp_path / "cpu" / "resting.json").rounds) == ["rest"]


def test_two_experiments_of_one_name_are_refused(monkeypatch):
    twice = ("machine", ROOT / "chapters" / "x.ipynb", "", {})
    monkeypatch.setattr(measure, "in_chapters", lambda: [twice])
    with pytest.raises(ValueError, match=r"x\.ipynb: another experiment is called machine"):
        measure.all_experiments()


def test_the_bench_tells_the_number_of_the_book(monkeypatch, capsys):
    def as_on_record(names, seconds, folder):
        for name in names:
            recorded(name).write(folder)
            yield name, None

    monkeypatch.setattr(bench, "measure", as_on_record)
    assert bench.main() == 0
    said = capsys.readouterr().out
    rows = {line[:32].strip(): line[32:].split() for line in said.splitlines()}
    assert rows["with a cache"][1] == "1.00"  # of decoding, whose reference it is
    assert f" {speed.ratio(recorded('writing')):.2f} " in said
    assert f"{bandwidth(recorded('machine')) / 1e9:.1f} GB/s read from memory" in said


# Numbers in the text


def a_chapter(text):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="said")])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('It is <span data-from="ratio">4.9</span>.', None),
        ('It is <span data-from="ratio">5.0</span>.', "'ratio' is 4.9, and the text has '5.0'"),
        ('It is <span data-from="other">4.9</span>.', "no cell says 'other'"),
        ("It is 4.9.", "'ratio' is said by a cell, and told nowhere"),
        ("It is <span data-from='ratio'>4.9</span>.", "a mark is written"),
        ('<span data-from="ratio">4.9, <span data-from="ratio">4.9</span>', "a mark is written"),
        ("It is {glue:text}`ratio`.", "has {glue:text}`ratio`, which only the page understands"),
        ('# <span data-from="ratio">4.9</span> times', "has a number in a heading"),
    ],
)
def test_a_number_that_is_stale_or_has_no_source_is_caught(text, complaint):
    found = list(told_numbers.complaints(a_chapter(text), {"ratio": "4.9"}))
    assert (complaint is None and not found) or any(complaint in each for each in found)


def test_a_number_is_brought_up_to_date():
    chapter = a_chapter('**<span data-from="a">?</span>** and <span data-from="b">2</span>')
    told_numbers.update(chapter, {"a": "1 < 2", "b": "2"})
    text = chapter.cells[0].source
    assert text == '**<span data-from="a">1 &lt; 2</span>** and <span data-from="b">2</span>'
    assert told_numbers.marked(chapter) == [("a", "1 < 2"), ("b", "2")]


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
def test_a_notebook_reads_the_same_everywhere(path):
    notebook = nbformat.read(path, as_version=4)
    said = dict(told_numbers.marked(notebook))
    assert not [each for each in told_numbers.complaints(notebook, said) if "said by" not in each]
    assert "?" not in said.values(), "make numbers"


def test_a_small_run_is_asked_only_what_it_can_tell():
    claims = {
        "the second step takes longer": lambda r: r["a"].per_token[1] > r["a"].per_token[0],
        "the sum is large": lambda r: r["a"].total > 2.5,
        "the first step is quick": lambda r: r["a"].per_token[0] < 5,
    }
    asked = experiment(claims=claims)(lambda device: {})
    small = a_record(rounds={"a": [[9.0]]}, settings={"n": 1})
    assert broken_claims(asked, a_record()) == []
    assert broken_here(asked, small, a_record()) == ["the first step is quick"]
    whole = a_record(rounds={"a": [[9.0, 1.0]]})
    assert broken_here(asked, whole, a_record()) == [*claims][::2]
