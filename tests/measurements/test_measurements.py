"""Measurements: what is on record bears out every claim, and is of the code that lies here."""

import itertools
import linecache
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import bench
import measure
import nbformat
import pytest
import torch

from kvcache.measurements import code_hash, experiment, measured, records
from kvcache.measurements.experiments import Experiment, UnsteadyError, repeat
from kvcache.measurements.machine import bandwidth
from kvcache.measurements.records import Record, answer, broken_here, read, recorded
from kvcache.measurements.showing import Shown

EXPERIMENTS = measure.all_experiments()
RECORDS = records.records()
ON_CPU = [record for record in RECORDS if record.device == "cpu"]


def test_each_experiment_has_a_whole_small_record_and_each_record_an_experiment():
    assert {record.experiment for record in ON_CPU} == set(EXPERIMENTS)
    assert {record.experiment for record in RECORDS} <= set(EXPERIMENTS)
    assert len({(each.machine["name"], each.machine["cores"]) for each in ON_CPU}) == 1
    assert all(record.settings == {} for record in RECORDS), "of a small run"
    assert sum(path.stat().st_size for path in records.FOLDER.rglob("*.json")) < 2_000_000


def test_a_reader_waits_a_minute_at_most_for_what_has_no_clock_in_it():
    whole = [r for r in ON_CPU if not r.rounds and not EXPERIMENTS[r.experiment].small]
    assert {r.experiment: r.took for r in whole if r.took > 45} == {}


@pytest.mark.parametrize("record", RECORDS, ids=lambda it: f"{it.device}, {it.experiment}")
def test_a_record_is_steady_and_its_claims_hold_and_fail_when_it_contradicts_them(record):
    asked, copies = EXPERIMENTS[record.experiment], list(contradictions(record))
    assert all(record.error(name) <= asked.spread for name in record.rounds)
    assert all(len(rounds) >= asked.least for rounds in record.rounds.values())
    assert records.broken_claims(asked, record) == []
    claims = asked.claims if record.device == "cpu" else asked.gpu_claims
    for sentence, condition in claims.items():
        broken = (copy for copy in copies if answer(condition, copy) is False)
        assert any(broken), f"nothing contradicts {sentence!r}"


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


@pytest.fixture
def taking(monkeypatch):
    """Makes an experiment of rounds, each a list of what its steps take by a clock of its own."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def steps(seconds):
        for each in seconds:
            now[0] += each
            yield each

    def made(*rounds, **options):
        following = itertools.cycle(rounds)

        @experiment(**options)
        def small(device, n=None):
            return {"work": lambda: steps(next(following)[:n])}

        return small

    return made


def test_what_is_compared_takes_turns():
    order = []
    work = {name: partial(repeat, partial(order.append, name), 5) for name in "ab"}
    experiment(turn=2, least=1, spread=1e9)(lambda device: work).measure()
    assert "".join(order) == "aaabbb" + "aabbaabbab"  # the first three of each warm up


def test_rounds_go_on_until_their_medians_are_steady(taking):
    quick, slow = [0.001] * 3, [0.01] * 3
    record = taking(quick, quick, slow, *[quick] * 30, least=3, spread=0.2).measure()
    assert len(record.rounds["work"]) == 5
    assert record.error("work") <= 0.2
    assert record["work"].total == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("rounds", "seconds", "kind", "complaint"),
    [
        ([[0.001], [0.02]], None, UnsteadyError, r"'work' is known to .* make measure NAME=small"),
        ([[0.05] * 100], 0.2, UnsteadyError, "one round takes too long on this machine"),
        ([[]], None, RuntimeError, "work has no steps"),
    ],
)
def test_what_cannot_be_measured_is_refused(taking, rounds, seconds, kind, complaint):
    with pytest.raises(kind, match=complaint):
        taking(*rounds, turn=1, least=3, most=4, spread=0.01).measure(seconds=seconds)
    assert time.perf_counter() < 0.5


def test_a_readers_run_ends_in_time_and_says_how_far_the_rounds_are_apart(taking):
    restless = taking([0.001] * 100, [0.02] * 100, least=3, most=4, spread=0.01)
    record = restless.measure(seconds=3, n=10)
    assert 2.5 < record["work"].seconds.sum() <= 3
    assert record.error("work") > 0.01
    assert record.settings == {"n": 10}


def test_facts_and_what_steps_give_are_kept():
    tokens = torch.tensor([[[7]], [[8]]])
    work = {"a": lambda: iter(tokens), "b": lambda: repeat(lambda: 5, 2), "fact": 3}
    record = experiment(least=1, spread=1e9)(lambda device: work).measure()
    assert (record.facts, record.gave) == ({"fact": 3}, {"a": [7, 8]})
    assert record["b"].seconds.shape[1] == 2
    assert record.timing("a", torch.tensor([[1]])).token_ids.tolist() == [[1, 7, 8]]


GPU = {"device": "cuda", "name": "Some GPU", "versions": {"torch": "2.11.0+cu130"}}


def a_record(**changes):
    machine = {"device": "cpu", "name": "A processor", "cores": 2, "versions": {"torch": "2"}}
    rounds = {"a": [[1.0, 2.0], [3.0, 2.0], [1.0, 50.0]], "b": [[1.0], [1.0], [1.0]]}
    values = ("x", machine, "2026-11-26", "abc", "hash", {}, rounds, {}, {})
    return replace(Record(*values), **changes)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = a_record(rounds={"a": [[0.001235]]}, gave={"a": [None]})
    path = record.write(tmp_path)
    assert path == tmp_path / "cpu" / "x.json"
    assert read(path) == record
    assert replace(record, machine=GPU).write(tmp_path).parent.name == "some-gpu"
    assert [each.device for each in records.records("x", tmp_path)] == ["cpu", "some-gpu"]


@pytest.mark.parametrize("text", [" ", "{", "[]", '{"experiment": "x"}', None])
def test_a_record_that_is_damaged_missing_or_of_another_experiment_is_named(tmp_path, text):
    path = a_record(rounds={"a": [[]]}).write(tmp_path)
    path.write_text(text or path.read_text())
    with pytest.raises(ValueError, match=r"x\.json is no record .*make measure NAME=x"):
        read(path)
    a_record().write(tmp_path).rename(tmp_path / "cpu" / "y.json")
    with pytest.raises(ValueError, match=r"y\.json is no record \(it is one of x on A processor\)"):
        recorded("y", tmp_path)
    with pytest.raises(FileNotFoundError, match="no record of x; make measure NAME=x"):
        recorded("x", tmp_path)


WORK = """
from dataclasses import dataclass
SIZE = 3
makers = {"a": lambda: helper()}
printed = 4
@dataclass
class Half:
    a: int
    def value(self): return 1
class Whole(Half):
    def twice(self): return 2 * self.value()
whole = Whole(1)
def helper(): return "#a"
def work(device):
    return whole.twice() + SIZE, [make() for make in makers.values()]
"""


def hash_of(source):
    """The hash of a function of a notebook whose cell this is."""
    name = f"<cell {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"__name__": "__main__", "In": ["no Python (", source]}
    exec(compile(source, name, "exec"), namespace)
    return code_hash.code_hash(namespace["work"])


@pytest.mark.parametrize(
    ("code", "instead", "counts"),
    [
        ("return 2 * self.value()", "return 2  *  self.value()  # why", False),
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


@pytest.fixture
def toy(tmp_path, monkeypatch, taking):
    """An experiment, and a function that puts it on record, with changes, in another folder."""
    claims = {"it takes time": lambda r: r["work"].total > 0.001}
    toy = taking([0.002, 0.002], least=2, spread=1e9, claims=claims)
    monkeypatch.setattr(records.records, "__defaults__", ("*", tmp_path))
    monkeypatch.setattr(recorded, "__defaults__", (tmp_path,))
    monkeypatch.setattr("kvcache.measurements.showing.SECONDS", 0.05)
    monkeypatch.delenv("KVCACHE_MEASUREMENTS", raising=False)
    return toy, lambda **changes: replace(toy.measure(), **changes).write(tmp_path)


@pytest.mark.parametrize(
    ("mode", "changes", "wrong"),
    [
        ("record", {}, None),
        ("renew", {"code": "other"}, None),  # what is about to change is not checked
        ("record", {"code": "other"}, "of small is of other code; make measure NAME=small"),
        ("record", {"rounds": {"work": [[0.0001]]}}, "does not bear out .*it takes time"),
        ("Record", {}, "KVCACHE_MEASUREMENTS is 'Record'; leave it unset"),
    ],
)
def test_the_build_measures_nothing_and_tells_what_is_true(toy, monkeypatch, mode, changes, wrong):
    toy, put = toy
    put(**changes)
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", mode)
    monkeypatch.setattr(Experiment, "measure", None)
    with pytest.raises(ValueError, match=wrong) if wrong else nullcontext():
        assert measured(toy) == recorded("small")


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
        "the first step is slow": lambda r: r["a"].per_token[0] > 0.9,
        "the large model is wrong": lambda r: r.facts["large"] == 1,
    }
    asked, record = Experiment(None, claims), a_record(facts={"large": 1})
    small, whole = a_record(rounds={"a": [[0.5]]}), a_record(rounds={"a": [[0.5, 0.3]]})
    assert records.broken_claims(asked, record) == []
    assert broken_here(asked, small, record) == ["the first step is slow"]
    assert broken_here(asked, whole, record) == [*claims][:3]


def test_it_says_where_and_of_which_code_it_was_measured_and_links_the_raw_data(monkeypatch):
    gpu = a_record(machine=GPU)
    said = repr(Shown([gpu], code="new"))
    assert "on Some GPU (other code than today's, of commit abc, PyTorch 2.11.0:" in said
    assert "other code" not in repr(Shown([gpu], code="hash"))
    assert "/blob/main/kvcache/measurements/records/some-gpu/x.json" in said
    monkeypatch.setenv("KVCACHE_MEASUREMENTS", "record")
    assert 'href="../records/cpu/x.json"' in Shown([a_record()])._repr_markdown_()


def test_runs_are_compared_over_the_steps_that_both_have_and_facts_stand_side_by_side():
    here = a_record(rounds={"a": [[0.0123456]]}, settings={"n": 1})
    one, other = Shown([a_record()], here).rows()
    assert [re.split(" ±| \\(", cell)[0] for cell in one] == ["a", "1 s", "12.3 ms"]
    assert (other[0], other[2]) == ("b", "")
    facts = {"error": 0.25, "by rank": {"64": [1, 2], "128": 2.5}, "text": "x", "ids": [1] * 9}
    one = a_record(rounds={}, facts=facts)
    rows = [["error", "0.25", "1"], ["by rank, 64, 1", "1", ""], ["by rank, 64, 2", "2", ""]]
    rows.append(["by rank, 128", "2.5", ""])
    assert list(Shown([one], replace(one, facts={"error": 1})).rows()) == rows


def test_an_interruption_keeps_what_was_finished(tmp_path, monkeypatch):
    def run(path, names, seconds, folder):
        if "decoding" in names:
            raise KeyboardInterrupt
        recorded("machine").write(folder)
        yield "machine", None

    monkeypatch.setattr(measure, "measure_in_chapter", run)
    with pytest.raises(KeyboardInterrupt):
        list(measure.measure(["machine", "decoding"], folder=tmp_path))
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
    cells = [f"{CHAPTER}\nmeasured(resting)", "measured(failing)", "raise SystemExit"]
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    told = dict(measure.measure_in_chapter(path, ["resting", "failing", "other"], 1, tmp_path))
    assert told["failing"] == "no luck"
    assert told["other"] == "no cell calls it: measured(other)"
    assert list(read(tmp_path / "cpu" / "resting.json").rounds) == ["rest"]


def test_an_unknown_experiment_and_two_of_one_name_are_refused(monkeypatch, tmp_path, capsys):
    assert measure.main(["nothing"]) == 2
    assert "There is no experiment nothing; there are writing, machine" in capsys.readouterr().out
    twice = tmp_path / "x.ipynb", EXPERIMENTS["machine"]
    monkeypatch.setattr(measure, "in_chapters", lambda: [twice, twice])
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
    rows = {line[:40].strip(): line[40:].split() for line in said.splitlines()}
    assert rows["with a cache"][1] == "1.00"  # of decoding, whose reference it is
    writing = recorded("writing")
    ratio = writing["without a cache"].total / writing["with a cache"].total
    assert f" {ratio:.2f} " in said
    assert 1e9 < bandwidth(recorded("machine")) < 1e12
    assert f"{bandwidth(recorded('machine')) / 1e9:.1f} GB/s read from memory" in said
