"""Pages opened in Debian's chromium: drawn soon, without complaints, without asking anyone for anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

import pytest

import equipoise
from pages import at

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
SECONDS = 2.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [pytest.mark.browser, pytest.mark.compiled]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Return chromium with logs of its console and network."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or pytest.fail("no chromium: run .ci/browser")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        driver.get("about:blank")
        yield driver


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a page that the command wrote, and what it printed as JSON."""
    page = tmp_path_factory.mktemp("page") / "report.html"
    command = [str(Path(sys.executable).with_name("equipoise")), "report", str(EXAMPLE), "--ranks", "8", "--slots", "40"]
    done = subprocess.run([*command, "--out", str(page), "--json"], check=True, capture_output=True, text=True)
    return page, json.loads(done.stdout)


def _open(browser, page, width=1280, scheme="light"):
    """Open a page; return the seconds until all is drawn."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get_log("browser")
    browser.get_log("performance")
    start = monotonic()
    browser.get(page.as_uri())
    while browser.execute_script("return document.documentElement.dataset.drawn") is None:
        assert monotonic() - start < 30, browser.get_log("browser")
        sleep(0.01)
    return monotonic() - start


def _asked_for(browser):
    """Return the addresses that were asked for since the page was opened, but for what stands in the page itself."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_open(browser, made, width, scheme, tmp_path):
    """Soon, with every figure in sight of its width, nothing in the console, and no request but for the page."""
    page, _ = made
    seconds = _open(browser, page, width, scheme)
    assert _asked_for(browser) == [page.as_uri()]
    assert browser.get_log("browser") == []
    assert min([seconds, *(_open(browser, page, width, scheme) for _ in range(2) if seconds > SECONDS)]) <= SECONDS
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    figures = browser.execute_script(
        "return [...document.querySelectorAll('.figure')].map(f => [f.id, f.querySelectorAll('.main-svg').length,"
        " f.getBoundingClientRect().width, f.querySelector('.main-svg').getBoundingClientRect().width])"
    )
    assert len(figures) == 10
    for name, drawn, room, taken in figures:
        assert drawn > 0, name
        assert 0 < taken <= room + 1, name
    assert (tmp_path / "page.png").write_bytes(browser.get_screenshot_as_png()) > 10_000


def test_figures_hold_what_the_tables_do(browser, made):
    """Lines, bars and cells are there, as many as the report has."""
    page, found = made
    _open(browser, page)
    traces = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.figure')].map(f => "
        "[f.id.slice(7), f.data.map(t => [t.type, t.name, t.y ? Array.from(t.y) : null])]))"
    )
    shown = [100 * value for value in found["balance"]["placements"][1]["by_layer"]]
    assert traces["layers"][1][2] == pytest.approx(shown, abs=1e-3)
    names = [line["name"] for line in found["timeline"]["policies"]]
    assert [name.removesuffix(", kept") for _, name, _ in traces["timeline"][: len(names)]] == names
    assert [traces[f"losses-{number}"][0][0] for number in range(3)] == ["waterfall"] * 3
    assert browser.execute_script("return document.querySelectorAll('.figure .heatmaplayer image').length") == 3
    assert browser.execute_script("return document.querySelectorAll('#figure-layers .scatterlayer .trace').length") == 3


def test_numbers_are_those_of_json(browser, made):
    """What stands on the page is what --json printed."""
    page, found = made
    _open(browser, page)
    numbers = browser.execute_script(
        "return [...document.querySelectorAll('data')].map(d => [d.dataset.path, d.value, d.innerText])"
    )
    assert len(numbers) > 250
    for path, value, shown in numbers:
        expected = at(found, path)
        assert (json.loads(value) if value else None) == expected, path
        if isinstance(expected, float) and shown.endswith("%"):
            assert shown.replace("\u00a0", " ") == f"{100 * expected:.2f} %", path
    sentence = browser.execute_script("return document.querySelector('.sentence').textContent")
    assert sentence == found["answer"]["sentence"]


def test_light_and_dark_follow_the_system(browser, made):
    """Text and axes change when the system does, without opening the page anew."""
    page, _ = made
    _open(browser, page, scheme="light")
    colour = "return getComputedStyle(document.querySelector('#figure-layers .xtitle')).fill"
    light = browser.execute_script(colour)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    until = monotonic() + 10
    while browser.execute_script(colour) == light:
        assert monotonic() < until
        sleep(0.02)
    assert browser.get_log("browser") == []


def test_pages_print(browser, made):
    """Printing gives pages of paper, without complaints, and unfolds what is folded."""
    page, _ = made
    _open(browser, page, scheme="dark")
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 100_000
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(d => d.open)")
    assert browser.get_log("browser") == []


def test_texts_from_files_do_not_run(browser, tmp_path):
    """Script tags in labels and names neither run nor hide the figures."""
    from equipoise.reporting.asked import Asked
    from equipoise.reporting.gathering import gather
    from equipoise.reporting.rendering import write_page
    from reported import make_trace, planned

    evil = "</script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
    trace = make_trace([evil, evil, "<a href='javascript:0'>b</a>", "\u202ec\u0000", "d", evil])
    report = gather(trace, [planned(trace, evil)], Asked(name=evil, command=evil, policies=("last",)))
    write_page(tmp_path / "evil.html", report)
    _open(browser, tmp_path / "evil.html")
    assert _asked_for(browser) == [(tmp_path / "evil.html").as_uri()]
    assert browser.get_log("browser") == []
    assert "hit" not in browser.title.replace(evil, "")
    assert browser.execute_script("return document.querySelectorAll('main img, main a, .figure a').length") == 0
    assert browser.execute_script("return document.querySelectorAll('.figure .main-svg').length") > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_words_have_room(browser, tmp_path, width):
    """Labels beside bars are whole, names of domains do not overlap, and axes' titles stand clear of bars of colours."""
    from equipoise.reporting.asked import Asked
    from equipoise.reporting.gathering import gather
    from equipoise.reporting.rendering import write_page
    from reported import make_trace, planned

    trace = make_trace(["conversation/0", "conversation/1", "programming", "mathematics", "translation/0", "translation/1"])
    write_page(tmp_path / "room.html", gather(trace, [planned(trace)], Asked(name="room")))
    _open(browser, tmp_path / "room.html", width)
    boxes = (
        "const box = e => (({left, right, top, bottom}) => [left, right, top, bottom])(e.getBoundingClientRect());"
        "const all = (q, r) => [...(r || document).querySelectorAll(q)];"
    )
    beside = browser.execute_script(
        boxes + "return all('[id^=figure-losses]').flatMap(f => all('.ytick text', f).map(t => [box(t)[0], box(f)[0]]))"
    )
    assert beside
    assert all(left >= edge - 1 for left, edge in beside)
    names = sorted(browser.execute_script(boxes + "return all('#figure-timeline .annotation-text').map(box)"))
    assert bool(names) == (width > 600)
    assert all(one[1] <= following[0] + 1 for one, following in pairwise(names))
    pairs = browser.execute_script(
        boxes + "return all('[id^=figure-map]').map(f => [box(all('.xtitle', f)[0])[3], box(all('.cbfills', f)[0])[2]])"
    )
    assert len(pairs) == 3
    assert all(title <= bar for title, bar in pairs)
    captions = browser.execute_script(boxes + "return all('caption').map(c => box(c)[1])")
    assert all(right <= width for right in captions)
    names = browser.execute_script(boxes + "return all('#time td:first-child').map(c => box(c)[1] - box(c)[0])")
    assert min(names) > 120
