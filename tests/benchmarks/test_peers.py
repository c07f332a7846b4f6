"""The race track, without a network: the twin, the loads, the scoring, a race with rivals made here, the tables."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))
fetching, figures, loads, racing, reporting, rivals, scoring, shapes, tensorrt, verdicts, worker = (
    importlib.import_module(f"benchmarks.peers.{name}")
    for name in (
        "fetching",
        "figures",
        "loads",
        "racing",
        "reporting",
        "rivals",
        "scoring",
        "shapes",
        "tensorrt",
        "verdicts",
        "worker",
    )
)

TOY = [600, 560, 120, 120, 20, 10, 10, 10]
SMALL = shapes.Shape(8, 16, 4)


class Fixed:
    """A rival that does what a function says, in this process."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls = 0

    def plan(self, load: Any, shape: Any, previous: Any) -> Any:
        """Answer after a millisecond that never was; exceptions become refusals as they do in a worker."""
        self.calls += 1
        try:
            return worker.Reply(0.001, self.answer(load, shape, previous))
        except ValueError as error:
            return worker.Reply(refused=str(error))


def twin(load: Any, shape: Any, _: Any) -> Any:
    """Answer with the TensorRT-LLM twin."""
    return tensorrt.place(load, shape.slots, shape.ranks)


def id_order(load: Any, shape: Any, _: Any) -> Any:
    """Answer with what engines start from."""
    return rivals.initial_placement(shape, len(load))


def raced(answer: Any, name: str = "peer", shape: Any = SMALL, budget_s: float = 60.0, **options: Any) -> Any:
    """Race a function on a small load."""
    race = racing.Race(shape, loads.synthetic("zipf-1.0", shape.experts, layers=3), budget_s)
    rival = rivals.Rival(name, lambda _: None, **options)
    return race.run(rival, Fixed(answer), Fixed(id_order))


def test_twin_on_the_published_toy() -> None:
    """Greedy counts and LPT end at 232 on the published toy, and so does the twin."""
    placed = tensorrt.place(np.array([TOY]), slots=16, ranks=8)
    result = scoring.score(scoring.as_placement(placed, shapes.Shape(8, 16, 8)), shapes.Shape(8, 16, 8), np.array([TOY]))
    assert result.largest.tolist() == [232.0]


def test_twin_counts() -> None:
    """Every further slot goes to the expert with the most load a replica, the lower one on a tie."""
    assert tensorrt.replica_counts([90, 30, 20], slots=6) == [4, 1, 1]
    assert tensorrt.replica_counts([0, 0], slots=4) == [3, 1]


def test_twin_repeats() -> None:
    """The twin fills every rank, and may put an expert twice on one."""
    placed = tensorrt.place(np.array([[100, 1, 1]]), slots=6, ranks=3)
    placement = scoring.as_placement(placed, shapes.Shape(3, 6, 3))
    assert placement.replica_count.tolist() == [[4, 1, 1]]
    assert placement.duplicates.tolist() == [1]


@pytest.mark.parametrize("name", list(loads.POPULARITY))
def test_synthetic_loads(name: str) -> None:
    """Synthetic loads are the same each time, keep their totals, and drift."""
    first, again = loads.synthetic(name, 32), loads.synthetic(name, 32)
    assert np.array_equal(first.windows, again.windows)
    assert (first.windows.sum(axis=2) == 32 * loads.TOKENS_PER_EXPERT).all()
    assert not np.array_equal(first.windows[0], first.windows[1])
    assert first.following(first.planned[-1]) is not None


def test_loads_fit_shapes() -> None:
    """Every shape has synthetic loads with as many experts."""
    for shape in shapes.SHAPES:
        for load in loads.loads_for(shape, tuple(loads.POPULARITY)):
            assert load.windows.shape[2] == shape.experts
            assert load.num_layers == (loads.SCALE_LAYERS if shape.is_scale else loads.SYNTHETIC_LAYERS)


def test_shapes() -> None:
    """Slots divide among ranks, names are told apart, unknown ones refused."""
    assert len({shape.name for shape in shapes.SHAPES}) == len(shapes.SHAPES) == 22
    assert all(shape.slots % shape.ranks == 0 for shape in shapes.SHAPES)
    assert shapes.chosen(["strict"]) == (shapes.STRICT,)
    with pytest.raises(ValueError, match="no shape '1/2/3'"):
        shapes.chosen(["1/2/3"])


def test_invalid_layers() -> None:
    """A lost expert or a parted group makes a layer invalid."""
    shape = shapes.Shape(4, 4, 2, nodes=2, groups=2)
    table = np.array([[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 2]])
    result = scoring.score(scoring.as_placement(table, shape), shape, np.full((3, 4), 10))
    assert result.is_invalid.tolist() == [False, True, True]
    assert result.duplicates.tolist() == [0, 0, 1]


@pytest.mark.parametrize("table", [np.zeros((1, 3), np.int64), np.full((1, 4), 4), np.zeros(4, np.int64)])
def test_wrong_shape(table: Any) -> None:
    """An answer with the wrong shape or an unknown expert is no placement."""
    with pytest.raises(ValueError, match="it returned"):
        scoring.as_placement(table, shapes.Shape(4, 4, 2))


def test_wins() -> None:
    """Layers won with duplicates count apart, invalid ones and those equal but for rounding not at all."""

    def made(largest: list[float], duplicates: list[int], is_invalid: list[bool]) -> Any:
        ideal = np.ones(len(largest))
        return scoring.Score(np.array(largest), ideal, np.array(duplicates), np.array(is_invalid))

    theirs = made([9.0, 9.0, 9.0, 10.0], [0, 1, 0, 0], [False, False, True, False])
    ours = made([10.0, 10.0, 10.0, 10.0 + 1e-12], [0] * 4, [False] * 4)
    assert scoring.wins(theirs, ours) == scoring.Wins(fairly=1, by_duplicates=1)


def test_slot_load() -> None:
    """Slots count their share of the expert's tokens, and add up to all of them."""
    load = np.array([[7, 4, 0]])
    assert rivals.slot_load(load, np.array([[0, 1, 0, 2, 0]])).tolist() == [[3, 4, 2, 0, 2]]


def test_race_scores() -> None:
    """A race scores the window planned and the one after, and repeats fast calls."""
    row, scores = raced(twin)
    load = loads.synthetic("zipf-1.0", 8, layers=3)
    expected, after = [], []
    for window in load.planned:
        placement = scoring.as_placement(twin(load.windows[window], SMALL, None), SMALL)
        expected.append(placement.balancedness(load.windows[window]))
        after.append(placement.balancedness(load.windows[window + 1]))
    assert row.by_window == pytest.approx(expected)
    assert (row.balancedness, row.next_window) == pytest.approx((np.mean(expected), np.mean(after)))
    assert list(scores) == list(load.planned)
    assert (row.calls, row.windows, row.times_default) == (racing.MIN_CALLS, 4, 1.0)


def test_moves() -> None:
    """Placements that stay move nothing."""
    assert raced(id_order)[0].moves == 0.0


def test_untimed() -> None:
    """An untimed rival plans each window once and has no times."""
    row, _ = raced(twin, is_timed=False)
    assert (row.calls, row.median_ms, row.times_default) == (4, None, None)


def test_budget() -> None:
    """The budget ends a lap, though never before the first window."""
    row, _ = raced(twin, budget_s=0.0)
    assert (row.windows, row.calls) == (1, 1)


def test_raising() -> None:
    """A rival that raises is refused; one that raises once keeps its other windows."""

    def never(*_: Any) -> Any:
        raise ValueError("more redundant slots than ranks")

    row, scores = raced(never)
    assert (row.status, row.balancedness, scores) == ("refused: more redundant slots than ranks", None, {})
    seen: list[int] = []

    def once(load: Any, shape: Any, previous: Any) -> Any:
        seen.append(len(load))
        return never() if len(seen) == 3 else twin(load, shape, previous)

    row, _ = raced(once)
    assert (row.status, row.windows, row.failed_calls) == ("ok", 3, 1)


def test_no_group_rule() -> None:
    """A rival without the group rule does not run where groups stay whole."""
    row, _ = raced(twin, shape=shapes.Shape(8, 16, 4, nodes=2, groups=4), keeps_groups=False)
    assert row.status == racing.NO_GROUP_RULE


def test_worker() -> None:
    """A rival answers from a process of its own, and what it raises comes back as a refusal."""
    running = worker.Worker(worker.Setting(rivals.PEERS[-1]))
    try:
        load = loads.synthetic("lognormal", 8, layers=2).windows[0]
        reply = running.plan(load, SMALL, rivals.initial_placement(SMALL, 2))
        assert np.array_equal(reply.expert_of_slot, twin(load, SMALL, None))
        refused = running.plan(np.zeros(3, np.int64), SMALL, load)
        assert refused.expert_of_slot is None
        assert refused.refused.startswith("TypeError")
    finally:
        running.close()


def cell() -> list[Any]:
    """Return our ``default``, faked by the twin, and a peer that starts from id order, compared."""
    ours, scores = raced(twin, rivals.DEFAULT)
    peer, theirs = raced(id_order)
    return [ours, racing.compared(peer, theirs, scores)]


def test_verdict_windows() -> None:
    """A verdict compares on the windows the peer planned."""
    ours, peer = cell()
    (verdict,) = verdicts.verdicts([ours, peer])
    assert verdict.ours == pytest.approx(ours.balancedness)
    assert (verdict.peer, verdict.theirs, verdict.is_won) == ("peer", peer.balancedness, True)
    _, scores = raced(twin)
    first = dict([next(iter(scores.items()))])
    assert racing.compared(peer, first, scores).default_balancedness == pytest.approx(ours.by_window[0])


def test_invalid_peer() -> None:
    """A peer with an invalid layer decides nothing."""
    ours, peer = cell()
    assert verdicts.verdicts([ours, replace(peer, invalid_layers=1)]) == []


def test_earlier_figures() -> None:
    """Earlier figures are checked only on all their windows."""
    row = racing.Row("256/288/32", "GLM", "FlashLB", balancedness=0.9928, next_window=0.72, windows=48)
    assert [check.is_met for check in verdicts.checks([row])] == [True, False]
    assert verdicts.checks([replace(row, windows=3)]) == []


def test_known_figures() -> None:
    """Every known figure belongs to a shape of the race."""
    names = {shape.name for shape in shapes.SHAPES}
    assert {key[0] for key in (*figures.EVOLVED, *figures.MEASURED_BEFORE)} <= names


def test_markdown(tmp_path: Path) -> None:
    """The whole race makes a Markdown table of at most forty lines and a headline, and a JSON result."""
    rows = []
    for shape in shapes.SHAPES:
        recorded = [] if shape.is_scale or shape.experts not in loads.RECORDED else [loads.RECORDED[shape.experts][0]]
        for load in recorded + (["zipf-1.0"] if shape.is_scale else list(loads.POPULARITY)):
            for name in (rivals.DEFAULT, "vLLM default"):
                rows.append(
                    racing.Row(
                        shape.name,
                        load,
                        name,
                        is_ours=name == rivals.DEFAULT,
                        balancedness=0.9,
                        default_balancedness=0.95,
                        times_default=9.0,
                    )
                )
    facts = reporting.environment([])
    table = reporting.markdown(rows, facts).splitlines()
    assert len(table) <= 40 + 5
    assert "| 256/288/32 | GLM | 0.9000 | vLLM default | 0.9000 | 0.9000 | 9.0 |" in table
    reporting.save(tmp_path / "result.json", rows, facts)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert len(saved["rows"]) == len(rows)
    assert saved["verdicts"][0]["is_won"] is True
    assert saved["threads"] == 1


def test_extraction(tmp_path: Path) -> None:
    """Planner files leave a wheel unchanged, and nothing else does."""
    archive = tmp_path / "peer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("peer/plan/core.py", "x = 1\r\n")
        made.writestr("peer/plan/kernel.so", "binary")
        made.writestr("peer/other.py", "y = 2\n")
    digest = fetching.extract(archive, "peer/plan/", tmp_path / "out")
    found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [(path.name, path.read_bytes()) for path in found] == [("core.py", b"x = 1\r\n")]
    assert digest == fetching.extract(archive, "peer/plan/", tmp_path / "out")
    with pytest.raises(fetching.NotToBeHadError, match="has no"):
        fetching.extract(archive, "peer/gone/", tmp_path / "out")


def test_missing_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that cannot be had says why."""
    monkeypatch.setattr(fetching, "_pip", lambda *_: "ERROR: No matching distribution found")
    source = fetching.obtain("vllm", tmp_path)
    assert source.folder is None
    assert source.missing == "no wheel of vllm==0.33.0: ERROR: No matching distribution found"
