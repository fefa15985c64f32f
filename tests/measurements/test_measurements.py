"""Measurements: what is on record bears out every claim, and is of the code that lies here."""

import hashlib
import itertools
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
from kvcache.measurements.machine import bandwidth
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


def named(record):
    return f"{record.device}, {record.experiment}"


def claims():
    for record in RECORDS:
        found = EXPERIMENTS[record.experiment]
        about = found.claims if record.device == "cpu" else found.gpu_claims
        for sentence, condition in about.items():
            yield pytest.param(record, condition, id=f"{named(record)}: {sentence}")


def test_each_experiment_has_a_record_and_each_record_an_experiment():
    assert {record.experiment for record in RECORDS if record.device == "cpu"} == set(EXPERIMENTS)
    assert {record.experiment for record in RECORDS} <= set(EXPERIMENTS)


def test_the_records_are_whole_small_and_of_one_machine():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.json")) < 2_000_000
    assert not list(FOLDER.rglob("*.half"))
    machines = [record.machine for record in RECORDS if record.device == "cpu"]
    assert len({(machine["name"], machine["cores"]) for machine in machines}) == 1
    assert all(record.settings == {} for record in RECORDS), "of a small run"


@pytest.mark.parametrize("name", measure.packaged())
def test_the_cpu_record_is_of_the_code_that_lies_here(name):
    assert recorded(name).code == EXPERIMENTS[name].code(), f"make measure NAME={name}"


@pytest.mark.parametrize("record", RECORDS, ids=named)
def test_a_record_was_measured_until_it_was_steady(record):
    found = EXPERIMENTS[record.experiment]
    assert all(record.error(name) <= found.spread for name in record.rounds)
    assert all(len(rounds) >= found.least for rounds in record.rounds.values())


def test_a_reader_waits_a_minute_at_most_for_what_has_no_clock_in_it():
    whole = [r for r in RECORDS if not r.rounds and not EXPERIMENTS[r.experiment].small]
    assert {r.experiment: r.took for r in whole if r.device == "cpu" and r.took > 45} == {}


@pytest.mark.parametrize(("record", "condition"), claims())
def test_a_claim_holds_on_each_record(record, condition):
    assert condition(record)


@pytest.mark.parametrize(("record", "condition"), claims())
def test_a_claim_fails_when_its_record_contradicts_it(record, condition):
    assert any(not holds(condition, wrong) for wrong in contradictions(record))


def holds(condition, record):
    try:
        return condition(record)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return True  # it says nothing


def contradictions(record):
    """Copies of a record, each with something changed that a claim may rest on."""
    for name, rounds in record.rounds.items():
        n = len(rounds[0])
        rising = [100 ** (i / n) for i in range(n)]
        for factors in (rising, rising[::-1], [100] * n, [0.01] * n, [100, *[1] * (n - 1)]):
            changed = [[a * b for a, b in zip(steps, factors, strict=True)] for steps in rounds]
            yield replace(record, rounds=record.rounds | {name: changed})
    for part in ("gave", "facts"):
        for value in (1e9, -1e9, 0, True, False):
            for changed in spoiled(getattr(record, part), value):
                yield replace(record, **{part: changed})
    for same in record.facts.values():
        yield replace(record, facts=dict.fromkeys(record.facts, same))


def spoiled(tree, value):
    """Copies of nested dicts and lists, each with another value in one place."""
    for key, inside in tree.items() if isinstance(tree, dict) else enumerate(tree):
        for other in spoiled(inside, value) if isinstance(inside, dict | list) else [value]:
            changed = tree.copy()
            changed[key] = other
            yield changed


# How it is measured


@pytest.fixture
def sleeps(monkeypatch):
    """Steps that take so many seconds, by a clock that nothing else moves."""
    now = [0.0]

    def steps(*seconds):
        for each in seconds:
            now[0] += each
            yield each

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return steps


def timing(work, **options):
    """A small experiment: work(**settings) makes the steps of a round."""

    @experiment(**options)
    def small(device, **settings):
        return {"work": lambda: work(**settings)}

    return small


def test_what_is_compared_takes_turns():
    order = []

    @experiment(turn=2, least=1, spread=1e9)
    def turns(device):
        return {name: lambda name=name: repeat(lambda: order.append(name), 5) for name in "ab"}

    turns.measure()
    assert "".join(order) == "aaabbb" + "aabbaabbab"  # the first three of each warm up


def test_rounds_go_on_until_they_are_steady(sleeps):
    lengths = iter([0.001] * 6 + [0.01] * 3 + [0.001] * 300)
    settling = timing(lambda: sleeps(*itertools.islice(lengths, 3)), least=3, most=30, spread=0.2)
    record = settling.measure()
    assert len(record.rounds["work"]) == 5  # the second of them was slow
    assert record.error("work") <= 0.2


def test_what_does_not_get_steady_is_refused_with_a_remedy(sleeps):
    lengths = itertools.cycle([0.001, 0.02])
    restless = timing(lambda: sleeps(next(lengths)), least=3, most=4, spread=0.01)
    with pytest.raises(UnsteadyError, match=r"'work' is known to .* make measure NAME=small"):
        restless.measure()
    # A reader's own run goes on, and says how far the rounds are apart.
    assert restless.measure(seconds=0.3).error("work") > 0.01


def test_a_readers_run_ends_in_time(sleeps):
    endless = timing(lambda n=100: sleeps(*[0.001] * n), least=5, most=10**6, spread=-1)
    record = endless.measure(seconds=0.5, n=10)
    assert 0.45 < record["work"].seconds.sum() < 0.5
    assert record.settings == {"n": 10}


def test_a_round_that_takes_too_long_for_a_reader_is_given_up(sleeps):
    slow = timing(lambda: sleeps(*[0.05] * 100), turn=1)
    with pytest.raises(UnsteadyError, match="one round takes too long on this machine"):
        slow.measure(seconds=0.2)
    assert time.perf_counter() < 0.5


def test_what_has_no_steps_is_named():
    with pytest.raises(RuntimeError, match="work has no steps"):
        timing(lambda: iter([])).measure()


def test_facts_and_what_steps_give_are_kept():
    @experiment(least=1, spread=1e9)
    def giving(device):
        tokens = [torch.tensor([[7]]), torch.tensor([[8]])]
        return {"a": lambda: iter(tokens), "b": lambda: repeat(lambda: 5, 2), "fact": 3}

    record = giving.measure()
    assert (record.facts, record.gave) == ({"fact": 3}, {"a": [7, 8]})
    assert record["b"].seconds.shape[1] == 2
    assert record.timing("a", torch.tensor([[1]])).token_ids.tolist() == [[1, 7, 8]]


# What is on record


GPU = {"device": "cuda", "name": "Some GPU", "versions": {"torch": "2.11.0+cu130"}}


def a_record(**changes):
    machine = {"device": "cpu", "name": "A processor", "cores": 2, "versions": {"torch": "2"}}
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
    assert replace(record, machine=GPU).write(tmp_path).parent.name == "some-gpu"
    assert [each.device for each in records("x", tmp_path)] == ["cpu", "some-gpu"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"experiment": "x"}', None])
def test_a_damaged_record_is_named(tmp_path, text):
    path = a_record(rounds={"a": [[]]}).write(tmp_path)
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no record .*make measure NAME=x"):
        read(path)


def test_a_record_that_is_missing_or_of_another_experiment_is_named(tmp_path):
    a_record().write(tmp_path).rename(tmp_path / "cpu" / "y.json")
    with pytest.raises(ValueError, match=r"y\.json is no record \(it is one of x on A processor\)"):
        recorded("y", tmp_path)
    with pytest.raises(FileNotFoundError, match="no record of x; make measure NAME=x"):
        recorded("x", tmp_path)


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
    ("code", "instead", "counts"),
    [
        ("return 1", "return 1  # why", False),
        ("return 2 * self.value()", "return 2  *  self.value()", False),
        ("work(device):", 'work(device):\n    """What it does."""', False),
        ("class Half:", 'class Half:\n    """Half of it."""\n', False),
        ("printed = 4", "printed = 5", False),
        ("twice() + SIZE", "twice() - SIZE", True),
        ("SIZE = 3", "SIZE = 4", True),
        ("return 1", "return 2", True),
        ("2 * self", "3 * self", True),
        ("Whole(1)", "Whole(2)", True),
        ("lambda: helper()", "lambda: helper() * 2", True),
        ('"#a"', '"#b"', True),  # no comment
        ("a: int", "a: float", True),
    ],
)
def test_code_counts_and_comments_docstrings_and_spaces_do_not(code, instead, counts):
    assert (hash_of(WORK.replace(code, instead)) != hash_of(WORK)) == counts


def test_the_shape_of_the_model_counts(monkeypatch):
    code = EXPERIMENTS["writing"].code()
    monkeypatch.setattr("kvcache.measurements.speed.GPT2_124M", GPTConfig(50, 24, 16, 4, 2))
    assert EXPERIMENTS["writing"].code() != code


# How a notebook shows it


@pytest.fixture
def toy(tmp_path, monkeypatch, sleeps):
    """An experiment that is on record, in a folder of its own; put(changes) changes the record."""
    claims = {"it takes time": lambda r: r["work"].total > 0.001}
    toy = timing(lambda: sleeps(0.002, 0.002), least=2, spread=1e9, claims=claims)
    monkeypatch.setattr(records, "__defaults__", ("*", tmp_path))
    monkeypatch.setattr(recorded, "__defaults__", (tmp_path,))
    monkeypatch.setattr("kvcache.measurements.showing.SECONDS", 0.05)
    monkeypatch.delenv("KVCACHE_MEASUREMENTS", raising=False)
    record = toy.measure()
    record.write(tmp_path)
    return toy, lambda **changes: replace(record, **changes).write(tmp_path)


@pytest.mark.parametrize(("mode", "code"), [("record", None), ("renew", "other")])
def test_while_the_book_is_built_nothing_is_measured(toy, monkeypatch, capsys, mode, code):
    toy, put = toy
    put(code=code or toy.code())  # what is about to change is not checked
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", mode)
    monkeypatch.setattr(Experiment, "measure", None)
    assert measured(toy) == recorded("small")
    assert "Measured on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "changes", "complaint"),
    [
        ("record", {"code": "other"}, "of small is of other code; make measure NAME=small"),
        ("record", {"rounds": {"work": [[0.0001]]}}, "does not bear out .*it takes time"),
        ("Record", {}, "KVCACHE_MEASUREMENTS is 'Record'; leave it unset"),
    ],
)
def test_a_record_that_the_text_cannot_tell_is_refused(toy, monkeypatch, mode, changes, complaint):
    toy, put = toy
    put(**changes)
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", mode)
    with pytest.raises(ValueError, match=complaint):
        measured(toy)


def test_a_readers_kernel_measures_shows_both_and_says_what_does_not_hold(toy, capsys):
    toy, put = toy
    put(date="2000-01-01")
    toy.claims["it is long ago"] = lambda r: r.date == "2000-01-01"
    assert measured(toy) == recorded("small")
    said = capsys.readouterr().out
    assert "on record, CPU | here |" in said
    assert said.count(" ms ") == 2
    assert re.findall("it does not hold that (.*)", said) == ['"it is long ago".']


def test_a_small_run_is_asked_only_what_it_can_tell():
    claims = {
        "the second step takes longer": lambda r: r["a"].per_token[1] > r["a"].per_token[0],
        "the sum is large": lambda r: r["a"].total > 2.5,
        "the first step is quick": lambda r: r["a"].per_token[0] < 5,
    }
    asked = timing(None, claims=claims)
    small = a_record(rounds={"a": [[9.0]]}, settings={"n": 1})
    assert broken_claims(asked, a_record()) == []
    assert broken_here(asked, small, a_record()) == ["the first step is quick"]
    whole = a_record(rounds={"a": [[9.0, 1.0]]})
    assert broken_here(asked, whole, a_record()) == [*claims][::2]


def test_a_gpus_record_of_other_code_says_its_commit():
    gpu = a_record(machine=GPU)
    said = repr(Shown([gpu], code="new"))
    assert "on Some GPU (other code than today's, of commit abc, PyTorch 2.11.0:" in said
    assert "other code" not in repr(Shown([gpu], code="hash"))


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
    rows = [["error", "0.25", "1"], ["by rank, 64, 1", "1", ""], ["by rank, 64, 2", "2", ""]]
    rows.append(["by rank, 128", "2.5", ""])
    assert list(Shown([one], replace(one, facts={"error": 1})).rows()) == rows


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


def test_the_bench_tells_the_numbers_of_the_book(monkeypatch, capsys):
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
    assert 1e9 < bandwidth(recorded("machine")) < 1e12
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
