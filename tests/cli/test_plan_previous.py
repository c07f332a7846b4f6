"""`equipoise plan --previous`: budgets, moves, ranks that come and go, experts that are lost, and the curve."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equipoise import ABSENT, Cluster, Constraints, LoadTrace, MoveBudget, Placement, plan
from equipoise.cli.previous import show_lost
from equipoise.planning.trading import trade_off

LAYER_IDS = (3, 5, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write two loads of 3 layers x 12 experts, and a placement planned for the first."""
    folder = tmp_path_factory.mktemp("files")
    before, load = np.random.default_rng(5).integers(1, 1000, (2, 3, 12)) ** 2
    LoadTrace(load, LAYER_IDS).write(folder / "load.npz")
    plan(before, Cluster(4, 4, 2)).placement.write(folder / "old.json")
    return folder


@pytest.fixture
def command(files):
    """Return the command that plans the load from the placement."""
    return ("plan", files / "load.npz", "--previous", files / "old.json")


def _read(files):
    return LoadTrace.read(files / "load.npz"), Placement.read(files / "old.json")


def test_json(run, files, command):
    """The budget's moves, the balance before and after, and what plan() gives."""
    load, old = _read(files)
    code, out, err = run(*command, "--max-moves", 2, "--expert-bytes", "44MB", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    made = plan(load, old.cluster, previous=old, max_moves=2)
    assert found["balancedness"] == made.balancedness
    assert found["balancedness_before"] == old.balancedness(load)
    assert found["worst_layer_before"] == old.worst_layer(load)
    assert found["per_layer"]["moves"] == made.moves.tolist() == made.placement.moves_from(old).tolist()
    assert (found["moves"], found["most_moves"]) == (made.moves.sum(), 2)
    assert found["mean_moves"] == made.moves.mean()
    assert found["share_moved"] == made.moves.sum() / 48
    assert found["bytes_moved"] == made.moves.sum() * 44e6
    assert found["lost_experts"] == []
    assert (found["ranks"], found["slots"], found["nodes"]) == (4, 16, 2)
    assert "curve" not in found


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        (("--move-total", 4), MoveBudget(total=4)),
        (("--move-bytes", "90MB", "--expert-bytes", "44MB"), MoveBudget(total=2)),
        (("--max-moves", 1, "--move-total", 2), MoveBudget(per_layer=1, total=2)),
        (("--gain-per-move", 0.1), MoveBudget(gain_per_move=0.1)),
        (("--max-moves", 0), MoveBudget(per_layer=0)),
    ],
)
def test_budgets(run, files, command, tmp_path, options, budget):
    """Each option is a part of the budget; the placement that is written is the plan's."""
    load, old = _read(files)
    assert run(*command, *options, "--out", tmp_path / "new.npz", "--quiet") == (0, "", "")
    expected = plan(load, old.cluster, previous=old, budget=budget)
    assert np.array_equal(Placement.read(tmp_path / "new.npz").expert_of_slot, expected.placement.expert_of_slot)


def test_for_people(run, command):
    """Before, after, moves, their share and bytes."""
    code, out, _ = run(*command, "--max-moves", 2, "--expert-bytes", "44MB")
    assert code == 0
    for words in ("before: the previous placement ", "after: this plan", "moves: 6 in all, 2.0 a layer (most 2), 12.50 %"):
        assert words in out
    assert "0.3 GB to receive" in out
    assert "lost" not in out


def test_a_rank_that_is_down(run, files, command, tmp_path):
    """What it alone held is lost, named by layer and expert; the next plan starts with it down unless told otherwise."""
    old = _read(files)[1]
    down = run(*command, "--down", 2, "--out", tmp_path / "new.json")[1]
    found = json.loads(run(*command, "--down", 2, "--json")[1])
    rows = old.expert_of_slot.reshape(3, 4, 4)
    lost = [(x, e) for x in range(3) for e in range(12) if not (np.delete(rows[x], 2, axis=0) == e).any()]
    assert [(one["layer"], one["expert"]) for one in found["lost_experts"]] == lost
    assert [one["layer_id"] for one in found["lost_experts"]] == [LAYER_IDS[x] for x, _ in lost]
    assert 1 < len(lost) <= 5
    assert f"disk: {len(lost)} ({', '.join(f'layer {LAYER_IDS[x]} expert {e}' for x, e in lost)})\n" in down
    assert "4 ranks (1 down)" in down
    assert "before: the previous placement, on its 4 ranks" in down
    new = Placement.read(tmp_path / "new.json")
    assert (new.expert_of_slot[:, 8:12] == ABSENT).all()
    again = ("plan", files / "load.npz", "--previous", tmp_path / "new.json", "--max-moves", 4, "--json", "--out")
    for options, alive in (
        ((), new.cluster.alive),
        (("--down", "none"), (True,) * 4),
        (("--down", "none", "--ranks", 4), (True,) * 4),
    ):
        found = json.loads(run(*again, tmp_path / "next.json", *options)[1])
        assert Placement.read(tmp_path / "next.json").cluster.alive == alive
        assert found["lost_experts"] == []


def test_ranks_added_and_removed(run, files, command, tmp_path):
    """They have as many slots as the others; what a removed rank held can still be sent."""
    load, old = _read(files)
    found = json.loads(run(*command, "--ranks", 6, "--nodes", 3, "--out", tmp_path / "six.json", "--json")[1])
    assert (found["ranks"], found["slots"], found["lost_experts"]) == (6, 24, [])
    six = Placement.read(tmp_path / "six.json")
    expected = plan(load, Cluster(6, 4, 3), previous=old)
    assert np.array_equal(six.expert_of_slot, expected.placement.expert_of_slot)
    assert six.cluster.num_nodes == 3
    back = (
        "plan",
        files / "load.npz",
        "--previous",
        tmp_path / "six.json",
        "--ranks",
        4,
        "--nodes",
        2,
        "--slots",
        18,
        "--json",
    )
    found = json.loads(run(*back)[1])
    assert (found["ranks"], found["slots"], found["lost_experts"]) == (4, 18, [])


def test_least_replicas_and_their_price(run, files, command, tmp_path):
    """With and without a previous placement: what was asked is kept, and the balance without it is told."""
    load, old = _read(files)
    least = ("--max-moves", 4, "--min-replicas", 2, "--hottest", 0.25, "--spread", "nodes")
    code, out, _ = run(*command, *least, "--out", tmp_path / "new.json")
    assert code == 0
    found = json.loads(run(*command, *least, "--json")[1])
    constraints = Constraints(min_replicas=2, hottest=0.25, spread="nodes")
    assert found["balancedness"] == plan(load, old.cluster, previous=old, max_moves=4, constraints=constraints).balancedness
    assert found["unconstrained_balancedness"] == plan(load, old.cluster, previous=old, max_moves=4).balancedness
    price = 100 * (found["unconstrained_balancedness"] - found["balancedness"])
    assert f"2 replicas or more of the hottest 25 % of experts, on nodes of their own, cost {price:.2f} points" in out
    new = Placement.read(tmp_path / "new.json")
    for x in range(3):
        for expert in np.argsort(-load.load[0, x], kind="stable")[:3]:
            assert set(new.slots_of_expert[x, expert] // 8) >= {0, 1}
    fresh = ("plan", files / "load.npz", "--ranks", 8, "--slots", 32, "--min-replicas", 2)
    found = json.loads(run(*fresh, "--json")[1])
    assert found["unconstrained_balancedness"] == plan(load, Cluster(8, 4)).balancedness
    assert "2 replicas or more of every expert, on ranks of their own" in run(*fresh)[1]
    assert json.loads(run(*command, "--json")[1])["unconstrained_balancedness"] is None


def test_the_curve_as_json(run, files, command):
    """In total and layer by layer."""
    load, old = _read(files)
    curve = trade_off(load, old.cluster, old)
    found = json.loads(run(*command, "--curve", "--json")[1])["curve"]
    assert (found["scored"], found["replicas"]) == ("in-sample", 48)
    assert found["total"]["moves"] == curve.total_moves.tolist()
    assert found["total"]["share_moved"] == curve.share_moved.tolist()
    assert found["total"]["balancedness"] == curve.balancedness.tolist()
    assert found["total"]["worst_layer"] == curve.worst_layer.tolist()
    assert found["total"]["knee"] == curve.knee
    for found_layer, number, layer in zip(found["per_layer"], LAYER_IDS, curve.layers, strict=True):
        assert found_layer["layer_id"] == number
        assert found_layer["moves"] == layer.moves.tolist()
        assert found_layer["balancedness"] == layer.balancedness.tolist()
        assert found_layer["knee"] == layer.knee


@pytest.mark.compiled
def test_the_curve_for_people(run, tmp_path, monkeypatch):
    """At round means a layer, at its knee, which is marked, and at its end; within 80 columns."""
    monkeypatch.setattr("equipoise.cli.output.out.width", 80, raising=False)
    load = LoadTrace.example()
    old = plan(load.load[:3], Cluster(8, 5)).placement
    old.write(tmp_path / "old.json")
    LoadTrace(load.load[20:]).write(tmp_path / "load.npz")
    curve = trade_off(load.load[20:], old.cluster, old)
    totals = curve.total_moves.tolist()
    round_means = {max(total for total in totals if total <= 24 * mean) for mean in (0, 1, 2, 4, 8, 16, 32)}
    assert totals[curve.knee] not in round_means
    command = ("plan", tmp_path / "load.npz", "--previous", tmp_path / "old.json", "--curve", "--max-moves", 2)
    lines = run(*command)[1].splitlines()
    title = next(number for number, line in enumerate(lines) if line.startswith("What moves buy"))
    rows = [line.split("│")[1:-1] for line in lines[title:] if line.startswith("│")]
    assert max(map(len, lines[title + 1 : -1])) <= 80
    assert [int(row[1]) for row in rows] == sorted(round_means | {totals[curve.knee], totals[-1]})
    assert [int(row[1]) for row in rows if "knee" in row[0]] == [totals[curve.knee]]
    assert rows[0][3].strip() == f"{100 * curve.balancedness[0]:.2f} %"
    assert rows[-1][2].strip() == f"{100 * totals[-1] / (24 * 40):.2f} %"


@pytest.mark.compiled
def test_optimal_dispatch(run, files, command):
    """Balance before and after, and the curve, are under the split that is planned for."""
    load, old = _read(files)
    found = json.loads(run(*command, "--dispatch", "optimal", "--move-total", 3, "--curve", "--json")[1])
    assert found["balancedness_before"] > old.balancedness(load)
    assert np.isclose(found["curve"]["total"]["balancedness"][0], found["balancedness_before"], rtol=1e-9)
    assert found["balancedness"] >= found["balancedness_before"]


def test_a_previous_placement_with_lost_experts(run, files, tmp_path):
    """Empty slots and experts without any are taken; what had none comes from disk."""
    slots = np.tile(np.arange(16) % 12, (3, 1))
    slots[1] = np.where(slots[1] == 7, ABSENT, slots[1])
    Placement(slots, Cluster(4, 4), 12).write(tmp_path / "holes.json")
    command = ("plan", files / "load.npz", "--previous", tmp_path / "holes.json", "--dispatch")
    for dispatch in ("equal", "optimal"):
        found = json.loads(run(*command, dispatch, "--json")[1])
        assert [(one["layer"], one["expert"]) for one in found["lost_experts"]] == [(1, 7)]


def test_forecasts(run, files, tmp_path):
    """A forecast is planned for from the previous placement, and its curve is on it; several loads at once are refused."""
    old = _read(files)[1]
    trace = LoadTrace(np.random.default_rng(6).integers(1, 1000, (4, 3, 12)))
    trace.write(tmp_path / "steps.npz")
    command = ("plan", tmp_path / "steps.npz", "--previous", files / "old.json", "--forecast")
    found = json.loads(run(*command, "mean:2", "--max-moves", 2, "--curve", "--json")[1])
    made = plan(trace, old.cluster, previous=old, forecast="mean:2", max_moves=2)
    assert found["balancedness"] == made.balancedness
    assert found["curve"]["total"]["balancedness"] == trade_off(made.load, old.cluster, old).balancedness.tolist()
    code, out, err = run(*command, "scenarios:2")
    assert (code, out) == (2, "")
    assert err.startswith("equipoise: a forecast of several loads")


def test_few_lost_experts_are_named(capsys):
    """The first five, and how many more."""
    show_lost([])
    assert capsys.readouterr().out == ""
    show_lost([(1, expert) for expert in range(7)])
    assert "from disk: 7 (layer 1 expert 0, " in (printed := capsys.readouterr().out)
    assert printed.endswith("layer 1 expert 4 and 2 more)\n")


BAD = [
    (("--max-moves", -1), "Invalid value for '--max-moves'"),
    (("--move-total", -1), "Invalid value for '--move-total'"),
    (("--move-bytes", "1GB"), "--move-bytes without --expert-bytes: moves are counted in experts; add --expert-bytes"),
    (("--move-bytes", "-1", "--expert-bytes", "44MB"), "--move-bytes is '-1': it must be a size > 0"),
    (("--expert-bytes", "heavy"), "--expert-bytes is 'heavy': it must be a size > 0"),
    (("--gain-per-move", "-0.1"), "gain_per_move is -0.1: it must be a finite number >= 0"),
    (("--gain-per-move", "nan"), "gain_per_move is nan"),
    (("--min-replicas", 0), "Invalid value for '--min-replicas'"),
    (("--min-replicas", 5), "min_replicas is 5 with 4 ranks"),
    (("--hottest", 0.5), "--hottest without --min-replicas"),
    (("--spread", "nodes"), "--spread without --min-replicas"),
    (("--min-replicas", 2, "--hottest", 1.5), "hottest is 1.5"),
    (("--min-replicas", 2, "--spread", "racks"), "spread is 'racks': it must be one of ranks, nodes"),
    (("--ranks", 6), "6 ranks after 4 with 2 nodes: these do not say what other ranks have; add --nodes"),
    (("--down", 4), "--down names rank 4: ranks are counted 0 to 3"),
    (("--down", "2,3"), "8 slots on the 2 ranks that are up for 12 experts"),
    (("--down", 2, "--max-moves", 0), "a budget of 0 moves a layer, and layer"),
    (("--locality", "soft", "--groups", 4, "--home-share", 0.5), "locality soft: plans from a previous placement"),
    (("--prove",), "--prove with --previous: an exact solver counts neither moves nor replicas"),
]


@pytest.mark.parametrize(("options", "found"), BAD)
def test_bad_input(run, command, tmp_path, monkeypatch, options, found):
    """Exit code 2, one line on stderr, nothing on stdout, no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command, *options, "--out", "new.json")
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--max-moves", 8), "--max-moves without --previous: moves are counted from a placement in use"),
        (("--move-total", 8), "--move-total without --previous"),
        (("--expert-bytes", "44MB"), "--expert-bytes without --previous"),
        (("--gain-per-move", 0.1), "--gain-per-move without --previous"),
        (("--curve",), "--curve without --previous: it shows what moves from a placement buy"),
        (("--min-replicas", 2, "--prove"), "--prove with --min-replicas"),
    ],
)
def test_moves_need_a_previous_placement(run, files, options, found):
    """Without one there is nothing to count from."""
    code, out, err = run("plan", files / "load.npz", "--ranks", 8, "--slots", 32, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")


def test_placements_of_other_models(run, files, tmp_path):
    """Refused by name, before anything is compiled; so are files that are none."""
    Placement([[0, 1, 2, 3]] * 3, Cluster(4, 1), 4).write(tmp_path / "other.json")
    (tmp_path / "none.json").write_text("{}")
    for name, found in (
        ("other.json", "load has 3 layers of 12 experts: this placement has 3 of 4"),
        ("none.json", f"{tmp_path}/none.json is not a placement file"),
        ("missing.json", f"{tmp_path}/missing.json cannot be read"),
    ):
        code, out, err = run("plan", files / "load.npz", "--previous", tmp_path / name, "--ranks", 4, "--slots", 16)
        assert (code, out) == (2, "")
        assert err.startswith(f"equipoise: {found}")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("cluster", "options", "found"),
    [
        (Cluster(3, (6, 5, 4)), ("--ranks", 4), "4 ranks after 3 with slots that differ between ranks"),
        (Cluster(3, 5, rank_speeds=(1, 2, 1)), ("--ranks", 4), "4 ranks after 3 with speeds that differ"),
        (Cluster(3, 5, 2, node_of_rank=(1, 0, 0)), ("--ranks", 4), "4 ranks after 3 with 2 nodes"),
    ],
)
def test_what_the_previous_cluster_does_not_say(run, files, tmp_path, cluster, options, found):
    """Slots and speeds of added ranks are asked for where the others differ; once given they are taken."""
    Placement(np.tile(np.arange(15) % 12, (3, 1)), cluster, 12).write(tmp_path / "uneven.json")
    command = ("plan", files / "load.npz", "--previous", tmp_path / "uneven.json")
    code, out, err = run(*command, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    told = ("--slots", 22, "--speeds", "1,2,1,1", "--nodes", cluster.num_nodes, "--out", tmp_path / "new.json")
    assert run(*command, *options, *told, "--quiet") == (0, "", "")
    new = Placement.read(tmp_path / "new.json").cluster
    assert (new.slots_per_rank, new.rank_speeds) == ((6, 6, 5, 5), (1, 2, 1, 1))
    assert run(*command, "--out", tmp_path / "same.json", "--quiet") == (0, "", "")
    assert Placement.read(tmp_path / "same.json").cluster == cluster
