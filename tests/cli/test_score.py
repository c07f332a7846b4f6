"""`equipoise score`: verdicts, scores and a ranking, for people and as JSON; one clear line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import equipoise

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
SHAPE = ("--slots", 40, "--groups", 1, "--nodes", 1, "--ranks", 8)
GOOD = """
import torch

def rebalance_experts(weight, slots, groups, nodes, ranks):
    layers, experts = weight.shape
    spare = slots - experts
    phy2log = (torch.arange(slots) % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, 2), -1)
    log2phy[:, :, 0] = torch.arange(experts)
    log2phy[:, :spare, 1] = torch.arange(experts, slots)
    logcnt = torch.ones(layers, experts, dtype=torch.int64)
    logcnt[:, :spare] = 2
    return phy2log, log2phy, logcnt
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write programs, good and bad, and a short trace."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("programs")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(GOOD.replace("logcnt[:, :spare] = 2", "logcnt[:, :spare] = 3"))
    (folder / "broken.py").write_text("import torch\ndef rebalance_experts(:\n    pass\n")
    (folder / "empty.py").write_text("import torch\n")
    equipoise.LoadTrace(equipoise.LoadTrace.example().load[:4, :3]).write(folder / "short.npz")
    return folder


def test_json(run, files):
    """One object: the setup, each program with its verdict and scores, and the ranking of each protocol."""
    command = ("score", files / "good.py", files / "bad.py", "equipoise:fast", "--trace", files / "short.npz", "--window", 1)
    code, out, err = run(*command, *SHAPE, "--protocol", "v1,v4,equipoise", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert (found["windows"], found["window"], found["slots"], found["ranks"]) == (4, 1, 40, 8)
    good, bad, ours = found["programs"]
    assert (good["is_accepted"], good["verdict"]["kind"], good["calls"]) == (True, "accepted", 3)
    assert bad["verdict"]["kind"] == "maps disagree"
    assert bad["scores"]["v4"]["score"] == 0
    assert "add up to 40" in bad["scores"]["v4"]["rejected"]
    assert bad["scores"]["v1"]["score"] > 0
    assert bad["scores"]["equipoise"] is None
    assert ours["is_builtin"]
    assert list(good["scores"]) == ["v1", "v4", "equipoise"]
    assert good["scores"]["equipoise"]["score"] == pytest.approx(good["scores"]["v4"]["balancedness_rank"])
    ranking = found["ranking"]["equipoise"]
    assert [one["program"] for one in ranking] == ["equipoise:fast", str(files / "good.py")]
    assert ranking[1]["behind"] > 0


def test_for_people(run, files):
    """Tables no wider than 100, the verdict in words, what each protocol would say."""
    command = (
        "score",
        files / "good.py",
        files / "bad.py",
        "--trace",
        files / "short.npz",
        "--window",
        1,
        *SHAPE,
        "--protocol",
        "v1",
    )
    code, out, _ = run(*command, "--protocol", "v1,v4,equipoise")
    assert code == 0
    assert max(map(len, out.splitlines()[1:])) <= 200
    assert max(len(line) for line in out.splitlines() if line[:1] in "┏┃│└") <= 100
    for words in ("bad.py: maps disagree: window 0", "1 good.py", "- bad.py", "v4 refuses bad.py", "next-window"):
        assert words in out
    assert run(*command, "--protocol", "v4", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("program", "options", "says"),
    [
        ("broken.py", (), "line 2, 'def rebalance_experts(:'"),
        ("empty.py", (), "no function rebalance_experts"),
        ("none.py", (), "cannot be read"),
        ("good.py", ("--protocol", "v2"), "v2 needs 6"),
        ("good.py", ("--window", "100"), "the load has 4 steps, no window of 100"),
        ("good.py", ("--protocol", "v7"), "it must be one of v1, v2, v3, v4, equipoise"),
        ("good.py", ("--protocol", ",", "--window", "100"), "--protocol is ',': it must be one of v1"),
        ("good.py", ("--protocol", "foo", "--window", "100"), "--protocol is 'foo': it must be one of v1"),
        ("good.py", ("--protocol", "v2,foo"), "--protocol is 'foo': it must be one of v1"),
        ("good.py", ("--ranks", "7"), "slots must be divisible by ranks"),
        ("good.py", ("--slots", "8"), "slots must be 32 to 256"),
        ("good.py", ("--memory", "none"), "--memory"),
        ("good.py", ("--call-seconds", "0"), "call_seconds"),
    ],
)
def test_bad_input(run, files, program, options, says):
    """Exit code 2 and one line."""
    usual = ("--protocol", "v1", "--window", 1, *SHAPE)
    code, out, err = run("score", files / program, "--trace", files / "short.npz", *usual, *options)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_programs_of_the_same_name(run, files, tmp_path):
    """Tables tell them apart by as much of their paths as that takes; JSON has what was given."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.py").write_text(GOOD)
    given = (tmp_path / "a" / "p.py", tmp_path / "b" / "p.py", files / "good.py")
    command = ("score", *given, "--trace", files / "short.npz", "--window", 1, *SHAPE, "--protocol", "equipoise")
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    for name in ("1 a/p.py", "2 b/p.py", "3 good.py", ": a/p.py as ", ", b/p.py as "):
        assert name in out
    found = json.loads(run(*command, "--json")[1])
    assert [program["program"] for program in found["programs"]] == list(map(str, given))


def test_the_same_file_twice(run, files, monkeypatch, tmp_path):
    """However its path is written, and through a link."""
    monkeypatch.chdir(files)
    (tmp_path / "link.py").symlink_to(files / "good.py")
    for other in ("./good.py", files / "good.py", tmp_path / "link.py", "good.py"):
        code, out, err = run("score", "good.py", other, "--trace", "short.npz", "--window", 1, *SHAPE, "--protocol", "v1")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{other} is given twice" in err


def test_every_program_refused(run, files):
    """Exit code 3; 0 as soon as one is accepted."""
    usual = ("--trace", files / "short.npz", "--window", 1, *SHAPE, "--protocol", "v1", "--quiet")
    assert run("score", files / "bad.py", *usual)[0] == 3
    assert run("score", files / "bad.py", *usual[:-1], "--json")[0] == 3
    assert run("score", files / "bad.py", "equipoise:fast", *usual)[0] == 0


@pytest.mark.parametrize("options", [(), ("--unprotected",)])
def test_kernels_that_cannot_confine(run, files, monkeypatch, options):
    """Programs run there only where that is asked for."""
    asked = []
    monkeypatch.setattr("equipoise.cli.score.score_programs", lambda *_, unprotected, **__: asked.append(unprotected) or [])
    usual = ("--trace", files / "short.npz", "--window", 1, *SHAPE, "--protocol", "v1", "--quiet", "--no-archive")
    run("score", files / "good.py", *usual, *options)
    assert asked == [bool(options)]
