"""The pages in a real browser: that of EVORAY_CHROMIUM, or a Chromium or Chrome of this machine."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.report.pages import HOSTILE, LONG, rendered

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="NOT TESTED: the pages in a browser; install playwright (pip install -e '.[dev]')"
)

_NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 120_000  # milliseconds: the machine may be busy
PAGES = {
    **{kind: (kind, None) for kind in ("run", "comparison")},
    **{f"hostile-{kind}": (kind, HOSTILE) for kind in ("run", "comparison")},
    **{f"long-{kind}": (kind, LONG) for kind in ("run", "comparison")},
}
every = pytest.mark.parametrize("name", PAGES)
each_kind = pytest.mark.parametrize("name", ["run", "comparison"])
by_day_and_night = pytest.mark.parametrize("scheme", ["light", "dark"])

OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("EVORAY_CHROMIUM") or next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(
            "NOT TESTED: the pages in a browser; install one (apt-get install chromium), or set EVORAY_CHROMIUM"
        )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, timeout=_PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The URL of each page."""
    folder = tmp_path_factory.mktemp("pages")
    for name, page in PAGES.items():
        (folder / f"{name}.html").write_text(rendered(*page), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture
def opened(browser: Browser, files: dict[str, str]) -> Iterator[Any]:
    """Opens a page by name, in a window of its own with these settings."""
    contexts = []

    def open_page(name: str, **settings: Any) -> Page:
        contexts.append(browser.new_context(**settings))
        contexts[-1].set_default_timeout(_PATIENCE)
        page = contexts[-1].new_page()
        page.goto(files[name])
        return page

    yield open_page
    for context in contexts:
        context.close()


@every
@by_day_and_night
def test_it_opens_without_a_complaint_and_asks_for_nothing(
    browser: Browser, files: dict[str, str], name: str, scheme: Any
) -> None:
    context = browser.new_context(color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(files[name])
    page.wait_for_timeout(50)
    context.close()
    assert (said, asked) == ([], [files[name]])


@each_kind
def test_the_policy_stops_what_markup_of_a_stranger_would_do(opened: Any, name: str) -> None:
    page, said = opened(name), []
    page.on("console", lambda message: said.append(message.text))
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            const image = document.createElement('img');
            image.src = 'file:///never.png';
            document.body.append(script, image);
        }"""
    )
    for _ in range(100):
        if len(said) >= 2:
            break
        page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert len([text for text in said if "Content Security Policy" in text]) == 2


@every
@by_day_and_night
def test_axe_finds_nothing_that_shuts_people_out(opened: Any, name: str, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="NOT TESTED: accessibility; install axe-playwright-python"
    )
    page = opened(name, color_scheme=scheme, bypass_csp=True)  # axe itself adds styles
    page.evaluate(OPEN_ALL)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"][:200]) for one in found] == []


def column(page: Page, table: str, number: int) -> list[str]:
    cells = page.locator(f"{table} tbody tr:not([hidden])").all()
    return [cell.locator("th, td").nth(number).inner_text() for cell in cells]


def test_tables_sort_up_down_and_back(opened: Any) -> None:
    page = opened("comparison")
    table = "#target-1-1 table"
    head = page.locator(f"{table} th[scope=col]").nth(2)
    written = column(page, table, 2)
    orders = []
    for _ in range(3):
        head.locator("button").click()
        orders.append((head.get_attribute("aria-sort"), column(page, table, 2)))
    assert orders == [
        ("ascending", sorted(written, key=lambda text: float(text.split()[0]))),
        ("descending", sorted(written, key=lambda text: -float(text.split()[0]))),
        (None, written),
    ]
    # By keyboard, and what has no value comes last in both orders.
    differences = page.locator(f"{table} th[scope=col]").nth(3).locator("button")
    for _ in range(2):
        differences.focus()
        page.keyboard.press("Enter")
        assert column(page, table, 3)[-1] == "-"


def test_a_word_among_numbers_is_the_least(opened: Any) -> None:
    page = opened("comparison")
    titles = page.locator("#target-1-1 th[scope=col]").all_inner_texts()
    number = titles.index("gap to the best [95%]")
    page.locator("#target-1-1 th[scope=col]").nth(number).locator("button").click()
    assert column(page, "#target-1-1 table", number)[0] == "best"


def test_words_sort_as_words(opened: Any) -> None:
    page = opened("run")
    page.locator("#aside table").nth(1).locator("th[scope=col] button").nth(1).click()
    shown = page.locator("#aside table").nth(1).locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert shown == [f"row-{number}" for number in range(12)]


def test_long_tables_filter_and_say_how_many_rows_are_left(opened: Any) -> None:
    page = opened("run")
    table, box = page.locator("#aside .table").nth(1), page.locator("#aside .filter")
    assert box.count() == 1, "the short table beside it has none"
    box.get_by_label("Filter").fill("TOO long")
    assert table.locator("tbody tr:not([hidden])").count() == 4
    assert box.get_by_role("status").inner_text() == "4 of 12 rows"
    page.locator("#aside table").nth(1).locator("th[scope=col] button").nth(1).click()
    assert table.locator("tbody tr:not([hidden])").count() == 4, "sorting keeps what is filtered"
    box.get_by_label("Filter").fill("")
    assert table.locator("tbody tr:not([hidden])").count() == 12
    assert box.get_by_role("status").inner_text() == ""


@each_kind
def test_everything_can_be_read_without_scripts(opened: Any, name: str) -> None:
    page = opened(name, java_script_enabled=False)
    assert page.locator("th button, .filter").count() == 0
    assert page.locator("tbody tr").count() > 10
    assert page.locator("svg").first.is_visible()
    page.locator("summary").first.click()
    assert page.locator("details").first.get_attribute("open") is not None


@every
def test_a_phone_scrolls_down_and_never_sideways(opened: Any, name: str) -> None:
    page = opened(name, viewport={"width": 360, "height": 740})
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter((one) => !one.closest('.scroll, .unseen') && one.getBoundingClientRect().right > 361)
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@each_kind
def test_a_print_is_light_and_shows_what_is_folded_and_filtered_out(opened: Any, name: str) -> None:
    page = opened(name, color_scheme="dark")
    page.evaluate(
        "addEventListener('beforeprint', () => {"
        " window.folded = document.querySelectorAll('details:not([open])').length })"
    )
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.folded") == 0
    assert page.locator("details:not([open])").count() == page.locator("details").count(), "and folds it again"
    page.emulate_media(media="print")
    shown = page.evaluate(
        "['body', 'section'].map((name) => getComputedStyle(document.querySelector(name)).backgroundColor)"
    )
    assert shown == ["rgb(255, 255, 255)"] * 2
    assert not page.locator("nav").is_visible()
    assert page.locator(".filter").count() and not page.locator(".filter").first.is_visible()


@each_kind
def test_it_follows_the_theme(opened: Any, name: str) -> None:
    def look(scheme: str) -> dict[str, list[str]]:
        page = opened(name, color_scheme=scheme)
        script = "(name) => [...new Set([...document.querySelectorAll(name)].map((one) => getComputedStyle(one).%s))]"
        return {
            "page": page.evaluate(script % "backgroundColor", "body"),
            "letters": page.evaluate(script % "fill", "svg text"),
            "lines": page.evaluate(script % "stroke", "svg path"),
        }

    light, dark = look("light"), look("dark")
    assert light["page"] != dark["page"]
    assert not set(light["letters"]) & set(dark["letters"])
    for colours in (light, dark):
        assert all(re.fullmatch(r"rgb\(.*\)|none", colour) for colour in [*colours["letters"], *colours["lines"]])


@each_kind
def test_links_lead_to_their_sections(opened: Any, name: str) -> None:
    page = opened(name, reduced_motion="reduce")
    last = page.locator("nav a").last
    last.click()
    assert page.locator("h2").last.evaluate("(one) => one.getBoundingClientRect().top < innerHeight")
    titles = page.evaluate(
        "[...document.querySelectorAll('nav a')]"
        ".map((link) => [link.textContent, document.querySelector(link.hash + ' h2').textContent])"
    )
    assert titles and all(link == title for link, title in titles)
