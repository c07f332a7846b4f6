"""Hypothesis strategies for planning problems."""

from __future__ import annotations

from hypothesis import strategies as st

loads = st.one_of(
    st.integers(0, 9),  # many ties
    st.integers(0, 10_000),
    st.floats(0, 1e6, allow_nan=False).map(lambda x: round(x, 6)),
)


@st.composite
def problems(draw, max_layers=3, max_experts=12, max_ranks=6, locality=False):
    """Draw (load [layers][experts], num_ranks, slots_per_rank, num_nodes, num_groups) that can be planned."""
    nodes = draw(st.sampled_from([1, 2, 3])) if locality else 1
    ranks = nodes * draw(st.integers(1, max(1, max_ranks // nodes)))
    groups = nodes * draw(st.integers(1, 3)) if locality else 1
    experts = groups * draw(st.integers(1, max(1, max_experts // groups)))
    slots = draw(st.integers(-(-experts // ranks), experts // nodes))
    layer = st.lists(loads, min_size=experts, max_size=experts)
    load = draw(st.lists(layer, min_size=1, max_size=max_layers))
    return load, ranks, slots, nodes, groups


@st.composite
def packings(draw, max_rows=3, max_packs=5, max_size=5, with_ids=False):
    """Draw (weight [rows][n], num_packs, ids [n] or None) for balanced_packing."""
    packs = draw(st.integers(1, max_packs))
    n = packs * draw(st.integers(1, max_size))
    weight = draw(st.lists(st.lists(loads, min_size=n, max_size=n), min_size=1, max_size=max_rows))
    if not with_ids:
        return weight, packs, None
    ids = []
    while len(ids) < n:
        ids += [len(set(ids))] * min(draw(st.integers(1, packs)), n - len(ids))
    return weight, packs, ids
