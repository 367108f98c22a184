"""Takes the pictures of docs/screenshots: every page, wide and on a phone, light and dark.

`make screenshots` draws the animals, lets a day's work happen in a temporary folder, and replaces
the pictures; names on the command line take those pages only. Needs a Chromium (RESIGHT_CHROMIUM).
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import find_chromium  # noqa: E402
from tests.browser.drawn_desk import PAGES, SIGNED_OUT, DrawnDesk, drawn_desk  # noqa: E402

TARGET = ROOT / "docs" / "screenshots"
WINDOWS = {"wide": (1440, 900), "phone": (390, 844)}
TALLEST_PX = {"wide": 1500, "phone": 1500}
PICTURE_WIDTH_PX = {"wide": 1080, "phone": 390}
QUALITY = 62
INDIVIDUALS = 40
MOST_BYTES = 4_000_000
ONE_WINDOW = ("review-pair",)
IN_RUSSIAN = ("answer", "review-pair")


def main() -> int:
    """Takes the pictures; the exit code is 1 when together they are too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(PAGES)}")
    wanted = parser.parse_args().pages or list(PAGES)
    if unknown := set(wanted) - set(PAGES):
        parser.error(f"there is no page {', '.join(sorted(unknown))}")
    TARGET.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        drawn_desk(Path(folder), individuals=INDIVIDUALS) as desk,
        sync_playwright() as playwright,
    ):
        program = find_chromium(playwright.chromium.executable_path)
        if program is None:
            parser.error("there is no Chromium; install one, or name it in RESIGHT_CHROMIUM")
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        _all_of(browser, desk, wanted)
        browser.close()
    pictures = list(TARGET.glob("*.webp"))
    size = sum(path.stat().st_size for path in pictures)
    print(f"{len(pictures)} pictures, {size / 1e6:.2f} MB")
    return int(size > MOST_BYTES)


def _all_of(browser: Browser, desk: DrawnDesk, wanted: list[str]) -> None:
    rounds = [(window, theme, "en-GB", "") for window in WINDOWS for theme in ("light", "dark")]
    for window, theme, language, ending in [*rounds, ("wide", "light", "ru", "-ru")]:
        inside, outside = (_open(browser, window, theme, language) for _ in range(2))
        desk.sign_in(inside.context)
        for name in wanted:
            if not ending or name in IN_RUSSIAN:
                page = outside if name in SIGNED_OUT else inside
                _take(page, desk, name, window, TARGET / f"{name}-{window}-{theme}{ending}.webp")
        inside.context.close()
        outside.context.close()


def _open(browser: Browser, window: str, theme: str, language: str) -> Page:
    width, height = WINDOWS[window]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        locale=language,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    return page


def _take(page: Page, desk: DrawnDesk, name: str, window: str, target: Path) -> None:
    page.goto(desk.address(name), wait_until="load")
    # That the demo's gate is a small one is no matter of the page.
    page.evaluate("document.querySelector('.notices')?.remove()")
    _settle(page, TALLEST_PX[window])
    height = page.evaluate("document.documentElement.scrollHeight")
    # What stands at the foot of the window stands there in the picture too.
    tallest = WINDOWS[window][1] if name in ONE_WINDOW else TALLEST_PX[window]
    height = min(tallest, height)
    clip = {"x": 0, "y": 0, "width": WINDOWS[window][0], "height": height}
    taken = page.screenshot(full_page=name not in ONE_WINDOW, clip=clip)
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    width = PICTURE_WIDTH_PX[window]
    if picture.width > width:
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
    picture.save(target, "WEBP", quality=QUALITY, method=6)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB", flush=True)


def _settle(page: Page, tallest_px: int) -> None:
    """Waits until the photos that the picture will show are there; those further down are lazy."""
    for depth in range(0, tallest_px, 600):
        page.evaluate("depth => scrollTo(0, depth)", depth)
        page.wait_for_timeout(100)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function(
        "height => [...document.images].filter(image => image.src && image.checkVisibility()"
        " && image.getBoundingClientRect().top < height).every(image => image.naturalWidth)",
        arg=tallest_px,
    )
    page.wait_for_timeout(300)


if __name__ == "__main__":
    raise SystemExit(main())
