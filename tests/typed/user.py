"""A user's program, checked by mypy --strict against the installed package: the types that callers rely on."""

from __future__ import annotations

from typing import assert_type

import numpy as np
import numpy.typing as npt

from equipoise import (
    ABSENT,
    BatchPlan,
    Cluster,
    Constraints,
    Controller,
    ControlSettings,
    Dispatch,
    EquipoiseError,
    LoadStream,
    LoadTrace,
    MoveBudget,
    MoveTime,
    Placement,
    Plan,
    RankCost,
    balanced_packing,
    check_schedule,
    dispatch,
    explain,
    plan,
    plan_batch,
    rebalance_experts,
    relabel,
    schedule_moves,
    simulate,
    trade_off,
)


def main() -> None:
    """Every public name, used once."""
    trace = LoadTrace.example()
    cluster = Cluster(num_ranks=8, slots_per_rank=5, alive=[True] * 8)
    result = plan(
        trace, cluster, effort="fast", constraints=Constraints(min_replicas=1), cost=RankCost(per_token=1.0), num_threads=2
    )
    assert_type(result, Plan)
    assert_type(result.placement, Placement)
    slots: npt.NDArray[np.int64] = result.placement.expert_of_slot
    assert_type(result.placement.replica_count, npt.NDArray[np.int64])
    assert_type(result.placement.rank_load(trace.load[0]), npt.NDArray[np.float64])
    assert_type(result.balancedness, float)
    assert_type(result.bound, npt.NDArray[np.float64])
    assert_type(result.gap, npt.NDArray[np.float64])
    assert_type(result.moves, npt.NDArray[np.int64])
    assert_type(ABSENT, int)
    print(slots.shape)

    few = plan(trace.load[1], cluster, previous=result.placement, budget=MoveBudget(per_layer=2))
    schedule = schedule_moves(result.placement, few.placement)
    check_schedule(schedule, result.placement, few.placement)
    assert_type(relabel(few.placement, result.placement), Placement)
    trade_off(trace.load[1], cluster, result.placement)

    split = dispatch(trace.load[-1], result.placement)
    assert_type(split, Dispatch)
    assert_type(split.shares, npt.NDArray[np.float64])
    home = plan(trace, Cluster(8, 4)).placement
    assert_type(plan_batch(trace.load[-1], home, spare_slots=1, move_time=MoveTime(89e-9, 44e6)), BatchPlan)

    found = simulate(trace, cluster, ["last", "auto"])
    assert_type(found.policies[0].mean_balancedness, float)
    assert_type(explain(trace, cluster, ["last"])[0].balancedness["dispatch"], float)

    controller = Controller(cluster, trace.num_layers, trace.num_experts, placement=few.placement, settings=ControlSettings())
    controller.observe(trace.load[0], 0)
    assert_type(controller.decide().code, str)

    stream = LoadStream.open("load.npy")
    assert_type(stream.num_steps, int | None)
    rebalance_experts([[3, 2, 1]], 3, 1, 1, 3)
    balanced_packing([[3.0, 2.0]], 2)
    try:
        LoadTrace.read("dump.npz")
    except EquipoiseError as error:
        print(error)


if __name__ == "__main__":
    main()
