"""The catalogue as a curator keeps it: find, name, merge, split, mark, drop, draw, take back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db import embedded
from db.session import make_engine, make_sessions
from indexer.drawings import FieldPhoto, write_fieldwork
from tests.browser.conftest import Site, drawn_site
from tests.flukes import SIZE_PX

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Watch

INDIVIDUALS = 14
MANY = 150
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}

SPICE = """
UPDATE encounter e SET place = (ARRAY['Skjálfandi', 'Eyjafjörður'])[1 + r.n % 2],
    latitude = 66.05 + r.n * 0.01, longitude = -17.5 - r.n * 0.01
FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM encounter) r WHERE r.id = e.id;
UPDATE annotation SET viewpoint = (ARRAY['left', 'right'])[1 + id % 2];
UPDATE individual SET sex = 'female' WHERE id IN
    (SELECT individual_id FROM individual_name ORDER BY lower(name) LIMIT 3);
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service of its own: what is merged and split here, others would miss."""
    folder = tmp_path_factory.mktemp("catalogue")
    with drawn_site(folder, individuals=INDIVIDUALS, prepare=_spiced) as made:
        httpx.patch(f"{made.url}/v1/me", json={"name": "Vera"}).raise_for_status()
        yield made


def _spiced(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in filter(str.strip, SPICE.split(";")):
            connection.execute(text(statement))


@pytest.fixture(scope="module")
def brought(site: Site) -> tuple[FieldPhoto, ...]:
    """Forty photos of a day at sea, with times and places in them."""
    return write_fieldwork(
        site.folder / "field",
        photos=40,
        known=8,
        strangers=4,
        individuals=INDIVIDUALS,
        size_px=SIZE_PX,
    )


@pytest.fixture
def sessions(site: Site) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(embedded.start(site.folder).url)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def page(new_page: NewPage) -> Page:
    return new_page()


@pytest.fixture
def api(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


def individuals(api: httpx.Client, **filters: str) -> list[dict[str, Any]]:
    """Those of the catalogue that photos show, by name."""
    found = api.get("/v1/individuals", params={"limit": 200, **filters}).json()["items"]
    shown = [one for one in found if one["photo_count"]]
    return sorted(shown, key=lambda one: one["name"])


def photos(api: httpx.Client, one: dict[str, Any]) -> int:
    found = api.get(f"/v1/individuals/{one['id']}", params={"limit": 200}).json()
    return len(found["photos"])


def told(page: Page) -> Locator:
    return page.locator(".told-bar")


def undo(page: Page) -> None:
    told(page).get_by_role("button", name="Undo").click()
    expect(told(page)).to_contain_text("Undone")


def pick(page: Page, *numbers: int) -> None:
    for number in numbers:
        page.locator("[data-tick]").nth(number).check(force=True)


# ---------------------------------------------------------------------------------- the list


def test_individuals_are_found_by_name_alias_id_and_sex(page: Page, api: httpx.Client) -> None:
    one, two, *_ = individuals(api)
    page.goto("/individuals")
    expect(page.locator(".person").first).to_contain_text(one["name"])
    find = page.get_by_label("Name, alias or id")
    find.fill(two["name"][:4].lower())
    expect(page.locator(".person .card-name").first).to_have_text(re.compile(two["name"][:4]))
    expect(page).to_have_url(re.compile(rf"text={two['name'][:4].lower()}"))
    find.fill(two["id"][:8])
    expect(page.locator(".person")).to_have_count(1)
    expect(page.locator(".card-name")).to_have_text(two["name"])
    find.fill("")
    page.get_by_label("Sex").select_option("female")
    expect(page.locator("#results")).to_contain_text("3 individuals")
    expect(page).to_have_url(re.compile("sex=female"))
    page.reload()
    expect(page.locator(".person")).to_have_count(3)
    find.fill("nobody is called this")
    expect(page.get_by_role("heading", name="Nobody fits")).to_be_visible()
    page.get_by_role("link", name="Show all").first.click()
    expect(page.locator("#results")).to_contain_text(f"{INDIVIDUALS} individuals")


def test_a_curator_adds_an_individual_and_photos_to_it(
    page: Page, site: Site, watch: Watch, tmp_path: Path
) -> None:
    """Photos that are refused stay chosen, and so does all that was typed."""
    watch.expect("415")
    photos = [site.stranger(70, photo) for photo in range(3)]
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    page.goto("/individuals")
    page.get_by_role("link", name="Add an individual").click()
    name = page.locator("#add [name=name]")
    name.fill("Nori")
    page.locator("#add [name=taxon]").fill("humpback whale")
    page.locator("#file").set_input_files([photos[0], text])
    expect(page.locator("#chosen img")).to_have_count(1)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg")
    expect(name).to_have_value("Nori")
    assert page.locator("#file").evaluate("input => input.files.length") == 2
    page.locator("#file").set_input_files(photos[:2])
    expect(page.locator("#chosen img")).to_have_count(2)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Nori")
    expect(page.locator(".pairs")).to_contain_text("2 photos")

    page.get_by_role("link", name="Add photos").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Add photos of Nori")
    page.locator("#file").set_input_files(photos[2])
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".pairs")).to_contain_text("3 photos")
    undo = page.locator("#told").get_by_role("button", name="Undo")
    undo.click()
    expect(page.locator(".pairs")).to_contain_text("2 photos")
    page.goto("/changes")
    page.locator(".event", has_text="Nori").get_by_role("button", name="Undo").last.click()
    page.goto("/individuals")
    expect(page.locator("#results")).to_contain_text(f"{INDIVIDUALS} individuals")


def test_grid_or_list_stands_in_the_address(page: Page) -> None:
    page.goto("/individuals")
    page.get_by_role("link", name="List").click()
    expect(page).to_have_url(re.compile("view=list"))
    expect(page.locator(".rows .person").first).to_be_visible()
    page.get_by_label("Name, alias or id").fill("a")
    expect(page).to_have_url(re.compile("text=a.*view=list"))
    expect(page.locator(".rows .person").first).to_be_visible()


@pytest.fixture
def many(sessions: sessionmaker[Session]) -> Iterator[None]:
    """More individuals than a page shows."""
    with sessions.begin() as session:
        session.execute(
            text(
                "WITH made AS (INSERT INTO individual (catalogue_id) SELECT c.id"
                " FROM catalogue c, generate_series(1, :many) RETURNING id, catalogue_id)"
                " INSERT INTO individual_name (individual_id, catalogue_id, name, is_primary)"
                " SELECT id, catalogue_id, 'zz ' || lpad(row_number() OVER ()::text, 4, '0'), true"
                " FROM made"
            ),
            {"many": MANY},
        )
    yield
    with sessions.begin() as session:
        gone = "SELECT individual_id FROM individual_name WHERE name LIKE 'zz %'"
        session.execute(text(f"DELETE FROM individual WHERE id IN ({gone})"))


def test_the_list_goes_on_as_one_scrolls(page: Page, many: None) -> None:
    page.goto("/individuals")
    for _ in range(40):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
        if page.locator(".person").count() == INDIVIDUALS + MANY:
            break
    expect(page.locator(".person")).to_have_count(INDIVIDUALS + MANY)
    names = page.locator(".card-name").all_text_contents()
    assert names == sorted(names, key=str.lower)


def test_the_list_goes_on_without_a_script(new_page: NewPage, many: None) -> None:
    page = new_page(java_script_enabled=False)
    page.goto("/individuals?view=list")
    seen = page.locator(".card-name").all_text_contents()
    while page.get_by_role("link", name="More individuals").count():
        page.get_by_role("link", name="More individuals").click()
        seen += page.locator(".card-name").all_text_contents()
    assert len(seen) == len(set(seen)) == INDIVIDUALS + MANY


def test_many_are_edited_at_once_and_taken_back_at_once(page: Page, api: httpx.Client) -> None:
    page.goto("/individuals")
    pick(page, 3, 4, 5)
    expect(page.locator("[data-picked-count]")).to_have_text("3 picked")
    page.get_by_role("button", name="Edit together…").click()
    page.get_by_label("Sex").select_option("male")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("status").first).to_contain_text("3 individuals change.")
    page.get_by_role("button", name="Change them").click()
    expect(told(page)).to_contain_text("3 individuals were edited")
    chosen = {one["name"] for one in individuals(api)[3:6]}
    page.goto("/individuals?sex=male")
    assert set(page.locator(".card-name").all_text_contents()) == chosen
    page.goto("/changes")
    page.get_by_role("button", name="Undo change").first.click()
    expect(told(page)).to_contain_text("Undone")
    page.goto("/individuals?sex=male")
    expect(page.get_by_role("heading", name="Nobody fits")).to_be_visible()


# ---------------------------------------------------------------------------------- one individual


def test_an_individual_shows_its_photos_encounters_and_map(page: Page, api: httpx.Client) -> None:
    one = individuals(api)[0]
    page.goto(f"/individuals/{one['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(one["name"])
    expect(page.locator(".portraits li")).to_have_count(2)
    expect(page.locator(".portraits")).to_contain_text("Left")
    expect(page.locator("#photos .shot")).to_have_count(4)
    assert page.locator(".timeline-dot").count() >= 1
    assert page.locator(".map-spot").count() >= 1
    before = page.locator(".map-view").get_attribute("viewBox")
    expect(page.locator(".map-scale")).to_contain_text("km")
    page.get_by_role("button", name="Zoom in").click()
    assert page.locator(".map-view").get_attribute("viewBox") != before
    page.get_by_role("button", name="Show all positions").click()
    page.get_by_role("link", name="Right", exact=True).click()
    expect(page.locator("#photos .shot")).to_have_count(2)


def test_names_come_go_and_change(page: Page, api: httpx.Client, watch: Watch) -> None:
    one, other = individuals(api)[:2]
    page.goto(f"/individuals/{one['id']}")
    page.get_by_text("Add a name, or rename").click()
    page.get_by_label("Name", exact=True).fill("Old Tom")
    page.get_by_role("button", name="Add").click()
    expect(told(page)).to_contain_text("got the name Old Tom")
    page.get_by_role("button", name="Use the name Old Tom").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Old Tom")
    undo(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(one["name"])
    page.goto("/individuals?text=old+tom")
    expect(page.locator(".person")).to_contain_text("also Old Tom")
    page.locator(".person .card").click()
    page.get_by_role("button", name="Remove the name Old Tom").click()
    expect(told(page)).to_contain_text("lost the name Old Tom")
    watch.expect("409")
    page.get_by_text("Add a name, or rename").click()
    page.get_by_label("Name", exact=True).fill(other["name"].upper())
    page.get_by_role("button", name="Rename to this").click()
    expect(page.get_by_role("alert")).to_contain_text("is in this catalogue already")


def test_an_edit_over_another_edit_asks_first_and_keeps_what_was_typed(
    new_page: NewPage, api: httpx.Client, watch: Watch
) -> None:
    one = individuals(api)[6]
    mine, theirs = new_page(), new_page()
    for page in (mine, theirs):
        page.goto(f"/individuals/{one['id']}/edit")
    theirs.get_by_label("Life stage").select_option("calf")
    theirs.get_by_role("button", name="Save").click()
    expect(told(theirs)).to_contain_text("was edited")
    watch.expect("412")
    mine.get_by_label("Notes").fill("A scar on the left tip")
    mine.get_by_role("button", name="Save").click()
    expect(mine.get_by_role("alert")).to_contain_text("Life stage is now: calf")
    expect(mine.get_by_label("Notes")).to_have_value("A scar on the left tip")
    mine.get_by_role("button", name="Save").click()
    expect(mine.locator(".notes")).to_have_text("A scar on the left tip")
    expect(mine.locator("#history li")).to_have_count(2)


def test_photos_are_marked_where_they_are_and_unmarked_at_once(
    page: Page, api: httpx.Client
) -> None:
    one = individuals(api)[1]
    page.goto(f"/individuals/{one['id']}")
    pick(page, 0, 2)
    page.get_by_role("button", name="Not for matching").click()
    expect(told(page)).to_contain_text("2 photos: not for matching")
    expect(page.locator(".shot .mark")).to_have_count(2)
    expect(page.locator("[data-tick]:checked")).to_have_count(0)
    undo(page)
    expect(page.locator(".shot .mark")).to_have_count(0)
    pick(page, 3)
    page.get_by_role("button", name="Reference", exact=True).click()
    expect(page.locator(".shot .mark-reference")).to_have_count(1)
    page.reload()
    expect(page.locator(".portraits li").first.locator(".mark-reference")).to_be_visible()


# ---------------------------------------------------------------------------------- who is who


def test_two_are_merged_after_a_look_and_unmerged(page: Page, api: httpx.Client) -> None:
    one, other = individuals(api)[2:4]
    page.goto("/individuals")
    pick(page, 2, 3)
    page.get_by_role("button", name="Merge…").click()
    expect(page.locator(".beside-one")).to_have_count(2)
    expect(page.locator(".preview")).to_contain_text(f"{other['name']} becomes {one['name']}")
    expect(page.locator(".preview")).to_contain_text("4 photos")
    page.get_by_role("link", name=f"Keep {other['name']} instead").click()
    expect(page.locator(".preview")).to_contain_text(f"{one['name']} becomes {other['name']}")
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(other["name"])
    expect(page.get_by_text(f"Also called {one['name']}")).to_be_visible()
    assert photos(api, other) == 8
    page.goto(f"/individuals/{one['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(other["name"])
    page.locator("#history").get_by_role("button", name="Undo").first.click()
    expect(told(page)).to_contain_text("Undone")
    assert photos(api, other) == photos(api, one) == 4


def test_the_other_one_is_found_by_typing(page: Page, api: httpx.Client) -> None:
    one, other = individuals(api)[4:6]
    page.goto(f"/individuals/{one['id']}/merge")
    page.get_by_placeholder("Name, alias or id").fill(other["name"])
    expect(page.locator("#found .person")).to_have_count(1)
    page.locator("#found .card").click()
    expect(page.get_by_role("heading", name="Are they one individual?")).to_be_visible()


def test_a_pair_called_different_is_merged_only_with_a_word_more(
    page: Page, api: httpx.Client, watch: Watch
) -> None:
    page.goto("/individuals/suggestions")
    first = page.locator(".suggestion").first
    names = first.locator("h2").inner_text()
    one, other = (first.locator("input[name=individual_id]"), first.locator("input[name=other_id]"))
    ids = one.input_value(), other.input_value()
    first.get_by_role("button", name="Not the same").click()
    expect(page.locator(".suggestion").first).to_contain_text("kept apart")
    page.reload()
    shown = page.locator(".suggestion h2").all_inner_texts()
    assert names not in shown
    page.goto(f"/individuals/{ids[0]}/merge?with={ids[1]}")
    expect(page.locator(".preview-against")).to_contain_text("Vera said on")
    watch.expect("409")
    page.evaluate("document.querySelector('[name=confirm_rejected]').required = false")
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Say that you have seen")
    page.get_by_label("I have seen this").check()
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(told(page)).to_contain_text("was merged into")
    undo(page)


def test_ticked_photos_become_an_individual_and_go_back(page: Page, api: httpx.Client) -> None:
    one = individuals(api)[7]
    page.goto(f"/individuals/{one['id']}")
    pick(page, 1)
    page.get_by_role("button", name="Split off…").click()
    expect(page.locator("[data-tick]:checked")).to_have_count(1)
    pick(page, 2)
    page.get_by_label("Name of the new one").fill("Newcomer")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".preview")).to_contain_text("2 photos go to a new individual, Newcomer.")
    expect(page.locator("[data-tick]:checked")).to_have_count(2)
    page.get_by_role("button", name="Split", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Newcomer")
    assert photos(api, one) == 2
    undo(page)
    assert photos(api, one) == 4
    page.goto("/individuals?text=newcomer")
    expect(page.get_by_role("heading", name="Nobody fits")).to_be_visible()


def test_a_split_without_photos_or_with_a_taken_name_keeps_what_was_typed(
    page: Page, api: httpx.Client, watch: Watch
) -> None:
    one, other = individuals(api)[8:10]
    page.goto(f"/individuals/{one['id']}/split")
    pick(page, 0)
    page.get_by_label("Name of the new one").fill(other["name"])
    watch.expect("409")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("alert")).to_contain_text("is in this catalogue already")
    expect(page.get_by_role("link", name="See that individual")).to_be_visible()
    expect(page.get_by_label("Name of the new one")).to_have_value(other["name"])
    expect(page.locator("[data-tick]:checked")).to_have_count(1)


def test_an_undo_names_what_stands_in_its_way(page: Page, api: httpx.Client, watch: Watch) -> None:
    """Promise 52: a superseded undo says which later change is to be undone first."""
    one, other = individuals(api)[9:11]
    page.goto(f"/individuals/{one['id']}/split")
    pick(page, 0)
    page.get_by_label("Name of the new one").fill("Brief")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("button", name="Split", exact=True).click()
    brief = page.url.split("?")[0].rsplit("/", 1)[-1]
    api.post(f"/v1/individuals/{other['id']}/merge", json={"other_id": brief}).raise_for_status()
    page.goto("/changes")
    lines = page.locator(".event")
    expect(lines.first).to_contain_text("was merged into")
    watch.expect("409")
    lines.nth(1).get_by_role("button", name="Undo").click()
    expect(page.get_by_role("heading", name="This cannot be undone now")).to_be_visible()
    blocking = page.locator("section", has_text="Stands in the way")
    expect(blocking).to_contain_text("was merged into")
    blocking.get_by_role("button", name="Undo").click()
    expect(told(page)).to_contain_text("Undone")
    page.locator(".event").nth(2).get_by_role("button", name="Undo").click()
    expect(told(page)).to_contain_text("Undone")
    assert photos(api, one) == photos(api, other) == 4


def test_photos_are_given_to_another(page: Page, api: httpx.Client) -> None:
    one, other = individuals(api)[11:13]
    page.goto(f"/individuals/{one['id']}")
    pick(page, 0)
    page.get_by_role("button", name="Give to another…").click()
    # What is typed before the page's scripts run is not searched for by itself.
    expect(page.get_by_placeholder("Name, alias or id")).to_be_visible()
    page.wait_for_load_state()
    page.get_by_placeholder("Name, alias or id").fill(other["name"])
    expect(page.locator("#found .person")).to_have_count(1)
    page.locator("#found .card").click()
    expect(page.locator(".preview")).to_contain_text("1 photo show")
    page.get_by_role("button", name="Yes, that is it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(other["name"])
    assert (photos(api, one), photos(api, other)) == (3, 5)
    undo(page)
    assert (photos(api, one), photos(api, other)) == (4, 4)


def test_merge_and_undo_work_without_a_script(new_page: NewPage, api: httpx.Client) -> None:
    page = new_page(java_script_enabled=False)
    one, other = individuals(api)[4:6]
    page.goto(f"/individuals/{one['id']}/merge?text={other['name']}")
    page.locator("#found .card").click()
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(told(page)).to_contain_text("was merged into")
    undo(page)
    assert photos(api, one) == photos(api, other) == 4


# ---------------------------------------------------------------------------------- encounters


def test_forty_photos_become_encounters_that_wait_for_review(
    page: Page, site: Site, brought: tuple[FieldPhoto, ...], watch: Watch
) -> None:
    broken = site.folder / "broken.jpg"
    broken.write_bytes(b"no photo")
    page.goto("/encounters/new")
    page.get_by_text("What is known of all of them").click()
    page.get_by_label("Observer").first.fill("A. Reyes")
    page.locator("#file").set_input_files([*(photo.path for photo in brought), broken])
    said = page.locator("#drop-said")
    expect(said).to_have_text(
        "40 photos stored, in 12 encounters. 1 was left out.", timeout=120_000
    )
    expect(page.locator("#refused")).to_contain_text("broken.jpg was left out.")
    cards = page.locator(".drop-card")
    expect(cards).to_have_count(12)
    expect(page.locator(".drop-card .chip-live")).to_have_count(12)
    first = cards.first
    assert first.get_by_label("Latitude").input_value().startswith("64.1")
    assert first.get_by_label("Date and time").input_value().startswith("20")
    expect(first.get_by_label("Observer")).to_have_value("A. Reyes")
    first.get_by_label("Place").fill("Faxaflói")
    first.get_by_role("button", name="Save").click()
    expect(first.get_by_role("heading")).to_contain_text("Faxaflói")
    watch.expect("422")
    first.get_by_label("Latitude").fill("far north")
    first.get_by_role("button", name="Save").click()
    expect(first.get_by_role("alert")).to_be_visible()
    expect(first.get_by_label("Latitude")).to_have_value("far north")
    page.reload()
    expect(cards).to_have_count(12)
    cards.first.get_by_role("link", name="waits for review").click()
    expect(page).to_have_url(re.compile(r"/review/[0-9a-f-]{36}"))


def test_photos_are_dropped_without_a_script_too(new_page: NewPage, site: Site) -> None:
    page = new_page(java_script_enabled=False)
    page.goto("/encounters/new")
    page.locator("#file").set_input_files([site.stranger(1, 1), site.stranger(2, 1)])
    page.get_by_role("button", name="Make encounters of them").click()
    expect(page.locator(".drop-card")).to_have_count(2)


def test_encounters_are_found_by_place_individual_and_day(page: Page, api: httpx.Client) -> None:
    one = individuals(api)[0]
    page.goto("/encounters")
    page.get_by_label("Place").fill("skjálf")
    expect(page).to_have_url(re.compile("place="))
    places = page.locator(".line-what p:first-of-type")
    expect(places.first).to_have_text("Skjálfandi")
    assert set(places.all_text_contents()) == {"Skjálfandi"}
    page.get_by_label("Place").fill("")
    page.get_by_label("Individual").fill(one["name"])
    expect(page.locator(".results-who")).to_contain_text(one["name"])
    for line in page.locator(".line-who").all():
        expect(line).to_contain_text(one["name"])
    page.get_by_label("From").fill("2100-01-01")
    expect(page.get_by_role("heading", name="No encounter fits")).to_be_visible()


def test_an_encounter_is_corrected_on_the_map_and_asked_again(
    page: Page, api: httpx.Client
) -> None:
    one = individuals(api)[0]
    seen = api.get("/v1/encounters", params={"individual": one["id"]}).json()["items"][0]
    encounter = seen.get("encounter", seen)["id"]
    page.goto(f"/encounters/{encounter}")
    expect(page.locator(".together-list")).to_contain_text(one["name"])
    page.get_by_role("link", name="Edit").first.click()
    expect(page.locator(".map-live")).to_be_visible()
    page.locator(".map-view").click(position={"x": 60, "y": 60})
    expect(page.get_by_label("Latitude")).to_have_value(re.compile(r"^6\d\.\d{5}$"))
    page.get_by_label("Observer").fill("M. Holm")
    page.get_by_role("button", name="Save").click()
    expect(told(page)).to_contain_text("edited")
    expect(page.locator(".pairs")).to_contain_text("M. Holm")
    undo(page)
    expect(page.locator(".pairs")).not_to_contain_text("M. Holm")
    page.get_by_role("button", name="Ask who it is").click()
    expect(page).to_have_url(re.compile(r"/review/[0-9a-f-]{36}"))
    page.goto(f"/encounters/{encounter}")
    expect(page.locator(".questions li")).to_have_count(1)
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()


def test_many_photos_are_described_at_once(page: Page, api: httpx.Client, watch: Watch) -> None:
    watch.expect("422")
    seen = api.get("/v1/encounters", params={"limit": 100}).json()["items"]
    at = next(one for one in seen if one["photo_count"] > 1)
    at = at.get("encounter", at)
    page.goto(f"/encounters/{at['id']}")
    pick(page, 0, 1)
    page.get_by_role("button", name="Describe…").click()
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("alert")).to_contain_text("Say at least one thing")
    page.get_by_label("Body part").fill("dorsal fin")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("status").first).to_contain_text("Of these, 2 photos change.")
    page.get_by_role("button", name="Change them").click()
    expect(told(page)).to_contain_text("2 photos were edited")
    page.goto(f"/encounters/{at['id']}")
    expect(page.locator(".shot", has_text="dorsal fin")).to_have_count(2)
    page.goto("/changes")
    page.get_by_role("button", name="Undo change").first.click()
    page.goto(f"/encounters/{at['id']}")
    expect(page.locator(".shot", has_text="dorsal fin")).to_have_count(0)


def annotation_of(api: httpx.Client, one: dict[str, Any]) -> str:
    found = api.get(f"/v1/individuals/{one['id']}").json()["photos"][0]
    return str(found["annotation_id"])


def test_a_box_is_drawn_by_pointer_and_corrected_by_keyboard(page: Page, api: httpx.Client) -> None:
    annotation = annotation_of(api, individuals(api)[0])
    page.goto(f"/annotations/{annotation}")
    photo = page.locator("#region")
    frame = photo.bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + frame["width"] * 0.25, frame["y"] + frame["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.75, frame["y"] + frame["height"] * 0.75)
    page.mouse.up()
    left = page.get_by_label("Left", exact=True)
    assert abs(int(left.input_value()) - SIZE_PX[0] / 4) <= 2
    assert abs(int(page.get_by_label("Width").input_value()) - SIZE_PX[0] / 2) <= 3
    at = int(left.input_value())
    page.keyboard.press("ArrowRight")
    assert int(left.input_value()) == at + 3
    page.keyboard.press("Alt+ArrowLeft")
    assert int(left.input_value()) == at + 2
    width = int(page.get_by_label("Width").input_value())
    page.keyboard.press("Shift+ArrowLeft")
    assert int(page.get_by_label("Width").input_value()) == width - 3
    page.get_by_label("Body part").fill("fluke")
    page.get_by_role("button", name="Save").click()
    expect(told(page)).to_contain_text("was edited")
    drawn = api.get(f"/v1/annotations/{annotation}").json()
    assert drawn["box_px"][0] == at + 2
    assert drawn["body_part"] == "fluke"
    undo(page)
    assert api.get(f"/v1/annotations/{annotation}").json()["box_px"] is None


def test_a_second_animal_on_a_photo_gets_a_box_of_its_own(
    page: Page, api: httpx.Client, watch: Watch
) -> None:
    """Promise 51: what is said of one annotation touches no other of the photo."""
    one = individuals(api)[0]
    annotation = annotation_of(api, one)
    page.goto(f"/annotations/{annotation}")
    page.get_by_role("link", name="Draw another region").click()
    for label, value in (("Left", 10), ("Top", 20), ("Width", 100), ("Height", 9000)):
        page.get_by_label(label, exact=True).fill(str(value))
    page.locator("#region-form").evaluate("form => (form.noValidate = true)")
    watch.expect("422")
    page.get_by_role("button", name="Draw it").click()
    expect(page.get_by_role("alert")).to_contain_text("does not lie inside the photo")
    expect(page.get_by_label("Top", exact=True)).to_have_value("20")
    page.get_by_label("Height", exact=True).fill("90")
    page.get_by_role("button", name="Draw it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Nobody known")
    expect(page.locator(".region-facts")).to_contain_text(one["name"])
    first = api.get(f"/v1/annotations/{annotation}").json()
    assert (first["box_px"], first["individual"]["name"]) == (None, one["name"])


def test_rules_of_viewpoints_are_set_and_deleted(page: Page, watch: Watch) -> None:
    page.goto("/settings/viewpoints")
    rows = page.locator(".table tbody tr")
    before = rows.count()
    page.get_by_label("Species").fill("humpback whale")
    page.get_by_label("Body part").fill("tail stock")
    page.get_by_role("button", name="Set the rule").click()
    expect(rows).to_have_count(before + 1)
    expect(rows.first).to_contain_text("tail stock")
    expect(rows.first).to_contain_text("never compared")
    rows.first.get_by_role("button", name="Compare them").click()
    expect(rows.first).not_to_contain_text("never compared")
    rows.first.get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(before)
    watch.expect("404")
    page.get_by_label("Species").fill("griffin")
    page.get_by_role("button", name="Set the rule").click()
    expect(page.get_by_role("alert")).to_contain_text("No taxon is called")
    expect(page.get_by_label("Species")).to_have_value("griffin")


def test_a_phone_needs_no_sideways_scrolling(new_page: NewPage, api: httpx.Client) -> None:
    page = new_page(**PHONE)
    one, other = individuals(api)[:2]
    at = f"/individuals/{one['id']}"
    for path in (
        "/individuals",
        "/individuals?view=list",
        at,
        f"{at}/edit",
        f"{at}/merge",
        f"{at}/merge?with={other['id']}",
        f"{at}/split",
        "/individuals/suggestions",
        "/individuals/suggestions?kind=outliers",
        "/encounters",
        "/encounters/new",
        f"/annotations/{annotation_of(api, one)}",
        "/changes",
        "/settings/viewpoints",
    ):
        page.goto(path)
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
