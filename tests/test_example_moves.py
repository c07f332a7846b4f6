"""The example that moves experts between processes: what it prints is so, and what goes wrong is noticed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from equipoise import Cluster, Placement
from equipoise.migrating.checking import InvalidScheduleError
from equipoise.migrating.scheduling import schedule_moves

pytest.importorskip("torch.distributed")

EXAMPLE = Path(__file__).parents[1] / "examples" / "move_experts_with_gloo.py"
ALL_SERVED = "tags are right, outputs those of the plain layer for 100.0 % of tokens"

FAULTY = """
import sys
sys.path.insert(0, {folder!r})
import move_experts_with_gloo as example
if __name__ == "__main__":
    sys.exit(example.main())
{fault}
"""
"""The example with a fault in its ranks: their processes, and not the first one, run the last lines."""

OTHER_SOURCE = """
make = example.schedule_moves
def with_other_source(old, new):
    found = make(old, new)
    move = found.is_move.argmax()
    slots = example.np.flatnonzero(found.rank_of_slot == found.sender[move])
    source = found.source.copy()
    source[move] = slots[old.expert_of_slot[found.layer[move], slots] != found.expert[move]][0]
    return example.replace(found, source=source)
example.schedule_moves = with_other_source
"""

NO_SCALES = """
send = example.dist.isend
example.dist.isend = lambda tensor, peer: send(tensor * 0 + 1 if tensor.is_floating_point() else tensor, peer)
look = example.Rank._wrong_slots
example.Rank._wrong_slots = lambda rank, placement: print(*look(rank, placement), file=sys.stderr) or []
"""
"""What tags tell is printed and ignored, so that outputs are looked at as well."""

OTHER_PLAN = """
make = example.schedule_moves
example.schedule_moves = lambda old, new: make(old, old if example.dist.get_rank() == 2 else new)
"""


def _run(*command):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120, check=False)


def _run_with(fault, folder):
    program = folder / "faulty.py"
    program.write_text(FAULTY.format(folder=str(EXAMPLE.parent), fault=fault))
    return _run(program)


@pytest.fixture
def example(monkeypatch):
    """Return the example as a module."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, EXAMPLE.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.compiled
def test_four_ranks_move_experts():
    """Balance is better, moves are within the budget, every tag and every output is right."""
    found = _run(EXAMPLE)
    assert (found.returncode, found.stderr) == (0, "")
    before, after = map(float, re.search(r"balancedness (\S+) as placed, (\S+) planned", found.stdout).groups())
    assert before < after <= 1.0
    moves, rounds, loads = map(int, re.search(r"sound: (\d+) moves in (\d+) rounds, (\d+) loads", found.stdout).groups())
    assert 0 < rounds <= moves <= 4 * 4
    assert loads == 0
    assert re.search(r"\d+ MB for the rank with most, \d+\.\d\d ms", found.stdout)
    assert re.findall(r"done by 4 ranks in \d+ ms: 96 (.*)", found.stdout) == [ALL_SERVED]


@pytest.mark.compiled
def test_a_rank_dies_and_the_others_go_on():
    """Each survivor says where it was; the rest is done by three; in the end every expert is served again."""
    found = _run(EXAMPLE, "--kill", 3, "--after", 1, 0)
    assert (found.returncode, found.stderr) == (0, "")
    stopped = re.findall(
        r"rank (\d), (?:in layer (\d), round (\d)|done with all its moves), lost (?:rank \d|another rank): \w+", found.stdout
    )
    assert sorted(rank for rank, _, _ in stopped) == ["0", "1", "2"]
    assert all(layer == "" or (layer, now) >= ("1", "0") for _, layer, now in stopped)
    assert re.search(r"ranks \[3\] are dead; .* without a replica: \[\(\d, \d+\)", found.stdout)
    assert re.search(r"left in buffers alone: [01]\n", found.stdout)  # 0 where what rank 3 sent last was cut off with it
    assert re.search(r"without a slot after the rest of the moves: \[\(\d, \d+\)", found.stdout)
    assert len(re.findall("proven sound", found.stdout)) == 3
    rest, replanned = re.findall(r"done by 3 ranks in \d+ ms: 72 (.*)", found.stdout)
    assert 50 < float(re.search(r"for (\S+) %", rest)[1]) < 100
    assert replanned == ALL_SERVED


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        (OTHER_SOURCE, [r"rank \d: layer 0, its slot \d holds layer 0, expert \d+; it must be expert \d+"]),
        (
            NO_SCALES,
            ["with other weights or scales; it must be expert", "rank 0 stops: outputs are not those of the plain layer"],
        ),
        (OTHER_PLAN, [r"rank 0 sends nothing: ranks \[2\] have another schedule than rank 0"]),
    ],
    ids=["other source", "no scales", "other plan"],
)
def test_faults_are_noticed(fault, errors, tmp_path):
    """A schedule that reads a wrong slot, scales left behind, ranks that do not agree: each ends in a clear error."""
    found = _run_with(fault, tmp_path)
    assert found.returncode == 1
    assert all(re.search(words, found.stderr) for words in errors)
    assert "Traceback" not in found.stderr
    assert "done by" not in found.stdout


def test_a_tampered_schedule_is_not_described(example):
    """The checker refuses a move whose source was changed."""
    old = Placement([[0, 1, 2, 3]] * 2, Cluster(4, 1), 4)
    new = Placement([[1, 0, 2, 3]] * 2, old.cluster, 4)
    schedule = schedule_moves(old, new)
    example.describe(schedule, old, new)
    source = schedule.source.copy()
    source[0] = 3
    with pytest.raises(InvalidScheduleError, match="layer 0, round 0: the move to slot 0 reads slot 3, which holds expert 3"):
        example.describe(replace(schedule, source=source), old, new)
