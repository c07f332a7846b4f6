"""`equipoise score`: a proposal scored beside what it changes, kept, and shown again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from importlib.util import find_spec

import pytest

from equipoise import LoadTrace
from equipoise.scoring.archive import Archive

SHAPE = ("--window", 1, "--slots", 40, "--ranks", 8, "--groups", 1, "--nodes", 1)
PROGRAM = """\
import torch

# EVOLVE-BLOCK-START
DESCENDING = False
# EVOLVE-BLOCK-END


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    layers, experts = weight.shape
    extra = num_replicas - experts
    chosen = weight.argsort(dim=1, descending=DESCENDING, stable=True)[:, :extra]
    phy2log = torch.cat([torch.arange(experts).expand(layers, -1), chosen], dim=1)
    logcnt = torch.ones(layers, experts, dtype=torch.int64)
    logcnt.scatter_add_(1, chosen, torch.ones_like(chosen))
    log2phy = torch.full((layers, experts, 2), -1)
    log2phy[:, :, 0] = torch.arange(experts)
    log2phy[:, :, 1].scatter_(1, chosen, torch.arange(experts, num_replicas).expand(layers, -1))
    return phy2log, log2phy, logcnt
"""
PROPOSAL = """\
<NAME>
copy_the_largest
</NAME>
<DESCRIPTION>
Give the second replica to the largest [experts].
</DESCRIPTION>
<DIFF>
<<<<<<< SEARCH
DESCENDING = False
=======
DESCENDING = True
>>>>>>> REPLACE
</DIFF>
"""


def sha256(text):
    """Return a text's id."""
    return hashlib.sha256(text.encode()).hexdigest()


BEFORE, AFTER = sha256(PROGRAM), sha256(PROGRAM.replace("False", "True"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a program, a proposal, and a short load."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "mine.py").write_text(PROGRAM)
    (folder / "change.txt").write_text(PROPOSAL)
    example = LoadTrace.example()
    LoadTrace(example.load[:7, :3]).write(folder / "load.npz")
    LoadTrace(example.load[7:14, :3]).write(folder / "other.npz")
    return folder


@pytest.fixture
def scored(run, files, tmp_path):
    """Score a program, and the program after a proposal; returns what was printed, and the archive's path."""
    path = tmp_path / "scores.sqlite"
    arguments = (files / "mine.py", "--patch", files / "change.txt", "--trace", files / "load.npz", *SHAPE)
    code, out, err = run("score", *arguments, "--protocol", "v2,equipoise", "--archive", path, "--json")
    assert (code, err) == (0, "")
    return json.loads(out), path


@pytest.mark.compiled
@pytest.mark.skipif(find_spec("torch") is None, reason="the program takes torch's tensors")
class TestScoring:
    """A run that is kept, looked at in every way."""

    def test_before_and_after(self, run, files, scored):
        found, path = scored
        assert found["archive"] == str(path)
        assert found["proposal"] == {
            "name": "copy_the_largest",
            "description": "Give the second replica to the largest [experts].",
            "blocks": 1,
            "before": BEFORE,
            "after": AFTER,
        }
        assert [program["sha256"] for program in found["programs"]] == [BEFORE, AFTER]
        before, after = (program["scores"]["equipoise"]["score"] for program in found["programs"])
        assert after > before

        history = json.loads(run("score", "--history", "--archive", path, "--json")[1])["history"]
        assert [(entry["id"], entry["parent"], entry["name"]) for entry in history] == [
            (BEFORE, "", "mine.py"),
            (AFTER, BEFORE, "copy_the_largest"),
        ]
        assert history[1]["proposal"] == PROPOSAL
        assert history[1]["scores"] == found["programs"][1]["scores"]
        assert history[1]["problem"]["setup"] == {"num_slots": 40, "num_groups": 1, "num_nodes": 1, "num_ranks": 8}

        code, out, _ = run("score", "--history", "--archive", path)
        assert code == 0
        assert f"{AFTER[:6]} copy_the_larg…" in out
        assert "on 1: trace" in out
        assert f"{after:.3f}" in out

        shown = json.loads(run("score", "--show", AFTER[:8], "--archive", path, "--json")[1])
        assert (shown["id"], shown["text"]) == (AFTER, PROGRAM.replace("False", "True"))
        assert ([one["id"] for one in shown["scorings"]], shown["children"]) == ([AFTER], [])
        shown = json.loads(run("score", "--show", BEFORE[:8], "--archive", path, "--json")[1])
        assert ([one["id"] for one in shown["scorings"]], [one["id"] for one in shown["children"]]) == ([BEFORE], [AFTER])
        _, out, _ = run("score", "--show", AFTER[:8], "--archive", path)
        assert f"a change to {BEFORE[:6]}: Give the second replica to the largest [experts]." in out
        assert ">>>>>>> REPLACE" in out
        assert "DESCENDING = True\n# EVOLVE" in out

        best = json.loads(run("score", "--best", "--archive", path, "--json")[1])["best"]
        assert [(one["protocol"], one["entry"]["id"], one["out_of"]) for one in best] == [
            ("v2", AFTER, 2),
            ("equipoise", AFTER, 2),
        ]
        code, out, err = run(
            "score", files / "mine.py", "--trace", files / "other.npz", *SHAPE, "--protocol", "v2", "--archive", path
        )
        assert (code, err) == (0, "")
        assert f"kept in {path}: mine.py as {BEFORE[:6]}" in out
        _, out, _ = run("score", "--best", "--protocol", "v2", "--archive", path)
        assert out.count("Best on trace") == 2
        assert "equipoise" not in out.split("scores on other traces")[0].replace(str(path), "")
        assert "scores on other traces or setups are never compared" in out

    def test_side_by_side_for_people_and_nothing_kept(self, run, files, tmp_path, monkeypatch):
        monkeypatch.setenv("EQUIPOISE_ARCHIVE", str(tmp_path / "none.sqlite"))
        arguments = (files / "mine.py", "--patch", files / "change.txt", "--trace", files / "load.npz", *SHAPE)
        code, out, err = run("score", *arguments, "--protocol", "v4,equipoise", "--no-archive")
        assert (code, err) == (0, "")
        assert "What copy_the_largest changes" in out
        assert "kept in" not in out
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["raise ValueError('\\ud800 [no]')", "print('[no]'); 1 / 0"])
    def test_a_proposal_that_is_refused_has_no_change(self, run, files, tmp_path, text):
        """Dashes, no nan and no balance of 0; what it raised is printed and kept, whatever it is."""
        change, path = tmp_path / "change.txt", tmp_path / "scores.sqlite"
        change.write_text(PROPOSAL.replace("DESCENDING = True", text).replace("copy_the_largest", "harm/less"))
        arguments = (files / "mine.py", "--patch", change, "--trace", files / "load.npz", *SHAPE, "--archive", path)
        code, out, err = run("score", *arguments, "--protocol", "v4,equipoise")
        assert (code, err) == (0, "")
        assert "nan" not in out
        assert [" ".join(line.split()[1:]) for line in out.splitlines() if "│ - mine.py + harm/less" in line] == [
            "- mine.py + harm/less │ - │ - │ - │ - │",
            "- mine.py + harm/less │ - │ - │ - │ - │",
            "- mine.py + harm/less │ - │ - │ - │ - │ - │",
        ]
        changes = [line.split() for line in out.split("What harm/less changes")[1].splitlines() if line.startswith("│")]
        assert [line[5:] for line in changes] == [["-", "│"] * 3] * 2
        code, out, err = run("score", "--history", "--archive", path)
        assert (code, err) == (0, "")
        assert "harm/less" in out
        out.encode()

    def test_two_windows_are_kept_as_json(self, run, files, tmp_path):
        """One pair has no spread: null in the archive, a dash for people."""
        LoadTrace(LoadTrace.example().load[:2, :3]).write(tmp_path / "two.npz")
        path = tmp_path / "scores.sqlite"
        arguments = (files / "mine.py", "equipoise:fast", "--trace", tmp_path / "two.npz", *SHAPE, "--archive", path)
        code, out, err = run("score", *arguments, "--protocol", "v4,equipoise")
        assert (code, err) == (0, "")
        assert "nan" not in out
        with closing(sqlite3.connect(path)) as connection:
            kept = [row[0] for row in connection.execute("SELECT scores FROM scorings")]
        assert len(kept) == 2
        assert not any("NaN" in scores for scores in kept)
        assert json.loads(kept[0])["equipoise"]["std"] is None

    def test_control_codes_do_not_reach_the_terminal(self, run, files, tmp_path):
        """Those of a program's name, of its text and of a proposal: they are escaped, tabs are not."""
        path, program, change = tmp_path / "scores.sqlite", tmp_path / "a\x1b[31m.py", tmp_path / "change.txt"
        program.write_text(PROGRAM + "\t# \x1b[31m\n")
        change.write_text(PROPOSAL.replace("the largest", "the \x1b[31mlargest"))
        usual = ("--trace", files / "load.npz", *SHAPE, "--protocol", "v4", "--archive", path)
        printed = run("score", program, "--patch", change, *usual)[1] + run("score", "--history", "--archive", path)[1]
        for program_id in (sha256(program.read_text()), sha256(program.read_text().replace("False", "True"))):
            code, out, _ = run("score", "--show", program_id, "--archive", path)
            assert code == 0
            assert "\n        # \\x1b[31m" in out
            printed += out
        assert "a\\x1b[31m.py" in printed
        assert "\x1b" not in printed

    def test_what_is_refused_is_kept_and_never_best(self, run, files, tmp_path):
        wrong, path = tmp_path / "wrong.py", tmp_path / "scores.sqlite"
        wrong.write_text("def rebalance_experts(*arguments):\n    raise RuntimeError('[no]')\n")
        assert run("score", wrong, "--trace", files / "load.npz", *SHAPE, "--archive", path, "--quiet")[0] == 3
        (entry,) = Archive(path).history()
        assert not entry.is_accepted
        _, out, _ = run("score", "--history", "--archive", path)
        assert f"{sha256(wrong.read_text())[:6]} was refused: raised" in out
        assert "[no]" in out
        assert "holds no accepted program yet" in run("score", "--best", "--archive", path)[1]
        assert "holds no accepted program under v1 yet" in run("score", "--best", "--protocol", "v1", "--archive", path)[1]


class TestBadInput:
    """One line, nothing kept."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "no PROGRAM: scoring takes programs and a load"),
            (("mine.py",), "no --trace: scoring takes programs and a load"),
            (("--history", "--best"), "--history and --best together: one of"),
            (("--show", "abcd", "mine.py", "--trace", "x"), "--show and PROGRAM and --trace together"),
            (("--best", "--no-archive"), "--best and --no-archive together"),
            (("--best", "--protocol", "v9"), "--protocol is 'v9': it must be one of v1, v2"),
            (("--best", "--protocol", "v1,v4"), "--protocol v1,v4: it must be one of v1, v2"),
            (("--show", "abcd"), "no id begins with abcd"),
            (("--show", "mine.py"), "the id is 'mine.py': it must be 4 hexadecimal digits"),
            (("mine.py", "mine.py", "--patch", "change.txt", "--trace", "load.npz"), "--patch with 2 programs"),
            (("equipoise:default", "--patch", "change.txt", "--trace", "load.npz"), "a proposal changes a file"),
            (("mine.py", "--patch", "none.txt", "--trace", "load.npz"), "none.txt cannot be read"),
            (
                ("mine.py", "--patch", "mine.py", "--trace", "load.npz"),
                "mine.py: line 1 is 'import torch': outside the sections",
            ),
            (
                ("mine.py", "--patch", "unfit.txt", "--trace", "load.npz"),
                "the SEARCH of block 1 (line 8 of the proposal) matches",
            ),
            (
                ("mine.py", "--patch", "outside.txt", "--trace", "load.npz"),
                "block 1 changes mine.py at line 1: only what stands",
            ),
        ],
    )
    def test_one_line(self, run, files, monkeypatch, tmp_path, arguments, message):
        monkeypatch.chdir(files)
        (files / "unfit.txt").write_text(PROPOSAL.replace("False", "None"))
        (files / "outside.txt").write_text(PROPOSAL.replace("DESCENDING = False", "import torch"))
        archive = () if "--no-archive" in arguments else ("--archive", tmp_path / "scores.sqlite")
        code, out, err = run("score", *arguments, *archive)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_archive_stops_before_the_work(self, run, files, tmp_path):
        path = tmp_path / "scores.sqlite"
        path.write_bytes(b"rubbish" * 1000)
        before = path.read_bytes()
        given = (files / "mine.py", "--trace", files / "load.npz", *SHAPE)
        for arguments in (("--history",), ("--best",), ("--show", "abcd"), given):
            code, out, err = run("score", *arguments, "--archive", path)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert "is no archive of scores" in err
        assert path.read_bytes() == before

    def test_a_pipe_is_no_archive(self, run, tmp_path):
        """It is not opened, which would wait for ever."""
        os.mkfifo(tmp_path / "pipe")
        for arguments in (("--history",), ("--best",), ("--show", "abcd")):
            code, out, err = run("score", *arguments, "--archive", tmp_path / "pipe")
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert "pipe is no file: it must be a file" in err

    def test_an_archive_that_is_not_there(self, run, tmp_path):
        path = tmp_path / "scores.sqlite"
        assert f"{path} holds no program yet" in run("score", "--history", "--archive", path)[1]
        assert json.loads(run("score", "--best", "--archive", path, "--json")[1]) == {"archive": str(path), "best": []}
        assert not path.exists()
