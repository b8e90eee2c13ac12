"""The page in a browser, from its file and with the network off: what is drawn, hovered, clicked, filtered, printed."""

import itertools
import shutil
from types import SimpleNamespace

import pytest

from posweep.records import SweepRecord, TrialResult, TrialSpec
from posweep.report import Tables
from posweep.report.drawing.axes import number
from posweep.report.page.explorer import explorer_section
from posweep.report.page.frame import frame
from posweep.report.page.markup import Safe

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DRAWN = "id => document.getElementById(id).data.filter(one => one.customdata).map(one => [one.name, one.x, one.y])"
WITHOUT_WEBGL = """
  const offered = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    return kind.startsWith("webgl") ? null : offered.call(this, kind, ...rest);
  };
"""
PAPER = 688  # pixels between the margins of A4
SECTIONS = ["summary", "run", "methods", "explorer", "examples", "judges", "data", "time", "failures", "trials"]

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page.as_uri()


def opened(browser, address: str, width: int, before: str = "", **options) -> SimpleNamespace:
    """A tab that shows the page, without a network, and everything it asked for or complained of; runs `before` first."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_offline(True)
    asked, said = [], []
    context.on("request", lambda request: asked.append(request.url))
    tab = context.new_page()
    tab.add_init_script(before)
    tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(address)
    return SimpleNamespace(tab=tab, asked=asked, said=said, context=context)


@pytest.fixture(scope="module")
def desk(browser, address):
    """The page on a wide screen with the explorer drawn."""
    page = opened(browser, address, 1280)
    explore(page.tab)
    yield page
    page.context.close()


@pytest.fixture
def tab(desk):
    """The same, its controls as they were and its window.open watched."""
    desk.tab.evaluate("document.getElementById('explore-controls').reset()")
    desk.tab.check("input[name=method][value='0']")  # any input draws anew
    desk.tab.evaluate("document.getElementById('explore-controls').dispatchEvent(new Event('input'))")
    desk.tab.evaluate("window.went = []; window.open = (...to) => window.went.push(to); null")
    return desk.tab


def finished(record: SweepRecord) -> list[TrialSpec]:
    """The trials that the explorer holds, in its order."""
    return [
        spec for spec in record.plan if spec.key in record.results and record.results[spec.key].status == "finished"
    ]


def explore(tab) -> None:
    tab.locator("#explorer").scroll_into_view_if_needed()
    tab.wait_for_function("document.getElementById('explore-status').hidden")


def names(tab, panel: str) -> list[str]:
    return [name for name, *_ in tab.evaluate(DRAWN, f"explore-{panel}")]


def numbers(tab, panel: str) -> list[list[float]]:
    return [[x, y] for _, x, y in tab.evaluate(DRAWN, f"explore-{panel}")]


def point(tab, panel: str, method: int, place: int) -> dict:
    """Where a point stands on the screen, and which trial it is."""
    return tab.evaluate(
        """([id, method, place]) => {
          const plot = document.getElementById(id), trace = plot.data.filter((one) => one.customdata)[method];
          plot.scrollIntoView({block: "center"});
          const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
          return {trial: trace.customdata[place], x: box.x + xaxis._offset + xaxis.d2p(trace.x[place]),
                  y: box.y + yaxis._offset + yaxis.d2p(trace.y[place])};
        }""",
        [f"explore-{panel}", method, place],
    )


def test_it_opens_from_a_file_without_a_network_and_without_a_complaint(desk, address):
    assert {url.partition(":")[0] for url in desk.asked} <= {"file", "data", "blob"}
    assert [url for url in desk.asked if url.startswith("file")] == [address]
    assert desk.said == []


def test_every_section_is_there_in_the_contents_and_in_order(desk):
    anchors = desk.tab.eval_on_selector_all("main > section", "found => found.map(one => one.id)")
    linked = desk.tab.eval_on_selector_all("nav a", "found => found.map(one => one.hash.slice(1))")
    assert anchors == linked
    assert [name for name in anchors if name in SECTIONS] == SECTIONS
    assert desk.tab.locator("#grid").is_visible()


def test_every_finished_trial_is_drawn_in_all_three_panels(tab, record):
    for panel in ("distribution", "against", "setting"):
        assert names(tab, panel) == ["DPO", "LN-DPO", "SimPO"]
        assert sum(len(x) for x, _ in numbers(tab, panel)) == len(finished(record))


def test_what_is_drawn_is_what_is_recorded(tab, record):
    mine = [spec.key for spec in finished(record) if spec.method == "ln_dpo"]
    wins = [record.results[key].measures["ood/win_rate_vs_sft"] for key in mine]
    far = [record.results[key].measures["ood/kl_to_sft"] for key in mine]
    x, y = numbers(tab, "against")[1]
    assert y == sorted(y) == pytest.approx(sorted(wins), rel=1e-3)
    assert sorted(at**2 for at in x) == pytest.approx(sorted(far), rel=1e-3)


def test_hover_tells_the_configuration_and_rings_the_trial_in_every_panel(tab, record):
    spot = point(tab, "against", 1, 4)
    tab.mouse.move(spot["x"], spot["y"])
    tab.locator("#explore-against .hoverlayer .hovertext").wait_for()
    told = tab.inner_text("#explore-trial")
    spec = finished(record)[spot["trial"]]
    point_words = f"β {spec.hyperparameters['beta']:g}, γ 0, learning rate {number(spec.train['learning_rate'])}"
    win, error = (record.results[spec.key].measures[f"ood/win_rate_vs_sft{kind}"] for kind in ("", "_se"))
    for words in ("LN-DPO, seed 0", point_words, f"win-rate against SFT: {win:.4g} ± {error:.2g}", "KL to SFT"):
        assert words in told
    assert "LN-DPO, seed 0" in tab.text_content("#explore-against .hoverlayer")
    for panel, method in (("against", 1), ("distribution", 1), ("setting", 1)):
        spots = [point(tab, panel, method, place) for place in range(11)]
        mine = next(one for one in spots if one["trial"] == spot["trial"])
        ring = tab.locator(f"#explore-{panel} i").bounding_box()
        assert (ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2) == pytest.approx(
            (mine["x"], mine["y"]), abs=1
        )


def test_a_click_opens_the_trial_s_run(tab, record):
    spot = point(tab, "distribution", 2, 3)
    tab.mouse.click(spot["x"], spot["y"])
    tab.wait_for_function("window.went.length")
    url = record.run_urls[finished(record)[spot["trial"]].key]
    assert tab.evaluate("window.went[0]")[:2] == [url, "_blank"]
    assert tab.get_attribute("#explore-trial a", "href") == url


def test_filters_change_what_is_drawn(tab):
    before = {panel: numbers(tab, panel) for panel in ("distribution", "against", "setting")}
    tab.uncheck("input[name=method][value='1']")
    assert names(tab, "against") == names(tab, "distribution") == ["DPO", "SimPO"]
    tab.check("input[name=method][value='1']")
    assert numbers(tab, "against") == before["against"]
    tab.select_option("select[name=set]", "iid")
    elsewhere = {panel: numbers(tab, panel) for panel in before}
    assert all(elsewhere[panel] != before[panel] for panel in before)
    tab.select_option("select[name=metric]", "win_rate_vs_chosen")
    assert numbers(tab, "distribution") != elsewhere["distribution"]
    assert (
        tab.evaluate("document.getElementById('explore-setting').layout.yaxis.title.text") == "win-rate against chosen"
    )
    tab.select_option("select[name=against]", "response_length")
    assert (
        tab.evaluate("document.getElementById('explore-against').layout.xaxis.title.text") == "response length (tokens)"
    )
    tab.select_option("select[name=setting]", "gamma")
    assert sorted(set(numbers(tab, "setting")[2][0])) == [0.5, 1.0]


def test_all_and_none_choose_every_method_or_no_one(tab):
    tab.click("button[value=none]")
    assert names(tab, "distribution") == []
    tab.click("button[value=all]")
    assert names(tab, "distribution") == ["DPO", "LN-DPO", "SimPO"]


def test_a_declared_logarithmic_setting_has_a_logarithmic_axis(tab):
    tab.select_option("select[name=setting]", "learning_rate")
    axis = tab.evaluate(
        "(({type, ticktext}) => [type, ticktext])(document.getElementById('explore-setting').layout.xaxis)"
    )
    assert axis == ["log", ["1e-4", "3e-4", "1e-3"]]


def test_tables_are_sorted_and_filtered(desk):
    tab = desk.tab
    tab.click("#trials summary")
    tab.click("#trials th:nth-child(6) button")
    first = tab.locator("#trials tbody tr:first-child td:nth-child(6)").inner_text()
    values = tab.eval_on_selector_all(
        "#trials tbody td:nth-child(6)", "cells => cells.map(one => parseFloat(one.textContent))"
    )
    assert float(first.partition(" ")[0]) == max(value for value in values if value == value)
    assert tab.get_attribute("#trials th:nth-child(6)", "aria-sort") == "descending"
    tab.fill("#trials input", "simpo 3e-4")
    assert tab.locator("#trials tbody tr:visible").count() == 4
    assert tab.inner_text("#trials .filter span") == "4 of 36"
    tab.fill("#trials input", "")


def test_it_fits_a_phone(browser, address):
    page = opened(browser, address, 390, has_touch=True, is_mobile=True)
    explore(page.tab)
    for one in page.tab.locator("main details").all():
        one.evaluate("one => { one.open = true; }")
    width = page.tab.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert width == [390, 390, 390]
    assert not page.tab.locator("nav ol").is_visible()
    page.tab.click("nav summary")
    page.tab.click("nav a[href='#trials']")
    assert not page.tab.locator("nav ol").is_visible()
    assert page.said == []
    page.context.close()


def test_it_prints_everything_but_the_explorer(browser, address):
    page = opened(browser, address, PAPER)
    assert len(page.tab.pdf(prefer_css_page_size=True)) > 50_000
    page.tab.emulate_media(media="print")
    page.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    hidden = page.tab.eval_on_selector_all(
        "main > section", "found => found.filter(one => !one.checkVisibility()).map(one => one.id)"
    )
    assert hidden == ["explorer"]
    assert page.tab.locator("#trials tbody tr").last.is_visible()
    right = "found => Math.max(...found.map(one => one.getBoundingClientRect().right))"
    assert page.tab.eval_on_selector_all("table", right) <= PAPER
    assert page.tab.eval_on_selector_all("figure img", right) <= PAPER
    page.context.close()


def test_without_scripts_everything_else_is_there(browser, address):
    page = opened(browser, address, 1280, java_script_enabled=False)
    assert "The explorer needs JavaScript" in page.tab.inner_text("#explorer")
    assert page.tab.locator("#explore").is_hidden()
    assert page.tab.locator("nav ol").is_visible()
    assert page.tab.locator("figure img").first.is_visible()
    page.context.close()


@pytest.fixture(scope="module")
def crowd(made, tmp_path_factory) -> str:
    """The explorer alone with more trials than SVG draws with ease."""
    points = [(0.001 * (i + 1), rate) for i, rate in itertools.product(range(1100), (1e-4, 3e-4, 1e-3))]
    plan = tuple(made.spec("dpo", {"beta": beta}, rate, 0) for beta, rate in points)
    ids = [(spec.key, spec.response_key, spec.score_key) for spec in plan]
    results = {
        one[0]: TrialResult(*one, "finished", {"ood/win_rate_vs_sft": i / len(plan), "ood/kl_to_sft": i % 50 / 10})
        for i, one in enumerate(ids)
    }
    tables = Tables.of(SweepRecord("crowd", "ood/win_rate_vs_sft", plan, results))
    path = tmp_path_factory.mktemp("crowd") / "report.html"
    path.write_text(frame("crowd", Safe(""), [explorer_section(tables)]), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("webgl", "kind"), [(True, "scattergl"), (False, "scatter")])
def test_many_points_are_drawn_with_webgl_where_there_is_webgl(browser, crowd, webgl, kind):
    page = opened(browser, crowd, 1280, before="" if webgl else WITHOUT_WEBGL)
    explore(page.tab)
    assert sum(len(x) for x, _ in numbers(page.tab, "against")) == 3300
    assert page.tab.evaluate("document.getElementById('explore-against').data[0].type") == kind
    assert [text for text in page.said if "WebGL" not in text and "GL Driver" not in text] == []
    page.context.close()
