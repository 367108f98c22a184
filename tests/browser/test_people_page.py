"""People in a real browser: asked once for a name, given accounts, signing in by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import running
from tests.browser.sending import PATIENCE_MS
from tests.commands import resight

PASSWORD = "four words in a row"
NewPage = Callable[..., Page]


@dataclass(frozen=True)
class House:
    """A service of its own: accounts would lock the other tests out."""

    url: str
    data_dir: Path

    def add(self, login: str) -> None:
        """Gives somebody an account, unless they have one."""
        where = running.environment(self.data_dir)
        resight("users", "add", login, environment=where, typed=PASSWORD + "\n")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    data_dir = tmp_path_factory.mktemp("house")
    with running.serving(data_dir) as url:
        yield House(url, data_dir)


@pytest.fixture
def new_page(browser: Browser, house: House) -> Iterator[NewPage]:
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def make(width: int = 1440) -> Page:
        context = browser.new_context(base_url=house.url, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        return page

    yield make
    for context in contexts:
        context.close()
    # Chromium reports every refused request on the console.
    assert [text for text in complaints if "status of 40" not in text] == []


def sign_in(page: Page, password: str = PASSWORD) -> None:
    """By keyboard alone: the login has the focus."""
    expect(page.get_by_label("Login")).to_be_focused()
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def test_a_day_with_people(new_page: NewPage) -> None:
    page = new_page()
    page.goto("/individuals")
    question = page.get_by_label("What is your name?")
    question.fill("Anna Berg")
    question.press("Enter")
    expect(page).to_have_url(re.compile("/individuals$"))
    expect(question).to_have_count(0)
    expect(page.locator(".who-button")).to_contain_text("Anna Berg")

    page.locator(".who-button").click()
    page.get_by_role("link", name="People").click()
    expect(page.get_by_role("heading", name="Nobody has an account yet")).to_be_visible()
    expect(page.get_by_label("Name", exact=False).first).to_have_value("Anna Berg")
    page.get_by_label("Login").fill("anna")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make my account").click()
    expect(page.locator(".person")).to_have_count(1)

    page.locator(".add-person").get_by_label("Name").fill("Bo Lind")
    page.get_by_label("Login").fill("bo")
    page.get_by_role("button", name="Add", exact=True).click()
    password = page.locator("[data-secret]").inner_text()
    expect(page.locator(".person")).to_have_count(2)

    other = new_page(390)
    other.goto("/people")
    expect(other).to_have_url(re.compile(r"/sign-in\?next=%2Fpeople$"))
    sign_in(other, "wrong")
    expect(other.get_by_role("alert")).to_contain_text("check the login and the password")
    expect(other.get_by_label("Login")).to_have_value("anna")
    other.get_by_label("Login").fill("bo")
    other.get_by_label("Password").fill(password)
    other.get_by_label("Password").press("Enter")
    expect(other.get_by_role("heading", name="Not allowed").last).to_be_visible()
    other.goto("/people/me")
    expect(other.get_by_role("heading", name="Bo Lind")).to_be_visible()
    wide = other.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide

    # A sign-in that ends under an open page: signing in again in another tab saves what was typed.
    page.goto("/people")
    page.locator(".add-person").get_by_label("Name").fill("Cleo")
    page.get_by_label("Login").fill("cleo")
    tab = page.context.new_page()
    tab.goto("/")
    tab.locator(".who-button").click()
    tab.get_by_role("button", name="Sign out").click()
    sign_in(tab)
    expect(tab.locator(".who-button")).to_contain_text("Anna Berg")
    before = page.locator('meta[name="csrf-token"]').get_attribute("content")
    page.bring_to_front()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator('meta[name="csrf-token"]')).not_to_have_attribute("content", before or "")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".person")).to_have_count(3)


def test_the_menu_is_worked_by_keyboard(new_page: NewPage, house: House) -> None:
    house.add("anna")
    page = new_page()
    page.goto("/jobs")
    sign_in(page)
    expect(page).to_have_url(re.compile("/jobs$"))
    button = page.locator(".who-button")
    button.focus()
    page.keyboard.press("Enter")
    menu = page.locator("#who-menu")
    expect(menu).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/jobs")
    expect(page).to_have_url(re.compile("/sign-in"))
