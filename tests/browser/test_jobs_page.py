"""The pages of jobs and re-index runs as an operator uses them: watch, steer, read, switch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db import embedded
from db.queries import jobs
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.session import make_engine, make_sessions
from db.types import JobKind, JobState
from indexer.catalogue import register_bundle
from indexer.job_kinds import Means, handlers
from indexer.jobs import JobRunner
from indexer.media import MediaStore
from indexer.snapshot import SnapshotStore
from tests.service.small import OtherPixels

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Site, Watch

ITEMS = 10
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


class Work:
    """A job done by hand: each step is seen by the page."""

    def __init__(self, sessions: sessionmaker[Session], chunks: int) -> None:
        self.sessions = sessions
        with sessions.begin() as session:
            self.id = jobs.create_job(
                session,
                kind=JobKind.EMBED_MISSING,
                params={"model": "starter"},
                principal="local",
                total=chunks * ITEMS,
            ).id

    def plan(self, chunks: int) -> None:
        with self.sessions.begin() as session:
            specs = [ChunkSpec("embedding", {"number": number}, ITEMS) for number in range(chunks)]
            jobs.add_chunks(session, self.id, specs)
            jobs.advance_job(session, self.id, stage="embedding")

    def do(self, *failed: str) -> None:
        """Does the next chunk, in which these items fail."""
        with self.sessions.begin() as session:
            chunk = jobs.claim_chunk(session, worker="test", lease_s=60)
        assert chunk is not None
        assert chunk.job_id == self.id
        failures = [ItemFailure(item, "truncated", "the photo ends too early") for item in failed]
        with self.sessions.begin() as session:
            done = len(chunk.retry or range(ITEMS)) - len(failed)
            assert jobs.finish_chunk(session, chunk, done=done, failures=failures)

    def end(self) -> None:
        with self.sessions.begin() as session:
            jobs.end_job(session, self.id, JobState.DONE)

    def row(self) -> JobRow:
        with self.sessions() as session:
            return jobs.get_job(session, self.id)


@pytest.fixture
def sessions(site: Site) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(embedded.start(site.folder).url)
    made = make_sessions(engine)
    yield made
    with made.begin() as session:
        session.execute(text("DELETE FROM reindex_run"))
        session.execute(text("DELETE FROM job"))
    engine.dispose()


@pytest.fixture
def work(sessions: sessionmaker[Session]) -> Work:
    """A job of four chunks that is waiting."""
    return Work(sessions, 4)


def card(page: Page, work: Work) -> Locator:
    return page.locator(f"#job-{work.id}")


def press(page: Page, work: Work, label: str) -> None:
    card(page, work).get_by_role("button", name=label).click()


def share(page: Page, work: Work) -> Locator:
    return card(page, work).get_by_role("progressbar")


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_bar_moves_while_the_page_is_open(new_page: NewPage, work: Work) -> None:
    page = new_page()
    page.goto("/jobs")
    expect(card(page, work)).to_contain_text("Waits for a worker")
    work.plan(4)
    expect(card(page, work)).to_contain_text("Running")
    work.do()
    expect(share(page, work)).to_have_attribute("aria-valuenow", "25")
    expect(card(page, work)).to_contain_text("10 of 40 photos")
    filled = card(page, work).locator(".bar-fill")
    assert filled.get_attribute("width") == "25.0"
    work.do("7")
    expect(share(page, work)).to_have_attribute("aria-valuenow", "50")
    expect(card(page, work)).to_contain_text("1 failed")
    assert filled.get_attribute("width") == "50.0"
    work.do()
    work.do()
    work.end()
    expect(card(page, work)).to_contain_text("Done, 1 failure")
    expect(page.locator("#said")).to_contain_text("Done, 1 failure")


def test_a_job_that_begins_elsewhere_appears(
    new_page: NewPage, sessions: sessionmaker[Session]
) -> None:
    page = new_page()
    page.goto("/jobs")
    expect(page.get_by_text("Nothing is running and nothing waits.")).to_be_visible()
    new = Work(sessions, 1)
    expect(card(page, new)).to_contain_text("Waits for a worker")
    expect(page.get_by_text("Nothing is running and nothing waits.")).to_be_hidden()


def test_pause_resume_and_cancel_are_buttons(new_page: NewPage, work: Work) -> None:
    work.plan(4)
    work.do()
    page = new_page()
    page.goto("/jobs")
    press(page, work, "Pause")
    expect(card(page, work)).to_contain_text("Paused")
    expect(card(page, work)).to_contain_text("Paused by local")
    assert work.row().state == "paused"
    press(page, work, "Resume")
    expect(card(page, work)).to_contain_text("Running")
    press(page, work, "Cancel")
    expect(card(page, work)).to_contain_text("Cancelled")
    assert (work.row().state, work.row().done) == ("cancelled", 10)
    press(page, work, "Resume")
    expect(card(page, work)).to_contain_text("Running")


def test_what_failed_is_told_item_by_item_and_tried_again(new_page: NewPage, work: Work) -> None:
    work.plan(4)
    work.do("7", "8")
    for _ in range(3):
        work.do()
    work.end()
    page = new_page()
    page.goto("/jobs")
    expect(card(page, work)).to_contain_text("Done, 2 failures")
    card(page, work).get_by_text("What failed, and why").click()
    failures = card(page, work).locator(".failure-list li")
    expect(failures).to_have_count(2)
    expect(failures.first).to_contain_text("Photo 7")
    expect(failures.first).to_contain_text("The photo ends too early.")
    photo = failures.first.locator("img")
    page.wait_for_function("image => image.naturalWidth > 0", arg=photo.element_handle())
    press(page, work, "Retry 2 failed")
    expect(card(page, work)).to_contain_text("Running")
    work.do("8")
    work.end()
    expect(card(page, work)).to_contain_text("Done, 1 failure")


def test_a_refusal_is_told_in_the_card(new_page: NewPage, work: Work, watch: Watch) -> None:
    watch.expect("409")
    work.plan(4)
    page = new_page()
    # A page that hears nothing any more still shows the buttons of before.
    page.route("**/jobs/events", lambda route: route.abort())
    watch.expect("ERR_FAILED")
    page.goto("/jobs")
    for _ in range(4):
        work.do()
    work.end()
    press(page, work, "Pause")
    expect(card(page, work).get_by_role("alert")).to_contain_text("cannot be paused")
    expect(card(page, work).get_by_role("button", name="Pause")).to_be_visible()


def test_a_job_is_steered_by_keyboard_alone(new_page: NewPage, work: Work) -> None:
    work.plan(4)
    page = new_page()
    page.goto("/jobs")
    pause = card(page, work).get_by_role("button", name="Pause")
    for _ in range(20):
        page.keyboard.press("Tab")
        if pause.evaluate("button => button === document.activeElement"):
            break
    else:
        pytest.fail("Tab does not reach the button")
    page.keyboard.press("Enter")
    resume = card(page, work).get_by_role("button", name="Resume")
    expect(resume).to_be_focused()
    page.keyboard.press("Enter")
    expect(card(page, work)).to_contain_text("Running")
    expect(card(page, work).get_by_role("button", name="Pause")).to_be_focused()


def test_a_page_without_scripts_steers_as_well(new_page: NewPage, work: Work) -> None:
    work.plan(4)
    page = new_page(java_script_enabled=False)
    page.goto("/jobs")
    press(page, work, "Pause")
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.locator("main")).to_contain_text("Paused")
    press(page, work, "Resume")
    expect(page.locator("main")).to_contain_text("Running")


def test_a_job_is_started_from_the_page(new_page: NewPage, sessions: sessionmaker[Session]) -> None:
    page = new_page()
    page.goto("/jobs")
    page.get_by_label("A job").select_option("build_snapshot")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Build a search snapshot")
    with sessions() as session:
        assert [row.kind for row in jobs.list_jobs(session).items] == ["build_snapshot"]


def test_pages_of_jobs_fit_a_phone(new_page: NewPage, work: Work) -> None:
    work.plan(4)
    work.do("7")
    page = new_page(**PHONE)
    for path in ("/jobs", f"/jobs/{work.id}"):
        page.goto(path)
        expect(card(page, work)).to_contain_text("1 failed")
        assert fits(page), path
    page.goto("/jobs")
    card(page, work).get_by_text("What failed, and why").click()
    expect(card(page, work).locator(".failure-list li")).to_have_count(1)
    assert fits(page)


# ---------------------------------------------------------------- a re-index run


def test_a_run_is_watched_read_switched_and_rolled_back(
    new_page: NewPage, site: Site, sessions: sessionmaker[Session], watch: Watch
) -> None:
    watch.expect("422")
    other = OtherPixels(blind=True)
    with sessions.begin() as session:
        register_bundle(session, other.spec, None)
    means = Means(
        sessions=sessions,
        store=MediaStore(site.folder / "media"),
        snapshots=SnapshotStore(site.folder / "snapshots"),
        exports_dir=site.folder / "exports",
        embedder_of=lambda _: other,
        head_of=lambda _: None,
    )
    worker = JobRunner(sessions, handlers(means), worker="test")
    page = new_page()
    started = page.request.post("/v1/reindex", data={"model": "other"})
    assert started.status == 202
    run_id = started.json()["id"]
    page.goto(f"/reindex/{run_id}")
    step = page.locator(".steps [aria-current=step]")
    expect(step).to_have_text("Asked for")
    while worker.run_one():
        pass
    # Drawn anew by the page itself.
    expect(step).to_have_text("Ready")
    expect(page.locator(".verdict-line")).to_contain_text("Worse on this catalogue")
    expect(page.locator(".measures")).to_contain_text("First is right")
    first = page.locator(".change").first
    expect(first.locator("figure")).to_have_count(3)
    for photo in first.locator("img").all():
        photo.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 0", arg=photo.element_handle())
    phone = new_page(**PHONE)
    phone.goto(f"/reindex/{run_id}")
    expect(phone.locator(".measures")).to_be_visible()
    assert fits(phone)
    page.get_by_role("button", name="Switch to other").click()
    expect(page.get_by_role("alert")).to_contain_text("top-1 falls")
    expect(step).to_have_text("Ready")
    page.get_by_role("button", name="Switch anyway").click()
    expect(step).to_have_text("In use")
    expect(page.locator(".verdict-line")).to_contain_text("switched against the limits")
    page.get_by_role("button", name="Roll back to").click()
    expect(step).to_have_text("Ready")
    page.get_by_role("button", name="Abandon").click()
    expect(page.locator(".verdict-line")).to_contain_text("given up")
