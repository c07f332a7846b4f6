"""Proposals: read strictly, applied exactly once or not at all, and told where they fail."""

from __future__ import annotations

import ast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError, FileError
from equipoise.scoring.proposals import (
    MARKERS,
    Block,
    Proposal,
    apply_proposal,
    make_proposal,
    parse_proposal,
    read_proposal,
)

PROGRAM = """\
import torch

# EVOLVE-BLOCK-START
CANDIDATES = 8


def pack(weight):
    best = None
    for candidate in range(CANDIDATES):
        best = candidate
    return best


# EVOLVE-BLOCK-END


def rebalance_experts(weight):
    return pack(weight)
"""
FREE = "".join(line for line in PROGRAM.splitlines(keepends=True) if "EVOLVE" not in line)
DIFF = "<<<<<<< SEARCH\nCANDIDATES = 8\n=======\nCANDIDATES = 128\n>>>>>>> REPLACE\n"


def text(diff=DIFF, name="more", description="Try more."):
    """Return a proposal's text, written by hand."""
    return f"<NAME>\n{name}\n</NAME>\n<DESCRIPTION>\n{description}\n</DESCRIPTION>\n<DIFF>\n{diff}</DIFF>\n"


def block(search, replace):
    """Return a block's text."""
    return f"<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n"


def applied(diff, program=FREE):
    """Return a program changed by a diff."""
    return apply_proposal(parse_proposal(text(diff)), program)


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["", " ", "a = 1", "b = 2", "    a = 1", "# EVOLVE", "</DIFF>", "<NAME>", "<<<<<<< SEARCH x", "\t", "======"]
        ),
        st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)), max_size=4),
    ),
    max_size=12,
)


def _is_python(program):
    try:
        ast.parse(program)
    except (SyntaxError, ValueError):
        return False
    return True


CODE = st.lists(
    st.sampled_from(
        ["", "a = 1", "b = 2", "# <DIFF>", "# </DIFF>", "if a:\n    b = 3", "def f():\n    return 1\n", "'''\n<NAME>\n'''"]
    ),
    max_size=12,
).map("\n".join)


class TestParsing:
    """What a proposal is, and what it is not."""

    def test_sections_and_blocks(self):
        found = parse_proposal(text(DIFF + "\n" + block("a\nb\n", ""), description="Two\nlines."))
        assert (found.name, found.description) == ("more", "Two\nlines.")
        assert found.blocks[0] == Block(("CANDIDATES = 8",), ("CANDIDATES = 128",), line=9)
        assert found.blocks[1] == Block(("a", "b"), (), line=15)

    def test_sections_in_any_order_and_on_one_line(self):
        found = parse_proposal(f"\n<DIFF>\n{DIFF}\n</DIFF>\n<DESCRIPTION>Why.</DESCRIPTION>\n\n<NAME> more </NAME>")
        assert (found.name, found.description, len(found.blocks)) == ("more", "Why.", 1)

    def test_tags_within_a_block_are_code(self):
        found = parse_proposal(text(block("</DIFF>\n<NAME>\n", "<DIFF>\n")))
        assert found.blocks == (Block(("</DIFF>", "<NAME>"), ("<DIFF>",), line=8),)

    def test_line_ends_of_another_system(self):
        assert parse_proposal(text().replace("\n", "\r\n")) == parse_proposal(text())

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ("", "there is no <NAME> and no <DESCRIPTION> and no <DIFF>"),
            (text().replace("<NAME>\nmore\n</NAME>\n", ""), "there is no <NAME>: it needs"),
            (text() + "<NAME>again</NAME>\n", "<NAME> is there again at line 14"),
            (text() + text(), "<NAME> is there again at line 14"),
            ("Sure!\n" + text(), "line 1 is 'Sure!': outside the sections"),
            (text() + "```\n", "line 14 is '```': outside"),
            ("</NAME>\n" + text(), "line 1 is '</NAME>': outside"),
            (text().replace("</NAME>\n", ""), "line 3 is <DESCRIPTION> in <NAME>: </NAME> must come first"),
            (text().replace("</DIFF>\n", ""), "<DIFF> at line 7 is not closed: it ends with </DIFF>"),
            (text(name=""), "the NAME is '': it must be one printable line"),
            (text(name="two\nlines"), r"the NAME is 'two\\nlines'"),
            (text(name="\x1b[31mred"), "must be one printable line"),
            (text(name="x" * 121), "of 1 to 120 characters"),
            (text(description=" "), "the DESCRIPTION is empty"),
            (text(description=DIFF.rstrip()), "line 5 is <<<<<<< SEARCH in <DESCRIPTION>: blocks belong in the DIFF"),
            (text(diff=""), "the DIFF has no block"),
            (text(diff="CANDIDATES = 9\n"), "line 8 of the DIFF is 'CANDIDATES = 9': between blocks"),
            (text(diff=DIFF + "and\n" + DIFF), "line 13 of the DIFF is 'and'"),
            (text(diff=block("", "a\n")), "the block at line 8 has an empty SEARCH"),
            (text(diff=block("\n  \n", "a\n")), "the block at line 8 has an empty SEARCH"),
            (text(diff=block("a\n", "a\n")), "the block at line 8 replaces lines by the same lines"),
            (text(diff="=======\nb\n>>>>>>> REPLACE\n"), "line 8 is ======= where <<<<<<< SEARCH is due"),
            (text(diff=">>>>>>> REPLACE\n"), "line 8 is >>>>>>> REPLACE where <<<<<<< SEARCH is due"),
            (text(diff="<<<<<<< SEARCH\na\n>>>>>>> REPLACE\n"), "line 10 is >>>>>>> REPLACE where ======= is due"),
            (text(diff="<<<<<<< SEARCH\na\n<<<<<<< SEARCH\n"), "line 10 is <<<<<<< SEARCH where ======= is due"),
            (text(diff=block("a\n", "b\n=======\nc\n")), "line 12 is ======= where >>>>>>> REPLACE is due"),
            (text(diff="<<<<<<< SEARCH\na\n=======\nb\n"), "the block at line 8 has no >>>>>>> REPLACE"),
            (text().replace("\n", "\r\n", 3), "has LF at line 4, and CR LF at the first line"),
            (text().replace("8\n", "8\r\n"), "has a CR at line 9, and LF at the first line"),
            (text().replace("\n", "\r\n").replace("= 8", "= \r8"), "has a CR at line 9, and CR LF at the first line"),
        ],
    )
    def test_what_is_no_proposal(self, wrong, message):
        with pytest.raises(ArgumentError, match=message) as error:
            parse_proposal(wrong, "change.txt")
        assert str(error.value).startswith("change.txt")
        assert "\n" not in str(error.value)

    def test_a_file(self, tmp_path):
        path = tmp_path / "change.txt"
        path.write_bytes(b"\xef\xbb\xbf" + text().encode())
        assert read_proposal(path) == (parse_proposal(text()), text())
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(FileError, match=r"change\.txt is no text in UTF-8"):
            read_proposal(path)
        with pytest.raises(FileError, match="cannot be read"):
            read_proposal(tmp_path / "none")

    @pytest.mark.parametrize("wrong", ["a\nb", "a\r", *MARKERS, "======= "])
    def test_lines_that_could_not_be_written_down(self, wrong):
        with pytest.raises(ArgumentError, match="is one line and no marker"):
            Block(("a",), (wrong,))

    @given(st.text(max_size=40))
    def test_any_text_is_read_or_refused_in_a_line(self, content):
        with pytest.raises(ArgumentError) as error:
            parse_proposal(content)
        assert len(str(error.value).splitlines()) == 1


class TestApplying:
    """Exactly once, in the program as it was."""

    def test_several_blocks_in_any_order(self):
        diffs = [block("    return best\n", "    return best or 0\n"), block("CANDIDATES = 8\n", "CANDIDATES = 9\nNOISE = 0\n")]
        expected = FREE.replace("return best", "return best or 0").replace("= 8\n", "= 9\nNOISE = 0\n")
        assert applied("".join(diffs)) == applied("".join(reversed(diffs))) == expected

    def test_a_block_does_not_see_what_another_wrote(self):
        with pytest.raises(ArgumentError, match=r"SEARCH of block 2 \(line 13 of the proposal\) matches the program nowhere"):
            applied(block("CANDIDATES = 8\n", "CANDIDATES = 9\n") + block("CANDIDATES = 9\n", "CANDIDATES = 10\n"))

    def test_whole_lines_only(self):
        with pytest.raises(
            ArgumentError, match=r"nowhere; nearest is line 3, where line 3 is 'CANDIDATES = 8' and not 'CANDIDATES'"
        ):
            applied(block("CANDIDATES\n", "NUMBER\n"))

    def test_deleting(self):
        assert applied(block("import torch\n\n", "")) == FREE.removeprefix("import torch\n\n")

    def test_several_places(self):
        with pytest.raises(
            ArgumentError, match=r"block 1 .* matches the program 3 times, at lines 1, 3, 4: it must match exactly once"
        ):
            applied(block("a = 1\n", "a = 2\n"), "a = 1\nb = 1\na = 1\na = 1\n")

    def test_overlapping_blocks(self):
        blocks = block("    best = None\n    for candidate in range(CANDIDATES):\n", "") + block(
            "def pack(weight):\n    best = None\n", ""
        )
        with pytest.raises(ArgumentError, match="blocks 1 and 2 overlap at line 7 of the program"):
            applied(blocks)

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            (
                "    best = None \n",
                r"line 7 is '    best = None' and not '    best = None ' \(only blanks at the end of the line",
            ),
            ("best = None\n", r"\(only the indentation differs\)"),
            ("\tbest = None\n", r"\(only the indentation differs, tabs against spaces\)"),
            ("    best  =  None\n", r"\(only blanks within the line differ\)"),
            (
                "def pack(weight):\n    best = 0\n",
                "nearest is line 6, where line 7 is '    best = None' and not '    best = 0'",
            ),
            ("    best = candidates\n    return best\n", "nearest is line 9, where line 9 is '        best = candidate'"),
            ("    return pack(weight)\n\nend\n", "nearest is line"),
            ("\n\n    return bests\n", "nearest is line 8, where line 8 is"),
            ("qqqqqqqq\n", "no line of it is like the first one searched for"),
            ("y\n" * 40, "no line of it is like"),
            ("import torch\n" + "y\n" * 40, "nearest is line 1, where line 2 is '' and not 'y'"),
            (FREE + "\nmore = 1\n", "nearest is line 1, but the program ends at line 17"),
        ],
    )
    def test_the_nearest_place(self, search, message):
        with pytest.raises(ArgumentError, match=message) as error:
            applied(block(search, "x = 1\n"))
        assert "\n" not in str(error.value)

    def test_a_syntax_error(self):
        with pytest.raises(
            ArgumentError, match=r"syntax error at line 3, 'CANDIDATES = = 8' \(invalid syntax\): it must be Python"
        ):
            applied(block("CANDIDATES = 8\n", "CANDIDATES = = 8\n"))
        with pytest.raises(ArgumentError, match=r"cannot be parsed|syntax error"):
            applied(block("CANDIDATES = 8\n", "CANDIDATES = '\0'\n"))

    def test_line_ends_are_the_programs(self):
        windows = FREE.replace("\n", "\r\n")
        assert applied(DIFF, windows) == windows.replace("= 8", "= 128")
        with pytest.raises(ArgumentError, match="the program has LF at line 2, and CR LF at the first line"):
            applied(DIFF, FREE.replace("\n", "\r\n", 1))


class TestMarks:
    """Where a program has marks, nothing changes outside them."""

    def test_within(self):
        assert applied(DIFF, PROGRAM) == PROGRAM.replace("= 8", "= 128")

    def test_lines_outside_may_be_searched_for(self):
        inside = block("# EVOLVE-BLOCK-START\nCANDIDATES = 8\n", "# EVOLVE-BLOCK-START\nfrom math import inf\nCANDIDATES = 8\n")
        assert applied(inside, PROGRAM) == PROGRAM.replace("CANDIDATES = 8", "from math import inf\nCANDIDATES = 8")
        before_end = block("    return best\n\n\n# EVOLVE-BLOCK-END\n", "    return best\n\n\nMORE = 1\n# EVOLVE-BLOCK-END\n")
        assert "MORE = 1\n# EVOLVE-BLOCK-END" in applied(before_end, PROGRAM)

    @pytest.mark.parametrize(
        ("diff", "message"),
        [
            (block("import torch\n", "import numpy\n"), "block 1 changes the program at line 1: only what stands between"),
            (DIFF + block("    return pack(weight)\n", "    return 1\n"), "block 2 changes the program at line 18"),
            (block("# EVOLVE-BLOCK-START\n", ""), "block 1 changes the program at line 3"),
            (block("# EVOLVE-BLOCK-START\n", "# EVOLVE-BLOCK-START \n"), "block 1 changes the program at line 3"),
            (block("import torch\n", "import torch\nimport os\n"), "block 1 changes the program at line 2"),
            (block("# EVOLVE-BLOCK-END\n", "# EVOLVE-BLOCK-END\nimport os\n"), "block 1 changes the program at line 15"),
            (block("CANDIDATES = 8\n", "# EVOLVE-BLOCK-END\nimport os\n# EVOLVE-BLOCK-START\n"), "the blocks bring in marks"),
            (
                block("CANDIDATES = 8\n", "# EVOLVE-BLOCK-START\n"),
                "the changed program has EVOLVE-BLOCK-START at line 4 inside",
            ),
            (
                block("\n# EVOLVE-BLOCK-START\nCANDIDATES = 8\n", "\nx = 1\n# EVOLVE-BLOCK-START\n"),
                "changes the program at line 3",
            ),
        ],
    )
    def test_outside(self, diff, message):
        with pytest.raises(ArgumentError, match=message):
            applied(diff, PROGRAM)

    @pytest.mark.parametrize(
        ("marks", "message"),
        [
            ("# EVOLVE-BLOCK-START\n", "EVOLVE-BLOCK-START at line 1 without an END"),
            ("# EVOLVE-BLOCK-END\n", "EVOLVE-BLOCK-END at line 1 without a START"),
            ("# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-END\n", "at line 2 inside another block"),
        ],
    )
    def test_marks_that_are_no_pairs(self, marks, message):
        with pytest.raises(ArgumentError, match=message):
            applied(DIFF, marks + FREE)


class TestMaking:
    """A proposal made of two programs makes the second of the first."""

    @given(CODE, CODE, st.sampled_from(["\n", "\r\n"]))
    def test_made_written_read_applied(self, before, after, ending):
        assume(before != after and before.strip() and _is_python(before) and _is_python(after))
        before, after = before.replace("\n", ending), after.replace("\n", ending)
        assume(ending == "\n" or (ending in before and ending in after))
        made = make_proposal("any", "Any.", before, after)
        read = parse_proposal(made.as_text())
        assert [(one.search, one.replace) for one in read.blocks] == [(one.search, one.replace) for one in made.blocks]
        assert apply_proposal(read, before) == after

    @given(LINES, LINES)
    def test_any_lines(self, before, after):
        """Whatever the lines are: applied without the check that they are Python."""
        assume(before != after and any(line.strip() for line in before) and "\n".join(before) != "\n".join(after))
        made = make_proposal("any", "Any.", "\n".join(before), "\n".join(after))
        lines, done = [], 0
        for one in parse_proposal(made.as_text()).blocks:
            found = [at for at in range(len(before)) if tuple(before[at : at + len(one.search)]) == one.search]
            assert len(found) == 1
            assert found[0] >= done
            lines += [*before[done : found[0]], *one.replace]
            done = found[0] + len(one.search)
        assert "\n".join([*lines, *before[done:]]) == "\n".join(after)

    def test_blocks_are_small(self):
        after = PROGRAM.replace("= 8", "= 9").replace("best = candidate\n", "best = -candidate\n")
        assert [len(one.search) for one in make_proposal("two", "Two.", PROGRAM, after).blocks] == [1, 1]

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("a", "a", "the same"),
            ("\n \n", "a", "blank"),
            ("a\n", "=======\n", "no marker"),
            ("a\nb\n", "a\r\nb\r\n", "lines end differently"),
        ],
    )
    def test_what_cannot_be_made(self, before, after, message):
        with pytest.raises(ArgumentError, match=message):
            make_proposal("any", "Any.", before, after)

    def test_values_are_checked(self):
        with pytest.raises(ArgumentError, match="no block"):
            Proposal("any", "Any.", ())
