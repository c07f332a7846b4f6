"""Ranks agree, or all of them learn that they do not: threads over a store in memory, and gloo processes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import distributed  # noqa: E402

from equipoise.plugins.agreeing import DisagreementError, Group, global_rank, world  # noqa: E402
from equipoise.plugins.answering import Answerer, Refusal  # noqa: E402
from equipoise.plugins.deciding import Call  # noqa: E402
from equipoise.plugins.settings import Settings  # noqa: E402

SIZE = 4
SCRIPT = Path(__file__).with_name("ranks.py")


def on_all(function, size: int = 3, wait_seconds: float = 5.0):
    """Run a function of a group on all its ranks at once; return what each returned or raised."""
    store = distributed.HashStore()

    def run(rank: int):
        try:
            return function(Group(store, rank, size, "test", wait_seconds))
        except DisagreementError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


class TestGroup:
    """Over a store in memory."""

    def test_equal(self):
        assert on_all(lambda group: group.compare("settings", "same")) == [None] * 3

    def test_unequal_is_raised_on_all(self):
        found = on_all(lambda group: group.compare("settings", "odd" if group.rank == 1 else "same"))
        assert len({str(error) for error in found}) == 1
        assert "ranks 0, 2 say same; ranks 1 say odd" in str(found[0])

    def test_silent(self):
        found = on_all(lambda group: group.rank == 1 or group.compare("settings", "same"), wait_seconds=0.05)
        assert found[1] is True
        assert "waited 0.05 s for rank 1 on settings" in str(found[0])
        assert "rank 1" in str(found[2])

    @pytest.mark.parametrize("plan", [np.arange(-1, 5).reshape(2, 3), "out of memory\nindeed", np.zeros((1, 0), np.int64)])
    def test_handed_over(self, plan):
        def take(group):
            if group.rank:
                return group.take_over(3, "digest")
            return group.hand_over(3, "digest", plan)

        for taken in on_all(take)[1:]:
            if isinstance(plan, str):
                assert taken == plan
            else:
                assert (taken.dtype, taken.tolist()) == (np.int64, plan.tolist())

    def test_another_call_is_raised_on_all(self):
        def take(group):
            return group.take_over(0, f"digest {group.rank}") if group.rank else group.hand_over(0, "digest 1", "reason")

        found = on_all(take)
        assert len({str(error) for error in found}) == 1
        assert "call 0 has other arguments on ranks 2 than on the first rank" in str(found[0])

    @pytest.mark.parametrize("digests", [("", "a", "b"), ("a", "", "a")])
    def test_a_call_that_cannot_be_read_agrees_with_any(self, digests):
        def take(group):
            mine = digests[group.rank]
            return group.take_over(0, mine) if group.rank else group.hand_over(0, mine, "reason")

        assert on_all(take) == [None, "reason", "reason"]

    def test_a_rank_that_does_not_ask_is_raised_on_the_others(self):
        def take(group):
            if group.rank == 2:
                return None
            return group.take_over(0, "digest") if group.rank else group.hand_over(0, "digest", "reason")

        found = on_all(take, wait_seconds=0.1)
        assert "waited 0.1 s for rank 2 to make call 0" in str(found[0])
        assert isinstance(found[1], DisagreementError)

    def test_nothing_stays_in_the_store(self):
        seen = []

        def take(group):
            seen.append(group.store)
            for number in range(4):
                group.take_over(number, "") if group.rank else group.hand_over(number, "", "reason")
                group.compare(f"topic {number}", "same")
                if number > 0:
                    group.forget(f"topic {number - 1}")

        on_all(take)
        assert seen[0].num_keys() == 3


class TestWithoutGroup:
    """No process group at hand."""

    def test_there_is_none(self):
        assert world(1.0) is None
        assert global_rank() is None

    def test_one_rank_mode_is_refused_for_several_ranks(self):
        """Elastic expert parallelism has no store that all ranks share."""
        answerer = Answerer(Settings(mode="one_rank"), "vllm", logging.getLogger("test"), lambda: None)
        load = np.arange(8).reshape(1, 8)
        with pytest.raises(DisagreementError, match=r"no process group is at hand for 2 ranks .* EQUIPOISE_MODE=every_rank"):
            answerer.answer(lambda: Call(load, 8, 2, 1, 1, False))
        assert answerer.answer(lambda: Call(load, 8, 1, 1, 1, False)).shape == (1, 8)
        assert isinstance(answerer.answer(lambda: Call(load, 7, 1, 1, 1, False)), Refusal)


@pytest.fixture(scope="module")
def ranks():
    """Run all scenarios on gloo processes, once; return what each rank printed."""
    return run_ranks(SCRIPT)


def run_ranks(script: Path) -> list:
    """Run a script on gloo processes; return what each printed, None for nothing."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    commands = [[sys.executable, str(script), str(rank), str(SIZE), str(store.port)] for rank in range(SIZE)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        outputs = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out) if out else None for out, _ in outputs]


MODES = [f"{mode} {compare}" for mode in ("every_rank", "one_rank") for compare in ("settings", "plans")]


@pytest.mark.slow
@pytest.mark.compiled
class TestProcesses:
    """Four processes with gloo between them."""

    @pytest.mark.parametrize("mode", MODES)
    def test_all_ranks_agree(self, ranks, mode):
        answers = ranks[0][mode]
        assert all(answer.startswith("plan") for answer in answers)
        assert len(set(answers)) > 1
        assert all(rank[mode] == answers for rank in ranks)

    def test_modes_agree(self, ranks):
        assert len({tuple(ranks[0][mode]) for mode in MODES}) == 1

    @pytest.mark.parametrize("mode", MODES)
    def test_faults_of_arguments_go_to_the_stock_policy(self, ranks, mode):
        assert [rank[f"{mode} arguments"] for rank in ranks] == [["stock", "stock"]] * SIZE

    def test_a_fault_on_one_of_ranks_that_plan_is_raised(self, ranks):
        found = [rank["every_rank settings fault"][0] for rank in ranks]
        assert found[2] == "MemoryError: injected"
        assert len({*found[:2], found[3]}) == 1
        assert found[0].startswith("plan")

    def test_a_fault_is_raised_on_all_ranks_that_compare_plans(self, ranks):
        found = [rank["every_rank plans fault"][0] for rank in ranks]
        for answer in found:
            assert answer.startswith("DisagreementError")
            assert "ranks 2 say a fault: MemoryError: injected" in answer

    def test_a_fault_on_the_one_rank_that_plans_goes_to_the_stock_policy(self, ranks):
        assert [rank["one_rank settings fault"] for rank in ranks] == [["stock"]] * SIZE

    def test_answers_do_not_stay_in_the_store(self, ranks):
        assert all(rank[f"{mode} left"] == ["False"] for rank in ranks for mode in MODES)

    @pytest.mark.parametrize(("scenario", "odd"), [("unequal settings", 1), ("unequal, one rank", 0)])
    def test_unequal_settings_are_raised_on_all(self, ranks, scenario, odd):
        for rank in ranks:
            for answer in rank[scenario]:
                assert answer.startswith("DisagreementError: equipoise: ranks do not agree on settings")
                assert f"ranks {odd} say" in answer

    def test_calls_beside_collectives(self, ranks):
        assert all(rank["beside collectives"] == ranks[0]["one_rank settings"][:3] for rank in ranks)

    def test_a_rank_out_of_step_is_raised_on_all(self, ranks):
        """Else the others would wait for it in their sends."""
        for rank in ranks:
            assert rank["out of step"][0].startswith("DisagreementError: equipoise: call 0 has other arguments on ranks 3")

    def test_a_rank_without_the_plug_in_is_found(self, ranks):
        assert all("waited 1 s for rank 3 on settings" in rank["silent"][0] for rank in ranks[:3])

    def test_log(self, ranks):
        """One line a rebalance on the first rank, warnings on all."""
        first = [line for line in ranks[0]["log"] if "balancedness" in line]
        assert len(first) > 10
        assert "moves=" in first[0]
        assert "settings=" in first[0]
        assert "settings=" not in first[1]
        assert not [line for line in ranks[1]["log"] if "balancedness" in line]
        assert [line for line in ranks[1]["log"] if "the stock policy answers: 21 slots on 4 ranks" in line]


@pytest.mark.slow
@pytest.mark.compiled
def test_survivors_of_a_rank_go_on():
    """SGLang's elastic ranks plan around the one that died, and do not wait for it."""
    *alive, dead = run_ranks(SCRIPT.with_name("survivors.py"))
    assert dead is None
    for mode in ("every_rank", "one_rank"):
        assert all(answers == alive[0]["every_rank"] for answers in (rank[mode] for rank in alive))
    first, second = np.array(alive[0]["every_rank"])
    assert (first != second).any()
    assert (first[:, -6:] == 0).all()
    assert all(set(row) == set(range(16)) for row in first[:, :-6].tolist())
