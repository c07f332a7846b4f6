"""Programs judged on the load that ships: what each protocol says of the published program and of the proposal after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, explain
from equipoise.errors import ArgumentError, FileError, NotSupportedError
from equipoise.planning.comparing import pack_as_published
from equipoise.planning.planner import plan
from equipoise.scoring.judging import score_programs
from equipoise.scoring.limits import LEAST_MEMORY, Limits
from equipoise.scoring.programs import Program, find_program
from equipoise.scoring.protocols import PROTOCOLS
from equipoise.scoring.ranking import rank_programs
from equipoise.scoring.replayed import difference
from equipoise.scoring.setups import Setup
from equipoise.simulating.policies import PlannedPolicy
from equipoise.simulating.replaying import simulate

from .hostile import GOOD, program

EXAMPLES = Path(__file__).parents[2] / "examples" / "scored"
SETUP = Setup(num_slots=48, num_groups=8, num_nodes=2, num_ranks=16)
SWAP, REBUILD = str(EXAMPLES / "single_swap.py"), str(EXAMPLES / "destroy_and_rebuild.py")


@pytest.fixture(scope="module")
def judged():
    """Score the worked case once."""
    pytest.importorskip("torch")
    names = [SWAP, REBUILD, "equipoise:default", "published:lpt"]
    return dict(zip(("swap", "rebuild", "ours", "lpt"), score_programs(names, LoadTrace.example(), SETUP), strict=True))


@pytest.mark.compiled
@pytest.mark.slow
class TestTheWorkedCase:
    """docs/scoring.md says these things."""

    def test_all_are_accepted(self, judged):
        """And have a score under each protocol."""
        for score in judged.values():
            assert score.is_accepted, score.verdict
            assert list(score.scores) == list(PROTOCOLS)
            assert len(score.seconds) == 30

    def test_v1_to_v3_do_not_move(self, judged):
        """Their balance is the same to the last digit for every packing of the same counts."""
        for name in ("v1", "v2", "v3"):
            swap, rebuild, lpt = (judged[each].scores[name] for each in ("swap", "rebuild", "lpt"))
            assert swap.per_pair == pytest.approx(rebuild.per_pair, abs=1e-12)
            assert swap.per_pair == pytest.approx(lpt.per_pair, abs=1e-12)
        assert judged["swap"].scores["v2"].score == pytest.approx(judged["rebuild"].scores["v2"].score, abs=1e-12)

    def test_they_think_less_of_better_plans(self, judged):
        """Our counts serve the ranks, so slots are less level; v1 to v3 count slots."""
        for name in ("v1", "v2", "v3"):
            balance = {each: score.scores[name].balancedness_slot for each, score in judged.items()}
            assert balance["ours"] < balance["swap"] - 0.1
        assert judged["ours"].scores["equipoise"].score > judged["swap"].scores["equipoise"].score

    def test_v4_and_ours_tell_them_apart(self, judged):
        """On ranks the rebuild is behind the exchange, clearly; both are above DeepSeek's greedy."""
        balance = {each: score.scores["v4"].balancedness_rank for each, score in judged.items()}
        assert balance["ours"] > balance["swap"] > balance["rebuild"] > balance["lpt"]
        for name, score in judged.items():
            assert score.scores["equipoise"].score == pytest.approx(balance[name], abs=1e-12)
        pairs = [judged[name].scores["equipoise"].per_pair for name in ("swap", "rebuild")]
        found = difference(*pairs)
        assert 0.015 < found.low < found.mean < found.high < 0.025

    def test_the_order_is_ours(self, judged):
        """Four places, and each interval behind the first leaves out 0."""
        standings = rank_programs(list(judged.values()), "equipoise")
        names = [judged[each].program.name for each in ("ours", "swap", "rebuild", "lpt")]
        assert [standing.program for standing in standings] == names
        assert [standing.place for standing in standings] == [1, 2, 3, 4]
        assert all(standing.low > 0 for standing in standings[1:])
        assert standings[0].behind == 0

    def test_the_page(self, judged):
        """Balances in the page's table are these."""
        page = (EXAMPLES.parents[1] / "docs" / "scoring.md").read_text()
        table = page.split("The load that ships, 31 windows")[1]
        for each, label in (
            ("swap", "exchanges"),
            ("rebuild", "rebuild"),
            ("lpt", "DeepSeek's"),
            ("ours", "`equipoise:default`"),
        ):
            row = next(line for line in table.splitlines() if line.startswith(f"| {label}"))
            scores = judged[each].scores
            for figure in (
                scores["v1"].balancedness_slot,
                scores["v2"].balancedness_slot,
                scores["v2"].score,
                scores["v4"].balancedness_rank,
                scores["equipoise"].score,
                scores["equipoise"].in_sample,
            ):
                assert f"{figure:.4f}" in row

    def test_why(self):
        """At slot level greedy counts leave packings nothing to lose; at rank level they do."""
        policies = [
            PlannedPolicy(planner=f"ensemble+{refine}", num_groups=8, locality="strict") for refine in ("swap", "reconstruct")
        ]
        trace = LoadTrace(LoadTrace.example().load[:8])
        chains = explain(trace, SETUP.cluster, policies, levels=("slot", "rank"))
        slot_swap, rank_swap, slot_rebuild, rank_rebuild = (chain.terms for chain in chains)
        assert slot_swap == pytest.approx(slot_rebuild)
        assert slot_swap["packing"] == pytest.approx(0, abs=1e-6)
        assert 0 < rank_swap["packing"] < rank_rebuild["packing"]


def test_our_protocol_is_the_simulator(example):
    """Figures are those of simulate() with the same planner, in this process."""
    pytest.importorskip("torch")
    trace = LoadTrace(example.load[:4, :3])
    setup = Setup(40, 1, 1, 8)
    (score,) = score_programs(["equipoise:fast"], trace, setup, protocols=["equipoise"])
    policy = simulate(trace, Cluster(8, 5), [PlannedPolicy(effort="fast")]).policies[0]
    found = score.scores["equipoise"]
    assert found.per_pair == tuple(policy.balancedness.tolist())
    assert (found.worst_layer, found.p5_layer) == (policy.mean_worst_layer, policy.mean_fifth_percentile)
    assert found.moves == policy.moves[1:].mean()
    assert found.duplicates == 0
    in_sample = [plan(step, Cluster(8, 5), effort="fast").balancedness for step in trace.load[:3]]
    assert found.in_sample == pytest.approx(np.mean(in_sample))


def test_refused_programs_have_no_place(example):
    """A program that cheats the public guards gets what they say, our verdict, and no place in any ranking."""
    pytest.importorskip("torch")
    lists = "a, b, c = maps(weight, slots)\nb[:, :, 0] = torch.arange(b.shape[1])\nb[:, 8:, :] = b[:, 8:, :].clamp(min=0)\n"
    cheat = Program("cheat.py", program(lists + "b[:, 0, 1] = 1\nreturn a, b, c"))
    honest, broken = Program("honest.py", program(GOOD)), Program("broken.py", program("1 / 0"))
    trace = LoadTrace(example.load[:6, :2])
    found = score_programs([cheat, honest, broken], trace, Setup(40, 1, 1, 8))
    kinds = [score.verdict.kind for score in found]
    assert kinds == ["maps disagree", "accepted", "raised"]
    assert all(not found[0].scores[name].rejected for name in ("v1", "v2", "v3", "v4"))
    assert found[0].scores["equipoise"] is None
    assert all(found[2].scores[name].rejected == "window 0: no answer" for name in ("v1", "v4"))
    for name in PROTOCOLS:
        assert [standing.program for standing in rank_programs(found, name)] == ["honest.py"]
    told = found[0].as_dict()
    assert (told["is_accepted"], told["verdict"]["kind"], told["calls"]) == (False, "maps disagree", 5)


def test_published_names(example):
    """A name gives the packing as `compare` and policies have it, with its candidates and noise."""
    load = example.load[0]
    for name, packing, noise in (("published:lpt", "lpt", 0.1), ("published:ensemble+swap:128,0.2", "ensemble+swap", 0.2)):
        namespace: dict = {}
        exec(find_program(name).text, namespace)
        phy2log, _, _ = namespace["rebalance_experts"](load[:2], 40, 8, 2, 8)
        placement = pack_as_published(load[:2], Cluster(8, 5, 2), packing, num_groups=8, locality="strict", noise=noise)
        assert np.array_equal(phy2log, placement.expert_of_slot)


@pytest.mark.parametrize(
    ("names", "setup", "protocols", "says"),
    [
        ([], Setup(), ["v1"], "nothing to score"),
        (["equipoise:fast"], Setup(40, 1, 1, 8), [], "nothing to score"),
        (["equipoise:fast", "equipoise:fast"], Setup(40, 1, 1, 8), ["v1"], "given twice"),
        (["equipoise:quick"], Setup(40, 1, 1, 8), ["v1"], "must be one of"),
        (["published:magic"], Setup(40, 1, 1, 8), ["v1"], "magic"),
        (["published:lpt:4"], Setup(40, 1, 1, 8), ["v1"], "leave them out"),
        (["published:ensemble+swap:many"], Setup(40, 1, 1, 8), ["v1"], "try published:"),
        (["equipoise:fast"], Setup(40, 1, 1, 8), ["v9"], "v1, v2, v3, v4, equipoise"),
        (["equipoise:fast"], Setup(40, 1, 1, 8), ["v2"], "v2 needs 6"),
        (["equipoise:fast"], Setup(24, 1, 1, 8), ["v1"], "slots must be 32 to 256"),
        (["equipoise:fast"], Setup(40, 5, 1, 8), ["v1"], "groups must divide experts"),
    ],
)
def test_bad_input(example, names, setup, protocols, says):
    """One clear line, before any work."""
    with pytest.raises(ArgumentError, match=says):
        score_programs(names, LoadTrace(example.load[:5]), setup, protocols=protocols)


def test_bad_files(tmp_path, example):
    """Files that are missing, or no text."""
    (tmp_path / "x.py").write_bytes(b"\xff\xfe")
    for path, says in ((tmp_path / "none.py", "cannot be read"), (tmp_path / "x.py", "no text"), (tmp_path, "cannot be read")):
        with pytest.raises(FileError, match=says):
            score_programs([path], example, SETUP)
    with pytest.raises(ArgumentError, match="out of order"):
        score_programs(["equipoise:fast"], LoadTrace(example.load, is_in_order=False), SETUP)


@pytest.mark.parametrize("sizes", [(40, 8, 4, 32), (64, 8, 3, 32)])
def test_sizes_that_do_not_divide(sizes):
    """Refused where the setup is made."""
    with pytest.raises(ArgumentError, match="must be divisible by"):
        Setup(*sizes)


def test_unprotected_only_when_asked(monkeypatch):
    """Where the kernel cannot confine them, programs of others are refused before any runs; ours are not."""
    monkeypatch.setattr("equipoise.scoring.judging.is_protected", lambda: False)
    mine = Program("mine.py", program(GOOD))
    with pytest.raises(NotSupportedError, match="lacks Landlock"):
        score_programs([mine], LoadTrace.example(), SETUP, protocols=["v4"])


def test_a_program_does_not_judge_the_next():
    """Neither what it does to the process it came from nor its limits change what the next one gets, or our measures."""
    pytest.importorskip("torch")
    sabotage = "import os, resource\nfor what in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS):\n"
    sabotage += "    try: resource.prlimit(os.getppid(), what, (6, 6))\n    except OSError: pass\n"
    programs = [Program("first", program(sabotage + GOOD)), Program("second", program(GOOD))]
    trace = LoadTrace(LoadTrace.example().load[:3])
    scores = score_programs(programs, trace, SETUP, protocols=["v1"], limits=Limits(memory=LEAST_MEMORY))
    assert [score.verdict.kind for score in scores] == ["accepted", "accepted"]
