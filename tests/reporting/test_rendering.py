"""Pages: every number is the report's, nothing is fetched, and texts from files stay texts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from equipoise.errors import MissingExtraError
from equipoise.reporting import rendering, unseen
from equipoise.reporting.answering import share
from equipoise.reporting.asked import Asked
from equipoise.reporting.figures import draw
from equipoise.reporting.gathering import gather
from pages import Page, at
from reported import make_trace, planned

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.compiled

EVIL = "</script><script>alert(1)</script><img src=http://x.invalid onerror=alert(1)>"
ODD = ["\u202eevil", "\u0000\u0007\ud800", "<b>bold</b>", "{{ 7 * 7 }}", "%{x}", "\u2028line", "ñ 中文 \U0001d54f", EVIL]


@pytest.fixture(scope="module")
def page(small):
    """Return the small report's page, taken apart."""
    return Page(rendering.render(small[2]))


def test_every_number_is_the_reports(small, page):
    """Each number on the page has a path into the JSON, where the same value stands; what is shown is that, rounded."""
    found = json.loads(json.dumps(small[2].as_json()))
    assert len(page.numbers) > 100
    for path, value, shown in page.numbers:
        expected = at(found, path)
        assert (json.loads(value) if value else None) == expected, path
        assert shown == "-" if expected is None else _near(shown, expected), path


def _near(shown, expected):
    digits = shown.replace(",", "").replace("\u00a0", " ")
    scale = 100 if digits.endswith(" %") else 1
    number = float(digits.removesuffix(" %"))
    return any(abs(number - factor * expected) <= 0.51 * 10.0 ** -_decimals(digits) for factor in (scale, 100, 1, 1e-9))


def _decimals(digits):
    return len(digits.removesuffix(" %").partition(".")[2])


def test_all_parts_stand_on_the_page_in_order(small, page):
    """Six parts; the sentence; worst layers by number; tables beside figures."""
    places = [page.words.index(f"{number}. ") for number in range(1, 7)]
    assert places == sorted(places)
    assert small[2].answer.sentence in page.words
    for figure in small[2].answer.figures:
        assert figure.meaning in page.words
    paths = [path for path, _, _ in page.numbers]
    for part in ("answer.", "balance.worst.", "hottest.", "timeline.policies.", "losses.", "redundancy.", "moves."):
        assert any(path.startswith(part) for path in paths), part
    assert small[2].making.source.fingerprint in page.words
    assert "--additional-config" in page.words


def test_nothing_is_fetched(page):
    """No resource from anywhere, and a policy in the page that forbids it."""
    assert page.fetched == ["data:,"]
    assert len(page.scripts) == 3
    assert "src" not in {name for attributes, _ in page.scripts for name in attributes}


def test_the_same_report_gives_the_same_bytes(small, tmp_path):
    """Written atomically, and once like another time."""
    rendering.write_page(tmp_path / "one.html", small[2])
    rendering.write_page(tmp_path / "two.html", small[2])
    written = (tmp_path / "one.html").read_bytes()
    assert written == (tmp_path / "two.html").read_bytes()
    assert len(written) < 8e6


def test_figures_are_plotlys(small):
    """Every figure is one that plotly knows all properties of, and has a place on the page."""
    from plotly.graph_objects import Figure

    figures = draw(small[2])
    text = rendering.render(small[2])
    for key, figure in figures.items():
        Figure(figure)
        assert f'id="figure-{key}"' in text
    assert text.count('class="figure"') == len(figures) == 10


def test_texts_from_files_stay_texts():
    """Script tags, markup, templates and odd Unicode in labels and names neither run nor hide what follows."""
    trace = make_trace([f"{odd}/{number}" for number, odd in enumerate(ODD)], steps=len(ODD))
    names = [planned(trace.last(1), EVIL), planned(trace, "<i>after</i>")]
    asked = Asked(name=EVIL, command=EVIL, steps=EVIL, policies=("last",), writing=lambda engine, path: (EVIL, path))
    report = gather(trace, names, asked)
    text = rendering.render(report)
    found = Page(text)
    assert (len(found.scripts), found.handlers, found.fetched) == (3, [], ["data:,"])
    assert {"img", "b", "i"}.isdisjoint(found.tags)
    assert EVIL in found.words
    assert "{{ 7 * 7 }}" in found.words
    assert "\u0000" not in text
    text.encode()
    figures = json.loads(found.scripts[1][1])
    drawn = [line["name"] for line in figures["timeline"]["data"]]
    assert not any("<" in name for name in drawn)
    assert "<" not in found.scripts[1][1]
    assert not any("<" in note["text"] for note in figures["timeline"]["layout"]["annotations"])


def test_parts_left_out_say_why():
    """One window: the page has no figure over time, and says so."""
    trace = make_trace(steps=1)
    report = gather(trace, [planned(trace)])
    found = Page(rendering.render(report))
    assert "Left out: the load is one window" in found.words
    assert {"timeline", "losses-0"}.isdisjoint(draw(report))


def test_layers_without_load_have_no_balance():
    """A layer without tokens: a dash, and null in JSON."""
    trace = make_trace()
    load = trace.load.copy()
    load[:, 1] = 0
    report = gather(replace(trace, load=load), [planned(replace(trace, load=load))], Asked(policies=("last",)))
    assert report.as_json()["balance"]["placements"][1]["by_layer"][1] is None
    shown = {path: text for path, _, text in Page(rendering.render(report)).numbers}
    assert shown["balance.placements.1.by_layer.1"] == "-"


def test_missing_extra_is_named(small, monkeypatch):
    """The pip line, before any work."""

    def fail(name):
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(rendering, "import_module", fail)
    with pytest.raises(MissingExtraError, match=r'jinja2 is not installed.*pip install "equipoise\[report\]"'):
        rendering.render(small[2])


def test_shares_are_shown_as_on_the_terminal():
    """Two decimals; a number and its sign stay on one line."""
    assert share(0.99984) == "99.98\u00a0%"
    assert share(float("nan")) == "-"


def test_what_turns_text_is_made_visible():
    """Bidirectional controls in names could make a page say something else than the file does."""
    marks = "\u061c\u200e\u200f\u202a\u202e\u2066\u2069"
    assert unseen.visible(f"a{marks}b\u05d0") == f"a{chr(0xFFFD) * 7}b\u05d0"
    assert unseen.one_line("86\u00a0%\r\x1b[2Jb") == "86 % \ufffd[2Jb"
    trace = make_trace()
    from plotly.offline import get_plotlyjs

    text = rendering.render(gather(trace, [planned(trace, f"x{marks}y")], Asked(policies=("last",))))
    assert not set(marks) & set(text.replace(get_plotlyjs(), ""))


def test_scores_are_explained(page):
    """Every word that says what a number was measured on."""
    for words in ("In-sample:", "This load:", "Bound:", "Next-window:"):
        assert words in page.words


def test_slots_of_policies_are_shown_where_they_differ(small):
    """A column for them, and none where all are the same."""
    trace, made, report = small
    assert not any(path.startswith("timeline.policies.0.slots") for path, _, _ in Page(rendering.render(report)).numbers)
    uneven = gather(trace, [made], Asked(policies=("last", "last,slots=16")))
    shown = {path: text for path, _, text in Page(rendering.render(uneven)).numbers}
    assert (shown["timeline.policies.0.slots"], shown["timeline.policies.1.slots"]) == ("12", "16")


def test_bars_of_colours_stand_below_the_axis(small):
    """Placed in pixels of the figure, in room kept for them; ticks between whole ranks are not drawn."""
    for key, figure in draw(small[2]).items():
        if key.startswith("map-"):
            bar = figure["data"][0]["colorbar"]
            assert (bar["yref"], bar["y"], bar["yanchor"]) == ("container", 0, "bottom")
            assert figure["layout"]["margin"]["b"] > 120
            assert figure["layout"]["xaxis"]["nticks"] <= len(figure["data"][0]["z"][0])
