"""The page "How sure?" as a curator sees it: nothing invented, what was measured, a new fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db import embedded
from db.queries import calibrations, embeddings
from db.session import make_engine, make_sessions
from indexer.calibrate import Evidence, fit
from indexer.calibrate_job import CalibrateHandler
from indexer.jobs import JobRunner
from tests.verdicts import drawn

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Site

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


@pytest.fixture
def sessions(site: Site) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(embedded.start(site.folder).url)
    made = make_sessions(engine)
    yield made
    with made.begin() as session:
        session.execute(text("DELETE FROM calibration"))
        session.execute(text("DELETE FROM job WHERE kind = 'calibrate'"))
    engine.dispose()


@pytest.fixture
def fitted(sessions: sessionmaker[Session]) -> None:
    """A calibration on 900 verdicts."""
    scores, same = drawn(900)
    evidence = Evidence(scores, same, np.arange(900) // 2, "verdicts", implied=31)
    with sessions.begin() as session:
        space = embeddings.active_space(session)
        assert space is not None
        params, report = fit(evidence, evidence)
        calibrations.put_calibration(
            session, space.id, params=params, report=report, fitted_by="anna"
        )


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_nothing_is_stated_before_there_are_enough_verdicts(
    new_page: NewPage, sessions: sessionmaker[Session]
) -> None:
    page = new_page()
    page.goto("/review/how-sure")
    expect(page.get_by_role("heading", name="Not enough verdicts yet")).to_be_visible()
    expect(page.get_by_text("of 50")).to_have_count(2)
    assert page.locator("svg.sure-plot").count() == 0


def test_what_was_measured_is_drawn_with_its_counts(new_page: NewPage, fitted: None) -> None:
    page = new_page()
    page.goto("/review/how-sure")
    expect(page.get_by_text("Fitted on what people judged")).to_be_visible()
    expect(page.get_by_role("img", name="in 10 groups; the mean gap is")).to_be_visible()
    assert page.locator(".sure-point").count() == 10
    page.get_by_text("The numbers behind it").click()
    expect(page.get_by_role("columnheader", name="95% interval")).to_be_visible()
    table = page.get_by_role("table").last
    expect(table.get_by_role("row", name=re.compile(r"^1% 0\.\d{3} "))).to_be_visible()
    expect(table).to_contain_text("needs 9,999 pairs of different animals")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(new_page: NewPage, fitted: None, scheme: str) -> None:
    page = new_page(color_scheme=scheme, **PHONE)
    page.goto("/review/how-sure")
    expect(page.locator("svg.sure-scores")).to_be_visible()
    assert fits(page)


def test_candidates_say_how_sure(new_page: NewPage, site: Site, fitted: None) -> None:
    page = new_page()
    page.goto("/")
    page.set_input_files("input[name=file]", site.known)
    expect(page.locator(".card-sure").first).to_contain_text("same animal")


def test_a_fit_is_asked_for_and_the_page_follows_it(
    new_page: NewPage, sessions: sessionmaker[Session]
) -> None:
    """With no verdicts the catalogue is asked about itself, and that is what the page says."""
    page = new_page()
    page.goto("/review/how-sure")
    page.get_by_role("button", name="Measure now").click()
    expect(page.get_by_text("A fit is under way")).to_be_visible()
    assert page.get_by_role("button", name="Measure now").count() == 0
    JobRunner(sessions, [CalibrateHandler()], worker="test").run_until_idle()
    expect(page.get_by_text("so this was fitted on the catalogue itself")).to_be_visible()
    expect(page.get_by_text("A fit is under way")).to_have_count(0)
    expect(page.get_by_role("button", name="Fit anew")).to_be_visible()
