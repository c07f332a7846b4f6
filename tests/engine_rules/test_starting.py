"""What engines serve with before any load is known."""

from equipoise.cluster import Cluster
from equipoise.engines.starting import in_id_order


def test_slots_hold_experts_in_order():
    """Slot s holds expert s modulo experts, in every layer."""
    assert in_id_order(Cluster(2, 2), 2, 3).expert_of_slot.tolist() == [[0, 1, 2, 0]] * 2


def test_ranks_that_are_down_are_left_out():
    """Their slots stay empty; the order goes on behind them."""
    cluster = Cluster(3, 2, alive=[True, False, True])
    assert in_id_order(cluster, 1, 3).expert_of_slot.tolist() == [[0, 1, -1, -1, 2, 0]]
