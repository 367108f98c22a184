"""No page keeps anybody out: axe-core finds nothing serious, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.drawn_desk import PAGES, SIGNED_OUT, DrawnDesk, drawn_desk
from tests.browser.sending import PATIENCE_MS
from tests.flukes import SIZE_PX

AXE = Path(__file__).resolve().parent / "vendor" / "axe.min.js"
WIDTHS = {"wide": (1440, 900), "phone": (390, 844)}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrawnDesk]:
    with drawn_desk(tmp_path_factory.mktemp("desk"), size_px=SIZE_PX) as running:
        yield running


@dataclass(frozen=True)
class Reader:
    """A window with somebody signed in, and one with nobody."""

    inside: Page
    outside: Page

    def open(self, desk: DrawnDesk, name: str) -> Page:
        page = self.outside if name in SIGNED_OUT else self.inside
        page.goto(desk.address(name), wait_until="load")
        return page


@pytest.fixture(scope="module", params=sorted(WIDTHS))
def reader(request: pytest.FixtureRequest, browser: Browser, desk: DrawnDesk) -> Iterator[Reader]:
    width, height = WIDTHS[request.param]
    window = {"width": width, "height": height}
    contexts = [browser.new_context(viewport=window, reduced_motion="reduce") for _ in range(2)]
    desk.sign_in(contexts[0])
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.set_default_timeout(PATIENCE_MS)
    yield Reader(*pages)
    for context in contexts:
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
def test_a_page_is_open_to_all(reader: Reader, desk: DrawnDesk, name: str) -> None:
    """It fits, has a name, and axe-core finds nothing serious. In both themes: colours are all that
    differs, so the page is asked for once and then dyed."""
    page = reader.open(desk, name)
    wide = page.evaluate(
        "() => [...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility())"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), wide[:5]
    assert page.locator("h1").count() == 1
    assert page.title() not in ("", "Resight")
    page.emulate_media(color_scheme="light")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    problems = [f"light {line}" for line in findings(page)]
    page.emulate_media(color_scheme="dark")
    problems += [f"dark {line}" for line in findings(page)]
    assert problems == []


def test_theme_and_language_are_chosen_without_a_flash(reader: Reader, desk: DrawnDesk) -> None:
    page = reader.open(desk, "individuals")
    page.emulate_media(color_scheme="light")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    with page.expect_response("**/settings/appearance"):
        page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    # The page comes dark from the service: nothing has to run before it is right.
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate(ground) == dark
    page.get_by_label("Language").select_option("ru")
    # A function, since the page's policy lets no string be evaluated.
    page.wait_for_function("() => document.documentElement.lang === 'ru'")
    assert page.url == desk.address("individuals")
    assert page.locator("h1").inner_text() == "Особи"
    page.get_by_label("Язык").select_option("en")
    page.wait_for_function("() => document.documentElement.lang === 'en'")
    with page.expect_response("**/settings/appearance"):
        page.get_by_label("Theme").select_option("")
    assert page.evaluate(ground) == light
