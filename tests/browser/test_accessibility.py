"""No page keeps anybody out: axe-core finds nothing serious, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.drawn_desk import PAGES, DrawnDesk, drawn_desk

AXE = Path(__file__).resolve().parent / "vendor" / "axe.min.js"
WIDTHS = {"wide": (1440, 900), "phone": (390, 844)}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrawnDesk]:
    with drawn_desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture(scope="module", params=sorted(WIDTHS))
def page(request: pytest.FixtureRequest, browser: Browser, desk: DrawnDesk) -> Iterator[Page]:
    width, height = WIDTHS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    made = context.new_page()
    made.set_default_timeout(30_000)
    yield made
    context.close()


def findings(page: Page) -> list[str]:
    """What axe-core calls serious or critical, one line for each place."""
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, rules)", RULES)
    return [
        f"{one['impact']} {one['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_has_no_serious_finding(page: Page, desk: DrawnDesk, name: str) -> None:
    """Both themes: colours are what differs, so the page is asked once and then dyed."""
    page.emulate_media(color_scheme="light")
    page.goto(desk.address(name), wait_until="load")
    page.wait_for_load_state("networkidle") if name not in ("jobs", "job", "reindex") else None
    page.evaluate(AXE.read_text(encoding="utf-8"))
    problems = [f"light {line}" for line in findings(page)]
    page.emulate_media(color_scheme="dark")
    problems += [f"dark {line}" for line in findings(page)]
    assert problems == []


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_fits_its_window(page: Page, desk: DrawnDesk, name: str) -> None:
    page.goto(desk.address(name), wait_until="load")
    wide = page.evaluate(
        "() => [...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility())"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), wide[:5]
    assert page.locator("h1").count() == 1
    assert page.title() not in ("", "Resight")


def test_a_theme_and_a_language_are_chosen_without_a_flash(page: Page, desk: DrawnDesk) -> None:
    page.context.clear_cookies()
    page.emulate_media(color_scheme="light")
    page.goto(desk.address("individuals"))
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    with page.expect_response("**/settings/appearance"):
        page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    # The page comes dark from the service: nothing has to run before it is right.
    page.goto(desk.address("individuals"))
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate(ground) == dark
    page.get_by_label("Language").select_option("ru")
    page.wait_for_function("document.documentElement.lang === 'ru'")
    assert page.url == desk.address("individuals")
    assert page.locator("h1").inner_text() == "Особи"
    page.context.clear_cookies()
