"""A real Chromium and a real service with a small drawn catalogue, shared by the browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    expect,
    sync_playwright,
)
from sqlalchemy import Engine

from db import embedded
from db.session import make_engine
from indexer.drawings import individual_seed, write_catalogue, write_queries
from tests.browser import running
from tests.browser.sending import PATIENCE_MS, follow
from tests.flukes import SIZE_PX, draw

INDIVIDUALS = 40
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@dataclass(frozen=True)
class Site:
    """The running service, its sample queries, and who is on `known`."""

    url: str
    folder: Path
    known: Path
    unknown: Path
    not_a_whale: Path
    known_individual: str

    def stranger(self, number: int, photo: int) -> Path:
        """A photo of an individual that is not in the catalogue; the same number, the same animal,
        another photo number, another encounter."""
        path = self.folder / f"stranger-{number}-{photo}.jpg"
        if not path.is_file():
            draw(path, individual_seed(500 + number), photo)
        return path


@contextmanager
def drawn_site(
    data_dir: Path,
    *,
    individuals: int,
    unknown_position: int | None = None,
    prepare: Callable[[Engine], None] | None = None,
) -> Iterator[Site]:
    """A service over a drawn catalogue of its own; `prepare` gets the database before it starts."""
    demo = data_dir / "demo"
    write_catalogue(
        demo / "photos", individuals=individuals, photos_per_individual=(4, 4), size_px=SIZE_PX
    )
    queries = write_queries(
        demo / "queries",
        individuals=individuals,
        unknown_position=unknown_position,
        size_px=SIZE_PX,
    )
    running.run(data_dir, "import", str(demo / "photos"))
    if prepare is not None:
        engine = make_engine(embedded.start(data_dir).url)
        prepare(engine)
        engine.dispose()
    with running.serving(data_dir) as url:
        yield Site(
            url=url,
            folder=data_dir,
            known=queries.known,
            unknown=queries.unknown,
            not_a_whale=queries.not_a_whale,
            known_individual=queries.known_individual,
        )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with drawn_site(folder, individuals=INDIVIDUALS, unknown_position=400) as made:
        yield made


def find_chromium(own: str) -> str | None:
    """The first Chromium there is: named in the environment, installed, or playwright's own."""
    named = os.environ.get("RESIGHT_CHROMIUM")
    for name in filter(None, (named, *PROGRAMS, own)):
        found = shutil.which(name)
        if found:
            return found
    return None


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        program = find_chromium(playwright.chromium.executable_path)
        if program is None:
            reason = (
                "NO CHROMIUM: THE BROWSER TESTS DID NOT RUN. Install one (Debian: apt-get install "
                "chromium), or name it in RESIGHT_CHROMIUM."
            )
            if os.environ.get("RESIGHT_REQUIRE_BROWSER") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        launched = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield launched
        launched.close()


@dataclass
class Watch:
    """What a page must not do: complain on its console, or ask another machine for anything."""

    site: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def on_error(self, error: Error) -> None:
        self.complaints.append(str(error))

    def on_request(self, url: str) -> None:
        if not url.startswith((self.site, "blob:", "data:")):
            self.foreign.append(url)

    def expect(self, part: str) -> None:
        """Allows a complaint: Chromium reports every refused request on the console."""
        self.expected.append(part)

    def check(self) -> None:
        surprising = [c for c in self.complaints if not any(part in c for part in self.expected)]
        assert surprising == []
        assert self.foreign == []


NewPage = Callable[..., Page]


@pytest.fixture
def watch(site: Site) -> Iterator[Watch]:
    watching = Watch(site.url)
    yield watching
    watching.check()


@pytest.fixture
def new_page(browser: Browser, site: Site, watch: Watch) -> Iterator[NewPage]:
    """Makes watched pages; options are those of a browser context."""
    contexts: list[BrowserContext] = []

    def make(**options: object) -> Page:
        options = {"viewport": {"width": 1440, "height": 900}} | options
        context = browser.new_context(base_url=site.url, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", watch.on_console)
        page.on("pageerror", watch.on_error)
        page.on("request", lambda request: watch.on_request(request.url))
        follow(page)
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """The match page on a desktop."""
    made = new_page()
    made.goto("/")
    return made
