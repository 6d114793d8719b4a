"""report.html: what it says, that it takes nothing from outside, and that a browser shows it."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import lazsim
from lazsim.engine.systems import SYSTEMS
from lazsim.output.maps import plan_maps
from lazsim.output.plots.style import looks_of
from lazsim.output.report import Report, drawn, report_page, timeline_of
from lazsim.output.run import run_parts, run_report
from lazsim.output.table import Column, Table, key
from lazsim.placement.plan import PlacementPlan
from tests.conftest import P3_LIKE

MOST_BYTES = 3 << 20

VOID = {"meta", "img", "br", "wbr", "link", "input"}


def assert_complete(outline):
    """Check what pages of all kinds have: how sure it is, what to bear in mind, inputs with hashes, and names."""
    for heading in ("How sure this is", "What to bear in mind", "What was asked", "every input, with the SHA-256"):
        assert heading in outline.text
    assert re.search("[0-9a-f]{64}", outline.text)
    assert all("aria-label" in one or "aria-labelledby" in one for one in outline.all("div") if one.get("role"))


def explored(outline):
    """Return the data that a page's script draws."""
    return json.loads(outline.data)


class Outline(HTMLParser):
    """Collects elements, checks that they are closed in order, and keeps the text outside of scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text, self.data = [], [], "", ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        elif self.elements[-1] == ("script", {"type": "application/json", "id": "explored"}):
            self.data += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def result():
    return lazsim.simulate(P3_LIKE, max_nodes=10, duration="80min", systems=["lazarus", "ds"])


@pytest.fixture(scope="module")
def page(result):
    return report_page(run_report(result), run_parts(result), result.notes, "lazsim run --out DIR", {}).decode()


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_a_page_is_one_small_file_that_takes_nothing_from_outside(page, outline):
    assert len(page.encode()) < MOST_BYTES
    for tag, attributes in outline.elements:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:"), tag
    (policy,) = [one["content"] for one in outline.all("meta") if "content" in one and "default-src" in one["content"]]
    assert policy.startswith("default-src 'none'")


def test_a_page_has_what_a_screen_reader_goes_by(outline):
    assert outline.all("html") == [{"lang": "en"}]
    assert (len(outline.all("h1")), len(outline.all("main")), len(outline.all("title"))) == (1, 1, 1)
    assert all("scope" in one for one in outline.all("th"))
    assert all(one["alt"] for one in outline.all("img"))


def test_a_page_says_what_was_asked_the_answer_and_what_does_not_hold(result, outline):
    lazarus, ds = result.runs
    text = " ".join(outline.text.split())
    assert (
        f"lazarus keeps {lazarus.samples / 4800:.2f} samples/s, {lazarus.samples / ds.samples:.2f} times ds's" in text
    )
    assert all(note in text for note in result.notes)
    assert "lazsim run --out DIR" in text
    # Every failure has its row.
    assert (
        text.count("the system restarts after such a failure")
        >= sum(not one.why.startswith("the nodes") for one in ds.failures)
        > 0
    )


def test_a_page_names_every_input_with_its_hash(outline):
    assert_complete(outline)
    assert hashlib.sha256(P3_LIKE.read_bytes()).hexdigest() in outline.text
    assert all(name in outline.text for name in ("gpt-s", "rtx3090x10", "testbed-a", "smartmoe-fit", "seed"))


def test_a_table_of_more_systems_than_fit_has_a_row_for_each():
    systems = [Column(f"system-{index}", ".1%", has_name=True) for index in range(9)]
    buckets = [["compute", *[0.5] * 9], ["restart", *(index / 100 for index in range(9))]]
    table = Table([key("bucket"), *systems], buckets, title="where the time went", notes=["a note"])
    shown = report_page(Report("", "", "", {}), [table], [], "", {}).decode()
    rows = re.findall("<tr>(.*?)</tr>", shown)
    texts = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in rows]
    assert texts[:3] == [["", "compute", "restart"], ["system-0", "50.0%", "0.0%"], ["system-1", "50.0%", "1.0%"]]
    assert texts[9] == ["system-8", "50.0%", "8.0%"]


def test_a_long_table_is_folded_so_that_what_follows_is_found():
    def shown(num_rows):
        table = Table([key("run")], [[f"run {index}"] for index in range(num_rows)], title="failure by failure")
        return report_page(Report("", "", "", {}), [table], [], "", {}).decode()

    assert "<details>" not in shown(40)
    assert "<details><summary>failure by failure, 41 rows</summary>" in shown(41)
    assert Outline(shown(41)).text.count("failure by failure") == 1


def test_every_system_of_a_page_has_dashes_of_its_own_in_pairs_of_pixels():
    dashes = [drawn(name, look)["dash"] for name, look in looks_of(list(SYSTEMS)).items()]
    assert len(set(map(tuple, dashes))) == len(SYSTEMS)
    assert all(len(one) % 2 == 0 and all(pixels > 0 for pixels in one) for one in dashes)


def test_a_timeline_of_many_systems_begins_with_those_that_keep_most(result):
    runs = {f"system-{index}": replace(result.runs[0], samples=index) for index in range(9)}
    timeline = timeline_of(runs)
    assert [one["name"] for one in timeline["systems"] if one["visible"]] == [f"system-{one}" for one in range(3, 9)]
    assert timeline["num_drawn"] == 6


def test_a_page_of_a_run_too_short_for_a_step_says_so_and_explains_no_marks_that_it_lacks():
    result = lazsim.simulate("fail-every-5min", duration="0.05s", systems=["lazarus", "ds"])
    outline = Outline(report_page(run_report(result), run_parts(result), (), "", {}).decode())
    text = " ".join(outline.text.split())
    assert "Over 50 ms, no system keeps a sample." in text
    assert "Triangles are failures" not in text
    assert explored(outline)["timeline"]["phases"] == {}


def test_a_legend_of_a_timeline_has_the_phases_that_occur(result):
    named = {span.what.replace("_", " ") for run in result.runs for span in run.phases}
    # Time without a mark is that of training.
    assert set(timeline_of({run.name: run for run in result.runs})["phases"]) == named - {"compute"} > {"checkpoint"}


def test_names_from_outside_are_text_and_no_markup():
    evil = "<script>alert(1)</script>"
    table = Table([key("<b>"), Column("n", ",d")], [[evil, 3]], title=evil)
    shown = report_page(
        Report(evil, evil, evil, {"trace": {"name": evil, "sha256": "0"}}), [table, evil], [evil], evil, {}
    )
    assert Outline(shown.decode()).all("script") == Outline(shown.decode()).all("b") == []


def test_data_of_a_timeline_cannot_end_its_script(result):
    report = run_report(result)
    report.timeline["systems"][0]["name"] = "</script><b>"
    assert Outline(report_page(report, [], [], "", {}).decode()).all("b") == []


def test_the_page_of_a_run_names_the_columns_that_were_given(lazsim, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("when it was,box,what\n2025-03-01 00:00,a,up\n2025-03-01 00:00,b,up\n2025-03-01 00:05,b,down\n")
    columns = ("--columns", "time=when it was,event=what,node=box")
    lazsim("run", "--trace", log, *columns, "--duration", "1min", "--system", "ds", "--out", tmp_path / "out")
    assert "when it was" in Outline((tmp_path / "out" / "report.html").read_text()).text


def test_recovery_writes_a_page_with_the_map_of_the_plans(lazsim, tmp_path):
    # Each of 2 experts is on two of 4 nodes: 2 of the 6 pairs of nodes that can fail together hold all of one.
    plan = ["--nodes", 4, "--slots", 1, "--replicas", "2,2", "--policy", "mro"]
    lazsim("recovery", *plan, "--failures", "2", "--out", tmp_path)
    outline = Outline((tmp_path / "report.html").read_text())
    assert "When 2 nodes fail together, every expert survives with probability 0.667 under mro." in outline.text
    assert len(outline.all("img")) == 2
    assert "--failures 2 --out DIR" in outline.text
    (mro,) = explored(outline)["maps"]["plans"]
    assert sorted(expert for slots in mro["slots"][0] for expert in slots) == [0, 0, 1, 1]


def test_a_sweep_writes_a_page_with_the_best_setting(lazsim, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text('[base]\ntrace = "fail-every-5min"\nduration = "3min"\n[grid]\nsystem = ["lazarus", "ds"]\n')
    lazsim("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    outline = Outline((tmp_path / "out" / "report.html").read_text())
    assert "lazarus trains most: " in outline.text
    assert hashlib.sha256(spec.read_bytes()).hexdigest() in outline.text
    assert_complete(outline)
    points = explored(outline)["points"]
    assert points["axes"] == ["run"]
    assert [point["setting"] for point in points["rows"]] == [["lazarus"], ["ds"]]


def test_a_page_keeps_the_least_safe_layers_of_plans_that_it_cannot_hold(monkeypatch):
    # Expert 0 is on two nodes in layer 0, and on one in layer 1. Layer 2 is as layer 0. There is room for two layers.
    plan = PlacementPlan(np.array([[[0, 1], [0, 1]], [[0, 0], [1, 1]], [[0, 1], [1, 0]]]), num_experts=2)
    monkeypatch.setattr("lazsim.output.maps.MOST_CELLS", 11)
    (shown,) = plan_maps({"mine": plan}, "")["plans"]
    assert (shown["layers"], shown["least"]) == ([0, 1], 1)
    assert shown["slots"] == [[[0, 1], [0, 1]], [[0, 0], [1, 1]]]


def test_advice_writes_a_page_with_the_map_of_the_best_plan(lazsim, tmp_path):
    failures = ["--nodes", 8, "--node-mtbf", "1h", "--repair", "10min", "--duration", "10min"]
    lazsim(
        "advise", *failures, "--runs", 4, "--system", "lazarus", "--interval", "5min", "--jobs", 1, "--out", tmp_path
    )
    outline = Outline((tmp_path / "report.html").read_text())
    # The answer is not among the results once more.
    assert outline.text.count("advice for goodput") == 1
    (plan,) = explored(outline)["maps"]["plans"]
    # Six slots on each of eight nodes.
    assert np.shape(plan["slots"][0]) == (8, 6)
    assert_complete(outline)


# A browser.

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on the PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def wait_for(tab, expression):
    """Wait until an expression holds, for a minute; `wait_for_function` evaluates it where the page forbids that."""
    for _ in range(600):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(100)
    pytest.fail(f"{expression} does not hold")


def opened(browser, folder, page, **size):
    """Open a page of a size; return its tab when the timeline is drawn."""
    (folder / "report.html").write_bytes(page)
    tab = browser.new_page(viewport=size)
    # On a busy machine everything may take a minute.
    tab.set_default_timeout(120_000)
    tab.goto((folder / "report.html").as_uri())
    wait_for(tab, "Bokeh.documents.length && Bokeh.documents[0].is_idle")
    return tab


@pytest.fixture(scope="module")
def tab(browser, page, tmp_path_factory):
    """Show the page; nothing goes wrong in it and nothing is asked of the network, whatever the tests do to it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page)
    faults = []
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    # On a busy machine everything may take a minute.
    tab.set_default_timeout(120_000)
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    tab.goto(path.as_uri())
    wait_for(tab, "Bokeh.documents.length && Bokeh.documents[0].is_idle")
    yield tab
    assert faults == []


def rgb_luminance(color):
    return luminance(",".join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5)))


RATES, PHASES = (f"Bokeh.documents[0].roots()[{index}]" for index in (0, 1))
"""The first two panels of a timeline, in the browser."""

TEXT_COLOR = "Bokeh.documents.at(-1).roots()[0].left[0].axis_label_text_color"


def luminance(color):
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def test_a_browser_draws_the_timeline_and_tells_of_failures_under_the_pointer(tab, result):
    plot = tab.locator("#timeline .bk-Figure").first
    first = result.runs[0].failures[0]
    # The screen coordinates of the first failure, from the ranges of the plot.
    x, y = tab.evaluate(
        f"""(time) => {{
          const {{x_scale, y_scale}} = Bokeh.index.find_one({RATES}).frame;
          return [x_scale.compute(time), y_scale.compute({RATES}.renderers[1].data_source.data.rate[0])];
        }}""",
        first.time_s / 60,
    )
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + x, box["y"] + y)
    tab.locator(".bk-Tooltip", has_text=first.nodes[0]).first.wait_for()


def test_an_instant_stands_at_the_same_place_in_all_panels(tab):
    edges = tab.evaluate(
        """Bokeh.documents[0].roots().map(plot => {
          const {left, right} = Bokeh.index.find_one(plot).frame.bbox;
          return [left, right];
        })"""
    )
    assert len(edges) == 3
    assert edges == [edges[0]] * 3


def test_a_system_is_turned_off_by_its_name_and_the_wheel_zooms(tab):
    visible = f"{RATES}.renderers.filter(one => one.visible).length"
    assert tab.evaluate(visible) == 4
    tab.evaluate(f"{RATES}.renderers[0].visible = false")
    assert tab.evaluate(f"{PHASES}.renderers.map(one => one.visible)") == [False, True]
    box = tab.locator("#timeline .bk-Figure").first.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.wheel(0, -300)
    wait_for(tab, f"{RATES}.x_range.end - {RATES}.x_range.start < 79")


def test_a_browser_draws_the_map_of_the_layer_that_is_chosen_and_tells_of_the_replicas_under_the_pointer(tab, result):
    (plan,) = result_maps(result)
    assert plan["name"] == "lazarus"
    tab.select_option("#map-layer", str(plan["layers"][-1]))
    slots = plan["slots"][-1]
    replicas = sum(row.count(slots[0][0]) for row in slots)
    holders = [{expert for expert in row if expert >= 0} for row in slots]
    fewest = min(sum(expert in held for held in holders) for expert in set().union(*holders))
    tab.locator("#map canvas").first.wait_for()
    assert f"of this layer: {fewest} " in tab.inner_text("#map-said")
    tab.locator("#map").scroll_into_view_if_needed()
    # The first cell begins at the right of the labels of the nodes, which have 90 pixels.
    box = tab.locator("#map .bk-Figure").bounding_box()
    tab.mouse.move(box["x"] + 110, box["y"] + 20)
    told = rf"node:\s*0\s*slot:\s*0\s*expert:\s*{slots[0][0]}\s*replicas:\s*{replicas}\D"
    tab.locator(".bk-Tooltip", has_text=re.compile(told)).first.wait_for()


def result_maps(result):
    return run_report(result).maps["plans"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(tab, scheme):
    before = tab.evaluate(TEXT_COLOR)
    tab.emulate_media(color_scheme=scheme)
    if scheme == "dark":
        wait_for(tab, f"{TEXT_COLOR} !== {before!r}")
    for where in ("body", ".answer", "figcaption", "thead th", "caption"):
        text = tab.evaluate(f"getComputedStyle(document.querySelector('{where}')).color")
        back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        dark, light = sorted((luminance(text), luminance(back)))
        # The contrast that WCAG 2.1 asks of text (AA).
        assert (light + 0.05) / (dark + 0.05) > 4.5, where
    assert (luminance(back) < 0.1) == (scheme == "dark")
    # Drawings stay as they are when a dark page is printed on white.
    drawn = tab.evaluate(TEXT_COLOR)
    for paper in (1.0, luminance(back)) if scheme == "dark" else (1.0,):
        dark, light = sorted((rgb_luminance(drawn), paper))
        assert (light + 0.05) / (dark + 0.05) > 3


def test_many_systems_leave_the_timeline_its_room_on_a_phone(browser, result, tmp_path):
    runs = tuple(replace(result.runs[0], system=f"system-{number}", name=f"system-{number}") for number in range(15))
    many = replace(result, runs=runs, scenarios=result.scenarios[:1] * 15)
    page = report_page(run_report(many), run_parts(many), (), "lazsim run", {})
    tab = opened(browser, tmp_path, page, width=400, height=800)
    assert tab.evaluate(f"{RATES}.legend.items.length") == 15
    # The names of few systems leave it 200 of the panel's 300 pixels.
    height, width = tab.evaluate(
        f"(() => {{const {{frame}} = Bokeh.index.find_one({RATES}); return [frame.bbox.height, frame.bbox.width]}})()"
    )
    tab.close()
    assert height > 180
    assert width > 180


@pytest.mark.parametrize(("count", "is_turned"), [(2, False), (12, True)])
def test_names_along_an_axis_are_turned_where_they_would_overlap(browser, tmp_path, count, is_turned):
    looks = looks_of([f"system-{number}" for number in range(count)])
    values = dict.fromkeys(("mean", "low", "high"), 1.0) | {"interval": ""}
    points = {
        "axes": ["run"],
        "runs": [drawn(name, look) for name, look in looks.items()],
        "rows": [{"run": name, "setting": [name], **values} for name in looks],
    }
    page = report_page(Report("", "", "", {}, points=points), [], (), "", {})
    tab = opened(browser, tmp_path, page, width=800, height=900)
    turned = tab.evaluate("Bokeh.documents[0].roots()[0].below[0].major_label_orientation")
    tab.close()
    assert (turned != "horizontal") == is_turned


def test_a_page_fits_a_phone(tab):
    tab.set_viewport_size({"width": 400, "height": 800})
    # Charts take their new width a moment later.
    wait_for(tab, "document.documentElement.scrollWidth <= 400")


def test_the_page_of_policies_that_agree_tells_the_first_number_of_failures_that_can_lose_an_expert(lazsim, tmp_path):
    # Two copies of each expert survive any single failure under either policy, and pairs at 4 of 6.
    plan = ["--nodes", 4, "--slots", 1, "--replicas", "2,2", "--policy", "mro", "--policy", "spread"]
    lazsim("recovery", *plan, "--failures", "1-2", "--out", tmp_path)
    told = "When 2 nodes fail together, every expert survives with probability 0.667 under each policy."
    assert told in Outline((tmp_path / "report.html").read_text()).text
    lazsim("recovery", *plan, "--failures", "1", "--out", tmp_path)
    told = "When 1 node fails, every expert survives with probability 1 under each policy."
    assert told in Outline((tmp_path / "report.html").read_text()).text
