"""A day at the desk: photos brought home, reviewed by keyboard, names mended, all exported."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from indexer.drawings import FieldPhoto, write_fieldwork
from tests.browser.conftest import Site, drawn_site
from tests.browser.sending import answered
from tests.flukes import SIZE_PX

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Watch

INDIVIDUALS = 24
KNOWN, STRANGERS = 10, 5
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
PAIR_SHOWN = """() => {
    const item = document.querySelector("[data-item]");
    return item && document.querySelector("#bench").dataset.shown === item.dataset.item;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A catalogue of its own: the day changes who is in it."""
    with drawn_site(tmp_path_factory.mktemp("day"), individuals=INDIVIDUALS) as made:
        httpx.patch(f"{made.url}/v1/me", json={"name": "Vera"}).raise_for_status()
        yield made


@pytest.fixture(scope="module")
def brought(site: Site) -> dict[str, FieldPhoto]:
    """Forty photos of fifteen encounters, by file name."""
    photos = write_fieldwork(
        site.folder / "field",
        photos=40,
        known=KNOWN,
        strangers=STRANGERS,
        individuals=INDIVIDUALS,
        size_px=SIZE_PX,
    )
    return {photo.path.name: photo for photo in photos}


@pytest.fixture
def api(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


def shown(page: Page, *, but: str | None = None) -> str:
    """Waits until a pair is on the screen, another one than `but`; the id of its query."""
    if but is not None:
        expect(page.locator(f'[data-item="{but}"]')).to_have_count(0)
    page.wait_for_function(PAIR_SHOWN)
    page.wait_for_timeout(150)  # a verdict given faster than anybody can look is not taken
    return str(page.locator("[data-item]").get_attribute("data-item"))


def who(api: httpx.Client, brought: dict[str, FieldPhoto], query: str) -> str | None:
    """Who is on the photos of a query: a name of the catalogue, None for a stranger."""
    photos = api.get(f"/v1/queries/{query}").json()["photos"]
    identities = {brought[photo["name"]].identity for photo in photos}
    assert len(identities) == 1, f"two animals in one encounter: {identities}"
    return identities.pop()


def drop(page: Page, brought: dict[str, FieldPhoto]) -> None:
    page.goto("/encounters/new")
    page.get_by_text("What is known of all of them").click()
    page.get_by_label("Place", exact=True).first.fill("Faxaflói")
    page.locator("#file").set_input_files([photo.path for photo in brought.values()])
    expect(page.locator(".drop-card")).to_have_count(KNOWN + STRANGERS)
    expect(page.locator(".drop-card .chip")).to_have_count(KNOWN + STRANGERS)
    expect(page.locator("#refused")).to_be_hidden()


def name_new(page: Page, name: str) -> None:
    page.keyboard.press("n")
    field = page.locator("[data-new]").get_by_label("Name")
    expect(field).not_to_have_value("")
    field.fill(name)
    page.keyboard.press("Enter")


def work_through(
    page: Page, api: httpx.Client, brought: dict[str, FieldPhoto]
) -> dict[str, list[str]]:
    """Every query of the queue, with the keyboard alone: what was decided of which."""
    done: dict[str, list[str]] = {"same": [], "new": [], "different": [], "undone": []}
    page.goto("/review?queue=to_review")
    expect(page.locator("[data-row]")).to_have_count(KNOWN + STRANGERS)
    page.keyboard.press("Enter")
    query = shown(page)
    for _ in range(KNOWN + STRANGERS):
        identity = who(api, brought, query)
        side = page.locator('[data-part="side"]')
        if identity is not None:
            expect(side).to_have_attribute("data-name", identity)
            page.keyboard.press("s")
            done["same"].append(query)
            if len(done["same"]) in (3, 7):
                # The next pair, back to this one, and the same verdict again.
                shown(page, but=query)
                page.keyboard.press("z")
                expect(page.locator(f'[data-item="{query}"]')).to_be_visible()
                shown(page)
                done["undone"].append(query)
                page.keyboard.press("s")
        else:
            if len(done["different"]) < 3:
                first = str(side.get_attribute("data-name"))
                page.keyboard.press("d")
                expect(page.locator(".rail-no")).to_contain_text(first)
                done["different"].append(query)
                shown(page)
            name_new(page, f"Day {len(done['new']) + 1}")
            done["new"].append(query)
        if len(done["same"]) + len(done["new"]) < KNOWN + STRANGERS:
            query = shown(page, but=query)
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    return done


def by_name(api: httpx.Client, name: str) -> dict[str, Any]:
    found = api.get("/v1/individuals", params={"text": name, "limit": 50}).json()["items"]
    one: dict[str, Any] = next(item for item in found if name in item["names"])
    return one


def exported(api: httpx.Client) -> list[dict[str, str]]:
    answer = api.get("/v1/annotations.csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_a_day_from_forty_photos_to_the_export(
    new_page: NewPage, api: httpx.Client, brought: dict[str, FieldPhoto]
) -> None:
    page = new_page()
    before = api.get("/v1/individuals", params={"limit": 200}).json()["items"]
    drop(page, brought)
    done = work_through(page, api, brought)
    assert {kind: len(queries) for kind, queries in done.items()} == {
        "same": 10,
        "new": 5,
        "different": 3,
        "undone": 2,
    }
    answered(page)
    for kind in ("same", "new"):
        for query in done[kind]:
            assert api.get(f"/v1/queries/{query}").json()["state"] == kind

    # Two of the new ones turn out to be one; a third is two; and the first was right after all.
    kept, other, two = (by_name(api, f"Day {number}") for number in (1, 2, 3))
    page.goto(f"/individuals/{kept['id']}/merge?with={other['id']}")
    page.get_by_role("button", name="Merge", exact=True).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Day 1")
    page.goto(f"/individuals/{two['id']}/split")
    page.locator("[data-tick]").first.check(force=True)
    page.get_by_label("Name of the new one").fill("Day 6")
    page.get_by_role("button", name="Preview").press("Enter")
    page.get_by_role("button", name="Split", exact=True).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Day 6")
    page.goto("/changes")
    merge = page.locator(".event").filter(has_text="was merged into").first
    merge.get_by_role("button", name="Undo").press("Enter")
    expect(page.get_by_text("Undone").first).to_be_visible()

    after = api.get("/v1/individuals", params={"limit": 200}).json()["items"]
    assert {one["name"] for one in after} - {one["name"] for one in before} == {
        f"Day {number}" for number in range(1, 7)
    }

    # What leaves says what was decided, photo by photo.
    page.goto("/individuals")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").press("Enter")
    assert download.value.suggested_filename == "resight-catalogue.csv"
    rows = [row for row in exported(api) if row["original_name"] in brought]
    assert len(rows) == len(brought)
    for row in rows:
        photo = brought[row["original_name"]]
        if photo.identity is not None:
            assert row["identity"] == photo.identity
        else:
            assert re.fullmatch(r"Day [1-6]", row["identity"])
        assert row["place"] == "Faxaflói"


def test_two_people_at_one_item(
    new_page: NewPage, api: httpx.Client, site: Site, watch: Watch
) -> None:
    """Promise 48: the second sees what the first decided, and loses nothing that was typed."""
    answer = api.post(
        "/v1/encounters",
        files=[("file", ("late.jpg", site.stranger(7, 3).read_bytes()))],
        data={"place": "Late Bay"},
    )
    query = answer.json()["query_id"]
    one, two = new_page(), new_page()
    for page in (one, two):
        page.goto("/review?queue=to_review&place=Late+Bay")
        page.keyboard.press("Enter")
        shown(page)
    two.keyboard.press("c")
    two.keyboard.type("left lobe is torn")
    two.keyboard.press("Escape")
    one.keyboard.press("u")
    expect(one.locator("h1")).to_have_text("That was all of this queue")
    answered(one)
    watch.expect("409")
    two.keyboard.press("s")
    told = two.locator("[data-notices]")
    expect(told).to_contain_text("Somebody was faster.")
    expect(told).to_contain_text("Unsure: decided by Vera")
    told.get_by_role("button", name="Look at it").click()
    expect(two.locator("#comment")).to_have_value("left lobe is torn")
    now = api.get(f"/v1/queries/{query}").json()
    assert now["state"] == "unsure"
    assert [review["verdict"] for review in now["reviews"]] == ["unsure"]


def test_the_same_on_a_phone(new_page: NewPage, api: httpx.Client, site: Site) -> None:
    page = new_page(**PHONE)
    api.post(
        "/v1/encounters",
        files=[("file", ("phone.jpg", site.stranger(8, 1).read_bytes()))],
        data={"place": "Phone Bay"},
    )
    page.goto("/review?queue=to_review&place=Phone+Bay")
    page.locator("[data-start]").tap()
    query = shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Unsure").tap()
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    answered(page)
    assert api.get(f"/v1/queries/{query}").json()["state"] == "unsure"
