"""``equipoise compare --explain``: where balance is lost, term by term."""

from __future__ import annotations

from typing import Any, cast

from equipoise.cli.output import out, percent, print_json, progress_bar, table, working
from equipoise.cluster import Cluster
from equipoise.simulating.explaining import MEANINGS, TERMS, Chain, Level, explain
from equipoise.simulating.policies import Policy
from equipoise.simulating.warming import warm_up
from equipoise.trace import LoadTrace

_NOTHING = 5e-5
"""Shares up to this print as 0.00 %, or are rounding."""


def show_chains(
    trace: LoadTrace,
    cluster: Cluster,
    policies: list[Policy],
    levels: list[str],
    dispatch: str,
    groups: int,
    locality: str,
    seed: int,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Replay the trace under the policies, and print each one's chain of losses."""
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    with progress_bar("replaying", trace.num_steps, quiet=quiet or json) as advance:
        chains = explain(
            trace,
            cluster,
            policies,
            levels=cast(list[Level], levels),
            dispatch=dispatch,
            num_groups=groups,
            locality=locality,
            seed=seed,
            progress=advance,
        )
    if json:
        setting = {"ranks": cluster.num_ranks, "dispatch": dispatch, "windows": trace.num_steps - 1, "scored": "next-window"}
        print_json({**setting, "chains": [_as_json(chain) for chain in chains]})
    elif not quiet:
        for chain in chains:
            _show(chain)


def _show(chain: Chain) -> None:
    reached = chain.balancedness
    table(
        f"{chain.policy}, {chain.num_slots} slots, dispatch {chain.dispatch}: tokens of the largest {chain.level}s",
        ["term", "what it adds", "tokens", "share", "balance so far"],
        [
            [
                term,
                MEANINGS[term],
                f"{tokens:,.0f}",
                percent(tokens / chain.total if chain.total else 0.0),
                percent(reached[term]),
            ]
            for term, tokens in chain.terms.items()
        ],
        words=["what it adds"],
    )
    out.print(
        f"together {chain.total:,.0f}; balance of all windows' tokens together, so large windows count more",
        soft_wrap=True,
    )
    removed = chain.removed
    if max(removed.values()) > _NOTHING:
        out.print(
            "of the loss (what terms above 0 add to the ideal) the split over replicas takes off "
            f"{percent(removed['dispatch'])}, replicas for the batch {percent(removed['batch'])}",
            soft_wrap=True,
        )


def _as_json(chain: Chain) -> dict[str, Any]:
    return {
        "policy": chain.policy,
        "level": chain.level,
        "slots": chain.num_slots,
        "dispatch": chain.dispatch,
        "total": chain.total,
        "terms": chain.terms,
        "removed": chain.removed,
        "balancedness": chain.balancedness,
        "per_window": dict(zip(TERMS, chain.tokens, strict=True)),
    }
