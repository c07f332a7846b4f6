"""What README and pages say is run: their Python, their commands, their figures. A new page with code must have its entry."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import equipoise
from documents import DOCS, ROOT, Ran, blocks_of, commands_in, has_code, lines_in, printed_comments, run_page
from equipoise import Cluster, LoadTrace, Placement, plan
from equipoise.files.placements import FORMATS
from equipoise.forecasting.naming import FORECASTERS
from equipoise.planning.published import REFINERS

README = ROOT / "README.md"
PAGES_OF_ALL = sorted([README, *ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/**/*.md")], key=str)


def _random(name: str, *shape: int, seed: int = 0) -> None:
    LoadTrace(np.random.default_rng(seed).integers(0, 1000, shape)).write(name)


def _nothing() -> None:
    pass


def _any(ran: Ran) -> None:
    pass


@dataclass(frozen=True)
class Page:
    """How a page is run: files that it takes for granted, what its Python must have printed, words that differ, an extra."""

    files: Callable[[], None] = _nothing
    check: Callable[[Ran], None] = _any
    swaps: dict[str, str] = field(default_factory=dict)
    needs: str = "numpy"


def _two_loads(*names: str, shape: tuple[int, ...]) -> Callable[[], None]:
    return lambda: [_random(f"{name}.npz", *shape, seed=seed) for seed, name in enumerate(names)] and None


def _unseen_files() -> None:
    _random("load.npz", 8, 2, 256)
    Placement(np.tile(np.arange(288) % 256, (2, 1)), Cluster(32, 9), 256).write("placement.json")


def _choice_files() -> None:
    _random("glm.npz", 4, 2, 256)
    _random("gpt-oss-steps.npz", 64, 2, 32)


MINE = """\
import torch

from equipoise import rebalance_experts as ours

CANDIDATES = 8


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return ours(weight, num_replicas, num_groups, num_nodes, num_gpus)
"""


def _scoring_files() -> None:
    _random("load.npz", 600, 1, 256)
    Path("mine.py").write_text(MINE)
    Path("change.txt").write_text(next(code for kind, code in blocks_of("scoring.md") if kind == "text"))
    for folder in ("examples", "src"):
        Path(folder).symlink_to(ROOT / folder)


def _split_is_ahead(ran: Ran) -> None:
    even, optimal, _, _, proven, batch, few_moves, near_bound, *_ = ran.printed.split()
    assert float(even) < float(optimal) <= 1.0
    assert (proven, few_moves, near_bound) == ("True", "True", "True")
    assert float(batch) > 0.99
    assert Path("shares.npz").exists()


def _budget_is_kept(ran: Ran) -> None:
    before, after, *facts, safe, price, is_known = ran.printed.split()
    assert float(before) < float(after)
    assert facts == ["True"] * 5
    assert float(safe) <= float(price)
    assert is_known == "True"
    assert Path("schedule.json").exists()


def _report_is_written(ran: Ran) -> None:
    assert ran.printed.startswith("The slowest of 8 ranks sets the pace")
    assert all(map(Path.exists, map(Path, ("report.html", "plan.html", "both.html", "mine.html"))))


def _placement_is_kept(ran: Ran) -> None:
    assert ran.printed == "0\n"
    assert all(map(Path.exists, map(Path, ("map.json", "balancer.yaml", "experts.json", "arrays.npz", "next.jsonl"))))


def _packing_term_is_nothing(ran: Ran) -> None:
    printed = [line.split() for line in ran.printed.splitlines()]
    assert [line[1] for line in printed] == ["0.0", "0.0"]
    assert printed[0][2] == printed[1][2]


def _no_row_is_worse(ran: Ran) -> None:
    balance = {name: float(figure) for name, figure, _ in map(str.split, ran.printed.splitlines())}
    assert balance["lpt"] < balance["lpt+one_exchange"] <= balance["default"]
    assert [result.name for result in ran.names["replayed"].policies] == ["last,planner=lpt+one_exchange", "last"]


def _forecast_is_used(ran: Ran) -> None:
    assert [line.split()[0] for line in ran.printed.splitlines()] == ["last", "auto", "largest:2", "largest:3"]


def _as_said(page: str) -> Callable[[Ran], None]:
    return lambda ran: _check_said(page, ran)


def _check_said(page: str, ran: Ran) -> None:
    assert ran.printed.splitlines() == printed_comments(page)


PAGES = {
    "dispatch.md": Page(_two_loads("load", "next", shape=(8, 2, 256)), _split_is_ahead),
    "extending/engine-format.md": Page(check=_as_said("extending/engine-format.md")),
    "extending/forecaster.md": Page(check=_forecast_is_used),
    "extending/planner-part.md": Page(check=_no_row_is_worse),
    "how-to-choose.md": Page(_choice_files),
    "index.md": Page(check=_as_said("index.md")),
    "out-of-sample.md": Page(_unseen_files, _packing_term_is_nothing),
    "placement-files.md": Page(_two_loads("load", shape=(2, 58, 256)), _placement_is_kept),
    "plugins.md": Page(),
    "rebalancing.md": Page(_two_loads("old", "load", shape=(3, 2, 256)), _budget_is_kept),
    "report.md": Page(_two_loads("load", shape=(8, 2, 32)), _report_is_written, needs="plotly"),
    "scoring.md": Page(_scoring_files, swaps={"168ea4": hashlib.sha256(MINE.encode()).hexdigest()[:6]}, needs="torch"),
    "tutorial.md": Page(check=_as_said("tutorial.md"), needs="plotly"),
}

ELSEWHERE = {
    "command-line.md": "cli/test_command_page.py",
    "engine-check.md": "engine_rules/test_pages.py",
    "metrics.md": "engine_rules/test_pages.py",
    "traces.md": "test_generating.py",
    **{f"engines/{page.name}": "test_engine_pages.py" for page in DOCS.glob("engines/*.md")},
}
"""Pages that need more than files, by the tests that run them."""


@pytest.fixture
def _tables_kept():
    """Undo what pages add to tables of names."""
    tables = (FORMATS, FORECASTERS, REFINERS)
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.compiled
@pytest.mark.usefixtures("_tables_kept")
@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page == "scoring.md")) for page in PAGES])
def test_the_page_runs(page, run, tmp_path, monkeypatch, capsys):
    """From the top: every command is taken, every program runs, and they print what the page shows."""
    pytest.importorskip(PAGES[page].needs)
    monkeypatch.chdir(tmp_path)
    PAGES[page].files()
    PAGES[page].check(run_page(page, _but_for_warming(run), capsys, PAGES[page].swaps))


def _but_for_warming(run):
    """Leave out compiling everything: the suite has compiled what it needs."""
    return lambda *words: (0, "", "") if words == ("warmup",) else run(*words)


def test_no_page_with_code_is_forgotten():
    """Each is run here, or by the test that says so."""
    with_code = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if has_code(page)}
    assert with_code == with_code & (PAGES.keys() | ELSEWHERE.keys())
    for page, test in ELSEWHERE.items():
        assert Path(page).stem in (ROOT / "tests" / test).read_text()


@pytest.mark.parametrize("page", PAGES_OF_ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_other_commands_are_known(page):
    """Shell blocks hold commands of ours, targets of the Makefile, and a few words that every shell knows."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {"equipoise", "make", "pip", "pipx", "python", "export", "cd", "git", "python3"}
    for kind, code in blocks_of(page):
        for line in lines_in(code) if kind == "sh" else ():
            words = line.split()
            if page.parent.name != "engines" and page.parts[-3] != "examples":
                assert words[0] in known, line
            if words[0] == "make":
                assert words[1] in targets, line


def test_options_named_in_passing_exist(run):
    """``equipoise plan --previous`` in a line of text names a command and options that are there."""
    helps: dict[str, str] = {}
    for page in PAGES_OF_ALL:
        for named in re.findall(r"`equipoise ([a-z]+[^`|]*)`", page.read_text()):
            words = named.split()
            if words[0] not in helps:
                code, helps[words[0]], _ = run(words[0], "--help")
                assert code == 0, (page, named)
            for option in re.findall(r"(?<!\S)--[a-z-]+", named):
                assert re.search(rf"{option}(?![a-z-])", helps[words[0]]), (page.name, named, option)


@pytest.mark.parametrize("page", PAGES_OF_ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Every relative link of a page names a file."""
    for target in re.findall(r"\]\((?!http)([^)#\s]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES_OF_ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lists_and_tables_begin_after_a_blank_line(page):
    """Some readers of Markdown, the site's among them, take them for text otherwise."""
    text = re.sub(r"^( *)```.*?^\1```", "```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = ["", *text.splitlines()]
    for before, line in pairwise(lines):
        for begins in (r"- ", r"\|", r"\d+\. "):
            if re.match(begins, line) and before.strip():
                assert re.match(rf"{begins}| ", before), line


class TestReadme:
    """It is run, and its figures are those of the load that ships."""

    @pytest.mark.compiled
    def test_it_runs(self, run, tmp_path, monkeypatch, capsys):
        """From the top, as a new user would, from an empty folder; and Python prints what its comments say."""
        pytest.importorskip("plotly")
        monkeypatch.chdir(tmp_path)
        ran = run_page(README, _but_for_warming(run), capsys)
        assert len(ran.commands) >= 5
        assert (tmp_path / "placement.json").exists()
        assert f"# {float(ran.printed.split()[0]):.4f} on the load planned for" in README.read_text()
        assert np.shape(ran.names["result"].placement.expert_of_slot) == (24, 40)

    def test_its_table_is_that_of_the_demo(self):
        """Before and after, all layers and worst layer, to the digits printed."""
        trace, result = LoadTrace.example(), plan(LoadTrace.example(), Cluster(8, 5))
        before = Placement(np.tile(np.arange(40) % 32, (24, 1)), Cluster(8, 5), 32)
        for name, balance, worst in [
            ("before: slots in id order", before.balancedness(trace), before.worst_layer(trace)),
            ("after: this plan", result.balancedness, result.worst_layer),
        ]:
            assert f"| {name} | {100 * balance:.1f} % | {100 * worst:.1f} % |" in README.read_text()

    def test_it_is_short(self):
        """A page, not a book."""
        assert len(README.read_text().splitlines()) <= 100


class TestSite:
    """mkdocs.yml, without building it (``make docs`` builds it)."""

    def test_every_page_has_its_place(self):
        """In the navigation, once."""
        named = re.findall(r"^ +- .*?: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
        assert len(named) == len(set(named))
        pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
        assert {name for name in named if not name.startswith("project/")} == pages
        assert all((ROOT / name.removeprefix("project/")).exists() for name in named if name.startswith("project/"))

    def test_every_public_name_is_in_the_reference(self):
        """Those of ``equipoise.__all__``, and no other."""
        text = (DOCS / "reference.md").read_text()
        named = re.findall(r"^::: equipoise\.(\S+)$", text, re.MULTILINE)
        assert sorted([*named, "placement.ABSENT"]) == sorted(f"{home}.{name}" for name, home in equipoise._HOME.items())
        assert "`equipoise.ABSENT`" in text

    @pytest.mark.parametrize("picture", sorted(DOCS.glob("pictures/*.svg")), ids=lambda path: path.name)
    def test_pictures_stand_alone(self, picture):
        """They name nothing to fetch, have a title, a ground of their own (light and dark pages), and are on a page."""
        text = picture.read_text()
        assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
        assert "<title>" in text
        assert "<script" not in text
        assert 'fill="#ffffff"' in text
        assert any(f"pictures/{picture.name}" in page.read_text() for page in PAGES_OF_ALL)


class TestCitation:
    """CITATION.cff."""

    def test_it_is_of_this_version(self):
        """With the fields that the format asks for."""
        import yaml

        cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert cited["cff-version"] == "1.2.0"
        assert {"message", "title", "authors"} <= cited.keys()
        assert (cited["title"], cited["version"], cited["license"]) == (project["name"], project["version"], project["license"])
        assert equipoise.__version__ == project["version"]
        assert all(author.get("name") or author.get("family-names") for author in cited["authors"])


def test_the_commands_of_a_page_are_found():
    """Lines that go on, comments, other programs."""
    code = "equipoise plan a.npz \\\n  --quiet  # why\nmake test\n# equipoise no\n"
    assert commands_in(code) == [["equipoise", "plan", "a.npz", "--quiet"]]
