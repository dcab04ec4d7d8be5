"""The page in a browser: filters, links, keyboard, the address; no error, nothing fetched.

Debian's ``chromium``, driven by playwright (``pip install 'agilepruner[browser]'``); skipped where
one of them is not there.
"""

import base64
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import synthetic_rows as made
from PIL import Image

from agilepruner.report.dashboard import page
from agilepruner.report.dashboard.documents import Look, Picture, Said
from agilepruner.report.dashboard.findings import Finding
from agilepruner.report.lines import build_tables
from agilepruner.report.statistics import analyse
from agilepruner.runner.journal import Entry

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
# A browser is no package of Python: machines without one still test what the page is made of.
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


def bits(there):
    return base64.b64encode(np.packbits(there).tobytes()).decode()


class Reader:
    """Made-up documents of 4 x 4 tokens."""

    def looks(self, row, wanted):
        out = io.BytesIO()
        Image.new("RGB", (32, 16), "teal").save(out, "WEBP")
        for document in wanted:
            asked = [(document, f"What <b>is</b> {document}?", ["cat"])]
            yield document, Look(asked, Picture(out.getvalue(), (32, 16)))

    def attention(self, row, image):
        return base64.b64encode(bytes(range(0, 256, 16))).decode()

    def said(self, row, wanted):
        kept = None if row.strategy == "vanilla" else {"bits": bits([1, 0] * 8), "phases": "01" * 4}
        right = row.scores or []
        answers = ["cat" if score >= 0.5 else "</script>dog" for score in right]
        entry = Entry(0, "x", visual=8, grid=[4, 4], kept=kept, view=[-0.1, 0, 1.1, 1])
        return {d: Said(replace(entry, doc=d, answer=answers[d]), 1e9) for d in wanted}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    rows = made.rows(
        ("uniform", "divprune", "agilepruner"),
        (64, 32),
        ("gqa", "pope", "chair"),
        suite="<!--<script>",
        kinds=["simple", "complex"] * 20,
        phases={"attention": 0.5, "distance": 0.5},
    )
    tables = build_tables(rows)
    compared = [analyse(table) for table in tables]
    finding = Finding("claims", "Claims", "", [("", ["claim"], [["it holds"]])], ["a note"])
    path = tmp_path_factory.mktemp("page") / "dashboard.html"
    path.write_text(page(tables, compared, "T", {}, [finding], Reader(), 60), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def view(browser, where):
    """The page, open; what it fetched and complained of must stay empty."""
    context = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(5000)
    fetched, complaints = [], []
    opened.on("request", lambda request: fetched.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(where)
    yield opened
    assert complaints == []
    assert {url for url in fetched if not url.startswith(("data:", "blob:"))} <= {where}
    context.close()


def cell(view, row, column):
    return (
        view.locator("main table")
        .first.locator("tbody tr:not(.group)")
        .nth(row)
        .locator("td")
        .nth(column)
    )


def test_a_cell_leads_to_its_flipped_documents_and_the_address_says_so(view, browser, where):
    cell(view, 5, 0).locator("a").click()  # DivPrune at 32 on GQA
    assert "view=documents" in view.url
    assert "benchmark=gqa" in view.url
    items = view.locator(".list a")
    marks = items.evaluate_all(
        "all => all.map(a => [...a.querySelectorAll('b')].map(b => b.className))"
    )
    assert marks
    assert all(a != b for a, b in marks)  # each of them flipped
    items.last.click()
    answers = view.locator(".seen .answer").all_inner_texts()
    assert sorted(answers) == ["</script>dog", "cat"]
    assert view.locator(".question").first.inner_text().startswith("What <b>is</b>")
    again = browser.new_page()
    again.goto(view.url)  # as a colleague would
    assert again.locator(".seen .answer").all_inner_texts() == answers
    again.close()


def test_filters_and_search_choose_documents(view):
    view.locator("nav a", has_text="Documents").last.click()
    total = view.locator(".list li").count()
    assert total == 60
    for label, value in (("benchmark", "pope"), ("image", "simple"), ("A → B", "lost")):
        view.get_by_label(label, exact=True).select_option(value)
        assert 0 < view.locator(".list li").count() < total
        total = view.locator(".list li").count()
    assert set(view.locator(".list .what b:first-of-type").all_inner_texts()) == {"✓"}
    view.keyboard.press("/")
    view.keyboard.type("no such words")
    assert view.locator(".list").count() == 0
    assert view.get_by_text("No document on this page fits").is_visible()
    assert view.evaluate("document.activeElement.id") == "search"


def test_keys_step_swap_and_change_what_is_drawn(view):
    view.locator("nav a", has_text="Documents").last.click()

    def shown():
        return view.locator("#detail").get_attribute("aria-label")

    first = shown()
    view.keyboard.press("j")
    assert shown() != first
    view.keyboard.press("k")
    assert shown() == first
    lines = [one.get_attribute("data-line") for one in view.locator(".seen").all()]
    view.keyboard.press("s")
    assert [one.get_attribute("data-line") for one in view.locator(".seen").all()] == lines[::-1]
    assert view.locator(".seen path.dropped").count() == 1  # vanilla drops nothing
    assert view.locator(".seen path.kept").count() == 2  # a colour per phase
    assert "attention: 4" in view.locator(".phases").inner_text()
    assert "8 of 16 tokens" in view.locator(".seen svg[role=img]").first.get_attribute("aria-label")
    view.keyboard.press("o")
    assert "overlay=attention" in view.url
    assert view.locator(".seen path.dropped").count() == 0
    view.go_back()
    assert view.locator(".seen path.dropped").count() == 1


def test_whoever_works_with_the_keyboard_goes_on_where_they_were(view):
    view.locator("nav a", has_text="Documents").last.click()
    chosen = view.get_by_label("benchmark", exact=True)
    chosen.focus()
    view.keyboard.press("ArrowDown")
    assert "benchmark=" in view.url
    assert chosen.evaluate("one => one === document.activeElement")
    view.locator(".list a").nth(2).focus()
    view.keyboard.press("Enter")
    assert "doc=" in view.url
    assert view.locator(".list a").nth(2).evaluate("one => one === document.activeElement")


@pytest.mark.parametrize(
    "typed",
    [
        "view=documents&a=__proto__&flip=constructor&sort=toString&overlay=x&benchmark=gqa",
        "ref=constructor&table=9&hide=toString",
        "view=valueOf&text=%E0%A4%A",
    ],
)
def test_an_address_that_was_mistyped_shows_something(view, where, typed):
    view.goto("about:blank")
    view.goto(f"{where}#{typed}")
    assert view.locator("main section").count() > 0


def test_of_several_tiles_the_details_are_drawn_where_they_lie_or_the_overview(browser, tmp_path):
    """Two tiles side by side before their overview, as SmolVLM and InternVL have them."""

    class Tiled(Reader):
        def said(self, row, wanted):
            there = [0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]  # of 2 x 2 tokens, a patch in each tile
            kept = None if row.strategy == "vanilla" else {"bits": bits(there)}
            entry = Entry(0, "x", grid=[2, 2], tiles=3, kept=kept, mosaic=[1, 2], overview=2)
            return {d: Said(replace(entry, doc=d), 1e9) for d in wanted}

    (table,) = tables = build_tables(made.rows(("divprune",), (64,), ("gqa",)))
    path = tmp_path / "dashboard.html"
    path.write_text(page(tables, [analyse(table)], "T", {}, reader=Tiled(), wanted=3))
    opened = browser.new_page()

    def drawn(tiles):
        opened.goto("about:blank")
        opened.goto(f"{path.as_uri()}#view=documents&tiles={tiles}")
        return opened.locator(".seen path.kept").get_attribute("d")

    assert drawn("") == "M8.00,0.00h8.00v8.00h-8.00zM16.00,8.00h8.00v8.00h-8.00z"
    assert drawn("overview") == "M0.00,0.00h16.00v8.00h-16.00z"
    opened.close()


def test_the_reference_strategies_and_light_are_chosen_in_the_page(view):
    def panels():
        return view.locator("section[aria-label^=Differences] figcaption").all_inner_texts()

    before = panels()
    view.get_by_label("reference", exact=True).select_option("divprune")
    assert "ref=divprune" in view.url
    assert panels() != before
    assert "minus DivPrune" in panels()[0]
    cell(view, 1, 0).locator("a").hover()
    assert "minus DivPrune" in view.locator("#tip").inner_text()
    count = view.locator("main table").first.locator("tbody tr").count()
    view.get_by_role("button", name="Uniform grid").click()
    assert view.locator("main table").first.locator("tbody tr").count() == count - 2
    view.get_by_label("light", exact=True).select_option("dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert view.evaluate(paper) == "rgb(19, 20, 23)"


def test_every_view_draws_and_gives_its_csv(view):
    for name, figures in (("Costs", 9 + 2), ("Results", None), ("Documents ×", 0), ("Analyses", 0)):
        view.locator("nav a", has_text=name).first.click()
        assert view.locator("main section").count() > 0
        if figures is not None:
            assert view.locator("main figure").count() == figures
    assert view.get_by_text("it holds").is_visible()
    view.locator("nav a", has_text="Documents ×").click()
    assert view.locator(".strip svg").count() == 7
    with view.expect_download() as download:
        view.get_by_role("button", name="CSV of map-gqa").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("strategy,budget,right,lost,won,only right,only wrong,document ")
    view.locator(".strip svg").nth(1).focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        view.keyboard.press(key)
    assert "doc=gqa." in view.url
    view.go_back()
    view.locator(".lists a").first.click()
    assert view.locator("#detail").is_visible()


def test_a_narrow_screen_does_not_scroll_sideways(view):
    view.set_viewport_size({"width": 400, "height": 800})
    for name in ("Results", "Costs", "Documents ×", "Analyses"):
        view.locator("nav a", has_text=name).first.click()
        assert view.evaluate("document.documentElement.scrollWidth") <= 400, name
    view.locator("nav a", has_text="Documents").last.click()
    assert view.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_page_without_rows_says_so(browser, tmp_path):
    path = tmp_path / "dashboard.html"
    path.write_text(page([], [], "Nothing", {}), encoding="utf-8")
    opened = browser.new_page()
    opened.goto(path.as_uri())
    assert opened.locator("#about").inner_text() == "No rows yet."
    opened.close()
