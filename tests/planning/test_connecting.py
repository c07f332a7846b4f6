"""Plans for optimal dispatch: strict, bounded, the same for any threads, and level on windows that nobody knew of."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import INTERPRETED
from equipoise import Cluster, LoadTrace, Placement, RankCost, plan
from equipoise.constraints import Constraints
from equipoise.dispatching.splitting import dispatch
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.planning.connecting import MANNERS, WINDOWS, plan_for_dispatch
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.problem import make_problem
from equipoise.planning.proving import prove
from strategies import loads

SPEEDS = st.sampled_from([1e-3, 0.5, 1.0, 1.0, 2.0, 1e3])
SCALES = st.sampled_from([1.0, 1.0, 1e-250, 1e-9, 1e12, 1e250])


@st.composite
def tasks(draw, max_ranks=6, max_experts=10, max_windows=3):
    """Draw (load [layers][experts], cluster, windows): rooms and speeds may differ, ranks be down, few or many spare slots."""
    ranks, experts = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_experts))
    is_up = draw(st.one_of(st.just([True] * ranks), st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any)))
    least = -(-experts // sum(is_up))
    room = draw(
        st.one_of(
            st.integers(least, experts).map(lambda k: [k] * ranks),
            st.just([experts] * ranks),
            st.lists(st.integers(1, experts), min_size=ranks, max_size=ranks).filter(
                lambda room: sum(k for k, up in zip(room, is_up, strict=True) if up) >= experts
            ),
        )
    )
    speed = draw(st.one_of(st.just([1.0] * ranks), st.lists(SPEEDS, min_size=ranks, max_size=ranks)))
    layer = st.one_of(
        st.just([0.0] * experts),
        st.integers(0, experts - 1).map(lambda hot: [1e6 * (e == hot) for e in range(experts)]),
        st.lists(loads, min_size=experts, max_size=experts),
    )
    layers, scale = draw(st.integers(1, 2)), draw(SCALES)
    several = st.lists(st.lists(layer, min_size=layers, max_size=layers), min_size=0, max_size=max_windows)
    load = np.array(draw(st.lists(layer, min_size=layers, max_size=layers)), float) * scale
    windows = np.array(draw(several), float).reshape(-1, layers, experts) * scale
    return load, Cluster(ranks, room, rank_speeds=speed, alive=is_up), windows


def _bytes(found):
    return [getattr(found, name).tobytes() for name in ("slots", "largest", "bound", "home_share", "home_of_group")]


@given(tasks(), st.sampled_from(list(EFFORTS)))
def test_plans_are_strict_and_their_figures_are_those_of_dispatch(task, effort):
    """Every live slot is filled, and largest, balance, bound and gap are those of the load split optimally."""
    load, cluster, _ = task
    found = plan(load, cluster, dispatch="optimal", effort=effort)
    found.placement.validate()
    is_up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    assert (found.placement.expert_of_slot[:, is_up] >= 0).all()
    split = dispatch(found.load, found.placement)
    np.testing.assert_allclose(found.largest, split.largest, rtol=1e-9)
    assert found.balancedness == pytest.approx(split.balancedness, rel=1e-9)
    assert found.worst_layer == pytest.approx(split.worst_layer, rel=1e-9)
    np.testing.assert_allclose(found.ideal, split.ideal, rtol=1e-12)
    assert (found.bound <= found.largest).all()
    assert (found.bound >= found.ideal * (1 - 1e-9)).all()
    assert (found.gap >= 0.0).all()
    np.testing.assert_allclose(found.bound * (1.0 + found.gap), found.largest, rtol=1e-9)
    assert (found.dispatch, found.effort, found.locality, found.num_loads) == ("optimal", effort, "none", 1)
    assert found.moves.tolist() == [0] * len(load)
    assert found.is_reproducible


@given(tasks(), st.sampled_from(list(EFFORTS)))
@settings(max_examples=60)
def test_windows_are_looked_at_and_figures_stay_those_of_the_forecast(task, effort):
    """With past windows too plans are strict, and scored on the forecast alone."""
    load, cluster, windows = task
    problem = make_problem(load, cluster)
    found = plan_for_dispatch(problem, windows, effort)
    placement = Placement(found.slots, cluster, load.shape[1])
    placement.validate()
    np.testing.assert_allclose(found.largest, dispatch(load, placement).largest, rtol=1e-9)
    assert (found.bound <= found.largest * (1 + 1e-9)).all()
    assert found.home_share.tolist() == [1.0] * len(load)


@given(tasks(), st.sampled_from([2.0**-40, 0.5, 2.0, 2.0**40]), st.sampled_from([2.0**-20, 4.0, 2.0**20]))
@settings(max_examples=60)
def test_the_unit_of_loads_and_speeds_changes_nothing(task, factor, faster):
    """Loads, windows and speeds times powers of two give the same slots, and times and bounds that are so to the last bit."""
    load, cluster, windows = task
    load, windows = np.where(load > 1e200, load * 1e-200, load), np.where(windows > 1e200, windows * 1e-200, windows)
    speeds = [faster * v for v in cluster.rank_speeds]
    other = Cluster(cluster.num_ranks, cluster.slot_counts.tolist(), rank_speeds=speeds, alive=cluster.alive)
    one = plan_for_dispatch(make_problem(load, cluster), windows)
    two = plan_for_dispatch(make_problem(load * factor, other), windows * (factor * 8.0))
    assert one.slots.tobytes() == two.slots.tobytes()
    assert (one.largest * factor / faster).tolist() == two.largest.tolist()
    assert (one.bound * factor / faster).tolist() == two.bound.tolist()


@pytest.mark.parametrize("faster", [2.0**-300, 2.0**300])
def test_speeds_in_any_unit_that_a_cluster_takes(skewed, faster):
    """Speeds are relative: the least and largest that a cluster takes give the plan that 1 gives."""
    one, two = (plan(skewed[:2], Cluster(8, 9, rank_speeds=[v] * 8), dispatch="optimal") for v in (1.0, faster))
    assert two.balancedness == pytest.approx(one.balancedness, rel=1e-9)
    assert one.placement.expert_of_slot.tobytes() == two.placement.expert_of_slot.tobytes()


def test_a_rank_as_slow_as_can_be_costs_no_more_than_under_an_ordinary_plan():
    """Even with a rank of speed 1e-90 beside others of 1 the plan is no worse than the ordinary one, split optimally."""
    load = np.random.default_rng(0).random((3, 16)) ** 2 * 1000
    cluster = Cluster(4, 5, rank_speeds=[1e-90, 1.0, 1.0, 1.0])
    ordinary = dispatch(load, plan(load, cluster).placement)
    assert plan(load, cluster, dispatch="optimal").largest.sum() <= ordinary.largest.sum() * 1.003


def _swinging(skewed, count=5):
    rng = np.random.default_rng(1)
    return skewed * rng.uniform(0.3, 1.7, (count, *skewed.shape))


@pytest.mark.parametrize(
    "cluster", [Cluster(8, 9), Cluster(8, 16), Cluster(4, [20, 18, 17, 16], rank_speeds=[1, 2, 1, 1]), Cluster(1, 64)]
)
def test_threads_and_the_order_of_layers_change_nothing(skewed, cluster):
    """Any number of threads and any time gives the same bytes, shuffled layers the same rows, shuffled."""
    windows = _swinging(skewed)
    problem = make_problem(skewed, cluster)
    one = plan_for_dispatch(problem, windows)
    order = [3, 1, 5, 0, 4, 2]
    shuffled = plan_for_dispatch(make_problem(skewed[order], cluster), np.ascontiguousarray(windows[:, order]))
    for threads in (1, 2, 3, 64):
        assert _bytes(plan_for_dispatch(problem, windows, num_threads=threads)) == _bytes(one)
    for name in ("slots", "largest", "bound"):
        assert getattr(one, name)[order].tobytes() == getattr(shuffled, name).tobytes()


@pytest.mark.parametrize("forecast", [None, "last", "scenarios:3"])
def test_threads_change_no_figure_of_a_plan(skewed, forecast):
    """The same through plan(), with and without a forecast."""
    windows = _swinging(skewed)
    one, *many = (plan(windows, Cluster(8, 9), dispatch="optimal", forecast=forecast, num_threads=n) for n in (1, 2, 3))
    for other in many:
        assert one.placement.expert_of_slot.tobytes() == other.placement.expert_of_slot.tobytes()
        assert (one.largest.tobytes(), one.bound.tobytes()) == (other.largest.tobytes(), other.bound.tobytes())


def _least_time(load, held):
    """Least largest rank load of any split: the most that any set of ranks proves, all sets tried; held are sets of experts."""
    ranks = [{r for r, own in enumerate(held) if e in own} for e in range(len(load))]
    sets = [set(c) for n in range(1, len(held) + 1) for c in itertools.combinations(range(len(held)), n)]
    return max(sum(x for x, own in zip(load, ranks, strict=True) if own <= chosen) / len(chosen) for chosen in sets)


def _best_of_all(load, num_ranks, slots):
    """Least time over all strict placements that fill every slot, each split optimally."""
    choices = [set(c) for c in itertools.combinations(range(len(load)), slots)]
    every = set(range(len(load)))
    # Ranks are alike, so their order is nothing.
    placements = itertools.combinations_with_replacement(choices, num_ranks)
    return min(_least_time(load, held) for held in placements if set().union(*held) == every)


@pytest.mark.parametrize(("ranks", "slots", "experts"), [(3, 2, 5), (3, 3, 4), (2, 3, 5), (4, 2, 4), (3, 2, 6)])
def test_between_the_bound_and_the_best_of_all_placements(ranks, slots, experts):
    """On tiny problems all strict placements are tried: none ends before the bound, and plans are near the best on average."""
    rng = np.random.default_rng(8)
    ratios = []
    for _ in range(4 if INTERPRETED else 12):
        load = np.floor(rng.random(experts) ** 2 * 50)
        found = plan(load[np.newaxis], Cluster(ranks, slots), dispatch="optimal")
        best = _best_of_all(load.tolist(), ranks, slots)
        assert found.bound[0] <= best * (1 + 1e-12)
        assert found.largest[0] >= best * (1 - 1e-12)
        ratios.append(found.largest[0] / best)
    assert np.mean(ratios) < 1.12
    assert max(ratios) < 1.5


@pytest.mark.parametrize(
    ("load", "cluster"),
    [
        ([[5, 4, 3, 2]], Cluster(4, 4)),  # every rank has every expert
        ([[9, 0, 0, 0]], Cluster(4, 2)),  # one hot expert has replicas everywhere
        ([[7, 3, 5]], Cluster(1, 3)),
        ([[0, 0, 0, 0]], Cluster(2, 3)),
        ([[3, 3, 3, 3]], Cluster(4, 1)),
    ],
)
def test_level_where_it_is_plain_how(load, cluster):
    """Each of these can lie level, and does."""
    found = plan(load, cluster, dispatch="optimal")
    assert found.largest == pytest.approx(found.ideal)
    assert found.balancedness == pytest.approx(1.0)


def test_no_layer_is_worse_for_a_higher_effort(skewed):
    """Without windows a later manner is taken only where it ends the layer's load earlier (docs/semantics.md, 12)."""
    assert set(MANNERS) == set(EFFORTS)
    for cluster in (Cluster(8, 9), Cluster(24, 3), Cluster(16, 5)):
        largest = [plan(skewed, cluster, dispatch="optimal", effort=effort).largest for effort in EFFORTS]
        assert all((high <= low * (1 + 1e-12)).all() for low, high in itertools.pairwise(largest))


def test_without_a_forecast_steps_are_added_up_in_any_order(skewed):
    """The order of steps says nothing, and their sum alone gives the same plan."""
    steps = np.floor(_swinging(skewed))
    one = plan(steps, Cluster(8, 9), dispatch="optimal")
    for other in (steps[::-1], steps.sum(axis=0)):
        assert plan(other, Cluster(8, 9), dispatch="optimal").placement.expert_of_slot.tobytes() == (
            one.placement.expert_of_slot.tobytes()
        )
    np.testing.assert_array_equal(one.load, steps.sum(axis=0))


def test_with_a_forecast_past_windows_are_looked_at_the_last_ones_only(skewed):
    """Windows before the forecast change the plan, those of long ago do not; the load planned for is the forecast."""
    windows = _swinging(skewed, WINDOWS + 4)
    cluster = Cluster(8, 9)
    found = plan(windows, cluster, dispatch="optimal", forecast="last")
    np.testing.assert_array_equal(found.load, windows[-1])
    without = plan(windows[-1], cluster, dispatch="optimal", forecast="last")
    assert found.placement.expert_of_slot.tobytes() != without.placement.expert_of_slot.tobytes()
    windows[:4] = windows[:4, :, ::-1]
    again = plan(windows, cluster, dispatch="optimal", forecast="last")
    assert again.placement.expert_of_slot.tobytes() == found.placement.expert_of_slot.tobytes()
    windows[4] = windows[4, :, ::-1] ** 2
    assert plan(windows, cluster, dispatch="optimal", forecast="last").placement.expert_of_slot.tobytes() != (
        found.placement.expert_of_slot.tobytes()
    )


@pytest.mark.parametrize("forecast", ["last", "mean:3", "auto", "scenarios:3"])
def test_later_windows_have_no_part(example, forecast):
    """A plan from a trace's first windows is the same whatever comes after them."""
    trace = example.load[:8, :3].astype(float)
    other = trace.copy()
    other[5:] = other[5:, :, ::-1]
    one, two = (plan(LoadTrace(t[:5]), Cluster(8, 5), dispatch="optimal", forecast=forecast) for t in (trace, other))
    assert one.placement.expert_of_slot.tobytes() == two.placement.expert_of_slot.tobytes()


@pytest.mark.parametrize("forecast", ["scenarios:3", "steps"])
def test_several_loads(skewed, forecast):
    """Planned for together: the figures are on their mean, split optimally."""
    windows = np.floor(_swinging(skewed, 3))
    found = plan(windows, Cluster(8, 9), dispatch="optimal", forecast=forecast)
    assert found.num_loads == 3
    found.placement.validate()
    np.testing.assert_allclose(found.largest, dispatch(found.load, found.placement).largest, rtol=1e-9)
    if forecast == "steps":
        np.testing.assert_allclose(found.load, windows.mean(axis=0), rtol=1e-12)


def test_whole_tokens_of_any_kind_are_the_same_load(skewed):
    """Integers of any width and floats give the same bytes, with windows and without."""
    windows = np.floor(_swinging(skewed, 3) / 500)
    for forecast in (None, "last"):
        plans = [
            plan(windows.astype(kind), Cluster(8, 9), dispatch="optimal", forecast=forecast)
            for kind in (np.float64, np.int64, np.int32, np.float32)
        ]
        assert len({found.placement.expert_of_slot.tobytes() for found in plans}) == 1


def test_windows_count_alike_however_large_they_are(skewed):
    """Each window is looked at in shares: one times a power of two changes nothing."""
    windows = _swinging(skewed)
    problem = make_problem(skewed, Cluster(8, 9))
    other = windows * np.array([8.0, 0.25, 1.0, 64.0, 2.0**-10])[:, np.newaxis, np.newaxis]
    assert _bytes(plan_for_dispatch(problem, windows)) == _bytes(plan_for_dispatch(problem, other))


def test_ranks_that_are_down_stay_empty(skewed):
    """Their slots hold ABSENT, the others are filled."""
    found = plan(skewed, Cluster(4, 30, alive=[True, False, True, True]), dispatch="optimal")
    assert (found.placement.expert_of_slot[:, 30:60] == -1).all()
    assert (np.delete(found.placement.expert_of_slot, np.s_[30:60], axis=1) >= 0).all()


def test_what_was_given_is_left_as_it_was(skewed):
    """Loads and windows are read, read-only ones too."""
    windows = _swinging(skewed)
    kept = windows.copy()
    windows.setflags(write=False)
    plan_for_dispatch(make_problem(skewed, Cluster(8, 9)), windows)
    plan(windows, Cluster(8, 9), dispatch="optimal", forecast="last")
    assert np.array_equal(windows, kept)


@pytest.mark.parametrize(
    ("cluster", "change", "said"),
    [
        (Cluster(4, 3, 2), {"num_groups": 2, "locality": "strict"}, r"locality strict under optimal .*; take locality none"),
        (
            Cluster(4, 3, 2),
            {"num_groups": 2, "locality": "soft", "constraints": Constraints(home_share=0.5)},
            r"locality soft under optimal dispatch: .*; take locality none",
        ),
        (Cluster(4, 3), {"cost": RankCost(per_active=3.0)}, r"a cost other than tokens under optimal .*; leave the cost out"),
        (Cluster(4, 3), {"cost": RankCost(per_rank=1.0)}, r"a cost other than tokens under optimal .*; leave the cost out"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(cluster, change, said):
    """Locality rules over nodes and costs, with the rule and what to do."""
    with pytest.raises(NotSupportedError, match=said):
        plan(np.arange(1.0, 9.0)[np.newaxis], cluster, dispatch="optimal", **change)


def test_a_locality_rule_on_one_node_rules_nothing():
    """The plan is that without the rule."""
    load = np.arange(1.0, 9.0)[np.newaxis]
    plans = [
        plan(load, Cluster(4, 3), num_groups=2, locality=locality, dispatch="optimal").placement.expert_of_slot.tolist()
        for locality in ("none", "strict")
    ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("given", ["best", "batch:1", "", None, 3])
def test_other_ways_to_dispatch_are_refused(given):
    """Plans are for an even split or an optimal one."""
    with pytest.raises(ArgumentError, match=r"dispatch is .*equal.*optimal"):
        plan([[4, 3, 2, 1]], Cluster(2, 3), dispatch=given)


@pytest.mark.parametrize(
    ("change", "said"), [({"effort": "turbo"}, "effort is 'turbo'"), ({"num_threads": 0}, "num_threads is 0")]
)
def test_bad_settings_are_named(change, said):
    """Effort and threads, as for any plan."""
    with pytest.raises(ArgumentError, match=said):
        plan_for_dispatch(make_problem([[4, 3, 2, 1]], Cluster(2, 3)), np.empty((0, 1, 4)), **change)


def test_there_is_no_proof_of_such_a_plan():
    """prove() knows even splits only, and says so."""
    pytest.importorskip("ortools")
    load = [[9, 7, 5, 3, 1]]
    with pytest.raises(NotSupportedError, match=r"the plan is for optimal dispatch: .*; plan with dispatch equal"):
        prove(plan(load, Cluster(3, 2), dispatch="optimal"), load)


def _next_windows(skewed, count):
    """Yield loads that may follow: some experts' loads exchanged, all of them swinging."""
    rng = np.random.default_rng(21)
    for _ in range(count):
        after = skewed * rng.uniform(0.5, 1.6, skewed.shape)
        first, second = rng.permutation(skewed.shape[1])[:12].reshape(2, 6)
        after[:, first], after[:, second] = after[:, second].copy(), after[:, first].copy()
        yield after


@pytest.mark.parametrize("cluster", [Cluster(8, 9), Cluster(8, 12), Cluster(16, 6)])
def test_what_nobody_knew_of_is_split_more_evenly(skewed, cluster):
    """Loads shuffled and swinging lie at least a tenth nearer to level than over the ordinary plan's replicas."""
    ours, ordinary = (plan(skewed, cluster, dispatch=way).placement for way in ("optimal", "equal"))
    lost = np.array(
        [
            [1.0 - dispatch(after, placement).balancedness for placement in (ours, ordinary)]
            for after in _next_windows(skewed, 8)
        ]
    ).mean(axis=0)
    assert lost[0] < 0.9 * lost[1]


@pytest.mark.compiled
@pytest.mark.parametrize("forecast", ["last", "auto"])
@pytest.mark.parametrize(("cluster", "part"), [(Cluster(8, 5), 0.4), (Cluster(16, 3), 0.7)])
def test_the_recorded_load_gains(example, cluster, forecast, part):
    """On the load that ships, next windows split optimally lose far less than over the ordinary plan's replicas."""
    lost = []
    for end in range(16, 31, 2):
        past, after = LoadTrace(example.load[:end]), example.load[end]
        plans = [plan(past, cluster, forecast=forecast, dispatch=way) for way in ("optimal", "equal")]
        lost.append([1.0 - dispatch(after, found.placement).balancedness for found in plans])
    ours, ordinary = np.mean(lost, axis=0)
    assert ours < part * ordinary


@pytest.mark.compiled
def test_from_the_command_line(run, tmp_path):
    """`plan --dispatch optimal` gives plan()'s figures and placement, says so in its table, and refuses a proof."""
    path = "src/equipoise/data/gpt-oss-20b-decode.npz"
    command = ("plan", path, "--ranks", 8, "--slots", 40, "--dispatch", "optimal")
    code, said, _ = run(*command, "--json", "--out", tmp_path / "plan.json")
    assert code == 0
    found = json.loads(said)
    expected = plan(LoadTrace.read(path), Cluster(8, 5), dispatch="optimal")
    assert found["dispatch"] == "optimal"
    assert found["balancedness"] == expected.balancedness
    assert found["per_layer"]["bound"] == expected.bound.tolist()
    written = Placement.read(tmp_path / "plan.json")
    assert written.expert_of_slot.tobytes() == expected.placement.expert_of_slot.tobytes()
    assert "under optimal dispatch" in run(*command)[1]
    code, _, complaint = run(*command, "--prove")
    assert code != 0
    assert "plan with dispatch equal" in complaint
    code, _, complaint = run(*command[:-1], "optimum")
    assert code != 0
    assert "dispatch is 'optimum'" in complaint
