"""The review as people use it for hours: look, decide, and the next pair is there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect
from sqlalchemy import text

from db import embedded
from db.queries.access import create_key
from db.session import make_engine, make_sessions
from db.types import Role
from indexer.drawings import individual_names, individual_seed
from tests.browser.sending import answered
from tests.flukes import draw

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Site, Watch

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# Animals of the catalogue that no other test of this folder asks about.
FIRST = 8
NAMES = individual_names(40)
_places = itertools.count()
_scenes = itertools.count(700)


@dataclass
class Desk:
    """The API beside the pages: it brings photos to the desk and says what became of them.

    Each test has a place of its own and looks at the queue through that filter, so that it sees
    its own encounters alone.
    """

    site: Site
    client: httpx.Client
    place: str
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"/review?queue=to_review&place={self.place}"

    def draw(self, position: int) -> Path:
        """A new photo of the animal at a position of the catalogue; from 40 on of a stranger."""
        scene = next(_scenes)
        path = self.site.folder / f"desk-{position}-{scene}.jpg"
        seed = individual_seed(position if position < 40 else position + 1000)
        return draw(path, seed, scene)

    def bring(self, *photos: Path) -> str:
        """An encounter of these photos; the query that waits."""
        files = [("file", (photo.name, photo.read_bytes())) for photo in photos]
        data = {"place": self.place, "observer": "Vera", "started_at": "2026-06-14T08:00:00Z"}
        answer = self.client.post("/v1/encounters", files=files, data=data)
        assert answer.status_code == 201, answer.text
        query: str = answer.json()["query_id"]
        self.asked.append(query)
        return query

    def ask_many(self, query: str, votes: int) -> str:
        """The same encounter once more, as a question for several people."""
        encounter = self.read(query)["encounter"]["id"]
        body = {"encounter_id": encounter, "wanted_votes": votes}
        answer = self.client.post("/v1/queries", json=body)
        assert answer.status_code == 201, answer.text
        made: str = answer.json()["id"]
        self.asked.append(made)
        return made

    def read(self, query: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"/v1/queries/{query}").json()
        return answer

    def verdicts(self, query: str) -> list[str]:
        """What was said of a query and stands, oldest first."""
        said = self.read(query)["reviews"]
        return [one["verdict"] for one in said if not one["undone"]]

    def decide(self, query: str, verdict: str, **more: Any) -> httpx.Response:
        body = {"query_id": query, "version": self.read(query)["version"], "verdict": verdict}
        return self.client.post("/v1/reviews", json=body | more)

    def person(self, name: str, role: Role) -> dict[str, str]:
        """The headers of somebody else."""
        engine = make_engine(embedded.start(self.site.folder).url)
        try:
            with make_sessions(engine).begin() as session:
                session.execute(text("DELETE FROM api_key WHERE name = :name"), {"name": name})
                _, key = create_key(session, name, role)
        finally:
            engine.dispose()
        return {"Authorization": f"Bearer {key}"}

    def take_all_back(self) -> None:
        for query in self.asked:
            for one in reversed(self.read(query)["reviews"]):
                if not one["undone"]:
                    self.client.post(f"/v1/reviews/{one['decision_id']}/undo")


@pytest.fixture
def desk(site: Site) -> Iterator[Desk]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        made = Desk(site, client, f"Bay {next(_places)}")
        yield made
        made.take_all_back()


def known(desk: Desk, count: int = 3, photos: int = 1) -> list[str]:
    """Queries about animals of the catalogue, oldest first."""
    return [
        desk.bring(*(desk.draw(FIRST + number) for _ in range(photos))) for number in range(count)
    ]


def name_of(number: int) -> str:
    return NAMES[FIRST + number]


def begin(page: Page, desk: Desk) -> None:
    """From the queue to its first pair."""
    page.goto(desk.url)
    page.locator("[data-start]").click()
    ready(page)


def ready(page: Page, query: str | None = None) -> None:
    """Waits until a pair is on the screen, long enough to be decided about."""
    want = f'[data-item="{query}"]' if query else "[data-item]"
    expect(page.locator(want)).to_be_visible()
    page.wait_for_function(
        """() => {
            const item = document.querySelector("[data-item]");
            if (!item || document.querySelector("#bench").dataset.shown !== item.dataset.item) {
                return false;
            }
            return [...item.querySelectorAll(".view img[src]")].every((image) => image.complete);
        }"""
    )
    page.wait_for_timeout(200)


def press(page: Page, key: str) -> None:
    page.keyboard.press(key)


def candidate(page: Page) -> Locator:
    return page.locator('[data-part="side"]')


def photo(page: Page, which: str) -> Locator:
    return page.locator(f'[data-view="{which}"] img')


def transform(page: Page, which: str) -> str:
    found: str = photo(page, which).evaluate("image => image.style.transform")
    return found


def scale(page: Page, which: str) -> float:
    found = re.search(r"scale\(([\d.]+)\)", transform(page, which))
    assert found is not None
    return float(found[1])


# ------------------------------------------------------------------------------------- the queues


def test_the_queue_shows_what_waits_and_leads_to_it(page: Page, desk: Desk) -> None:
    first, _ = known(desk, 2)
    page.goto(desk.url)
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(f"14 Jun 2026 · {desk.place}")
    expect(rows.first).to_contain_text(name_of(0))
    press(page, "Enter")
    ready(page, first)
    assert f"place={desk.place.replace(' ', '+')}" in page.url
    expect(candidate(page)).to_have_attribute("data-name", name_of(0))


def test_rows_are_walked_with_the_keyboard(page: Page, desk: Desk) -> None:
    _, second = known(desk, 2)
    page.goto(desk.url)
    press(page, "j")
    press(page, "ArrowDown")
    press(page, "Enter")
    ready(page, second)


def test_an_answer_of_the_match_page_is_brought_to_the_review(page: Page, desk: Desk) -> None:
    page.goto("/")
    page.locator("#file").set_input_files(desk.draw(FIRST))
    page.get_by_role("button", name="Decide in the review").click()
    ready(page)
    expect(candidate(page)).to_have_attribute("data-name", name_of(0))
    once = page.url
    page.go_back()
    page.get_by_role("button", name="Decide in the review").click()
    ready(page)
    assert page.url == once
    desk.asked.append(once.rpartition("/")[2])
    press(page, "s")
    expect(page.locator("#bench")).not_to_have_attribute("data-shown", desk.asked[0])
    answered(page)
    assert desk.read(desk.asked[0])["state"] == "same"


def test_an_empty_queue_says_what_to_do(page: Page, desk: Desk) -> None:
    page.goto(desk.url)
    expect(page.locator("main")).to_contain_text("Nothing in this queue fits the filters")
    page.goto("/review?queue=second_opinion&place=Nowhere")
    page.get_by_role("link", name=re.compile("Without the filter")).click()
    expect(page.locator(".message")).to_contain_text("Nobody asks for a second opinion")


def test_a_filter_that_makes_no_sense_keeps_what_was_typed(page: Page, watch: Watch) -> None:
    watch.expect("422")
    page.goto("/review?queue=to_review&score_min=7&place=Husavik")
    expect(page.get_by_role("alert")).to_contain_text("Score at least")
    expect(page.get_by_label("Place", exact=True)).to_have_value("Husavik")


def test_filters_and_order_are_kept_under_a_name(page: Page, desk: Desk) -> None:
    known(desk, 1)
    page.goto("/review")
    page.get_by_text("Filter and sort").click()
    page.get_by_label("Place", exact=True).fill(desk.place)
    page.get_by_label("Order").select_option("score")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("[data-row]")).to_have_count(1)
    page.get_by_text("Saved views").click()
    page.get_by_label("Keep what is shown as").fill("The bay")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.goto("/review")
    page.get_by_text("Saved views").click()
    page.get_by_role("link", name="The bay").click()
    expect(page.locator(".chip")).to_contain_text(desk.place)
    assert "sort=score" in page.url
    page.get_by_text("Saved views").click()
    page.get_by_role("button", name="Forget the view The bay").click()
    page.get_by_text("Saved views").click()
    expect(page.get_by_role("link", name="The bay")).to_have_count(0)


# --------------------------------------------------------------------------------------- deciding


def test_a_verdict_brings_the_next_pair_before_it_is_answered(page: Page, desk: Desk) -> None:
    first, second, _ = known(desk)
    begin(page, desk)
    page.wait_for_timeout(500)

    def late(route: Route) -> None:
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/v1/reviews", late)
    page.evaluate("window.untouched = true")
    press(page, "s")
    expect(page.locator(f'[data-item="{second}"]')).to_be_visible(timeout=1000)
    expect(page.locator("[data-toast]")).to_contain_text(f"Same as {name_of(0)}")
    assert desk.verdicts(first) == []
    answered(page)
    assert desk.verdicts(first) == ["same"]
    assert desk.read(first)["state"] == "same"
    assert page.evaluate("window.untouched")
    took = page.evaluate("performance.getEntriesByName('decision to next pair')[0].duration")
    assert took < 1000


def test_a_row_of_verdicts_without_a_mouse(page: Page, desk: Desk) -> None:
    queries = known(desk, 5)
    begin(page, desk)
    for query, key in zip(queries, ["s", "u", "m", "x", "s"], strict=True):
        ready(page, query)
        press(page, key)
        if key == "x":
            press(page, "1")
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    expect(page.locator("h1")).to_be_focused()
    answered(page)
    states = [desk.read(query)["state"] for query in queries]
    assert states == ["same", "unsure", "no_match", "not_usable", "same"]
    assert desk.read(queries[3])["reviews"][0]["reason"] == "blurred"


def test_a_no_marks_the_candidate_and_shows_the_next(page: Page, desk: Desk) -> None:
    """Promise 54: a rejected pair is marked, and not what is offered again."""
    (query,) = known(desk, 1)
    begin(page, desk)
    press(page, "d")
    rejected = page.locator(".rail-no")
    expect(rejected).to_contain_text(name_of(0))
    expect(candidate(page)).not_to_have_attribute("data-name", name_of(0))
    second = candidate(page).get_attribute("data-name")
    answered(page)
    assert desk.verdicts(query) == ["different"]
    assert desk.read(query)["state"] == "open"
    page.reload()
    ready(page, query)
    expect(candidate(page)).to_have_attribute("data-name", str(second))
    expect(page.locator(".rail-card").last).to_contain_text("rejected")


def test_what_was_rejected_is_confirmed_only_knowingly(page: Page, desk: Desk) -> None:
    query, _ = known(desk, 2)
    begin(page, desk)
    press(page, "d")
    page.locator(".rail-no").click()
    expect(candidate(page)).to_have_attribute("data-name", name_of(0))
    ready(page)
    press(page, "s")
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text(f"Same as {name_of(0)} after all?")
    press(page, "Escape")
    assert desk.read(query)["state"] == "open"
    press(page, "s")
    dialog.get_by_role("button", name="Same after all").click()
    ready(page)
    answered(page)
    assert desk.read(query)["state"] == "same"


def test_undo_takes_back_and_returns_to_the_pair(page: Page, desk: Desk) -> None:
    first, second, third = known(desk)
    begin(page, desk)
    press(page, "s")
    ready(page, second)
    press(page, "u")
    ready(page, third)
    press(page, "z")
    ready(page, second)
    press(page, "z")
    ready(page, first)
    assert [desk.read(query)["state"] for query in (first, second)] == ["open", "open"]
    assert all(one["undone"] for one in desk.read(first)["reviews"])
    expect(page.locator("#said")).to_contain_text("Taken back")
    expect(page.locator('[data-decide] [data-act="undo"]')).to_be_disabled()


def test_an_earlier_decision_is_taken_back_from_its_page(page: Page, desk: Desk) -> None:
    (query,) = known(desk, 1)
    best = desk.read(query)["candidates"][0]["individual"]["id"]
    desk.decide(query, "same", individual_id=best, note="the notch")
    page.goto(f"/review/{query}?queue=decided")
    ready(page)
    expect(page.locator("[data-banner]")).to_contain_text(f"Same as {name_of(0)}: decided by")
    expect(page.locator(".verdicts")).to_contain_text("the notch")
    expect(page.locator('[data-act="same"]')).to_be_disabled()
    page.locator("[data-banner]").get_by_role("button", name="Take it back").click()
    expect(page.locator("[data-banner]")).to_have_count(0)
    assert desk.read(query)["state"] == "open"
    expect(page.locator('[data-act="same"]')).to_be_enabled()


def test_a_new_individual_is_made_in_one_step(page: Page, desk: Desk, watch: Watch) -> None:
    watch.expect("409")
    query = desk.bring(desk.draw(FIRST + 90))
    known(desk, 1)
    begin(page, desk)
    press(page, "n")
    form = page.locator("[data-new]")
    name = form.get_by_label("Name")
    expect(form.locator("[data-reserved]")).to_contain_text("is the next free name")
    suggested = name.input_value()
    assert suggested
    form.get_by_label("Comment").fill("nobody like it")
    name.fill(name_of(1).upper())
    press(page, "Enter")
    expect(form.get_by_role("alert")).to_contain_text("has this name already")
    expect(name).to_have_value(name_of(1).upper())
    expect(form.get_by_label("Comment")).to_have_value("nobody like it")
    assert desk.read(query)["reviews"] == []
    name.fill(suggested)
    press(page, "Enter")
    ready(page)
    now = desk.read(query)
    assert now["state"] == "new"
    made = next(one for one in now["reviews"] if one["verdict"] == "new")
    assert (made["individual"]["name"], made["note"]) == (suggested, "nobody like it")
    assert all(one["rejected"] for one in now["candidates"] if one["individual"] != made)


def test_the_form_of_a_new_individual_keeps_what_was_typed(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    press(page, "n")
    name = page.locator("[data-new]").get_by_label("Name")
    expect(name).not_to_have_value("")
    name.fill("Half a na")
    press(page, "Escape")
    press(page, "n")
    expect(name).to_have_value("Half a na")


def test_only_the_ticked_photos_are_decided_about(page: Page, desk: Desk) -> None:
    """Promise 51: a verdict touches the annotations that it is on."""
    query = known(desk, 1, photos=2)[0]
    known(desk, 1)
    begin(page, desk)
    page.locator("[data-tick]").nth(1).uncheck()
    press(page, "s")
    ready(page)
    answered(page)
    shown = [one["individual_id"] is not None for one in desk.read(query)["photos"]]
    assert shown == [True, False]


def test_a_comment_goes_with_the_verdict(page: Page, desk: Desk) -> None:
    first, second = known(desk, 2)
    begin(page, desk)
    press(page, "c")
    page.keyboard.type("same scar, sdumnxz")
    expect(page.locator("#comment")).to_have_value("same scar, sdumnxz")
    press(page, "Escape")
    press(page, "s")
    ready(page, second)
    expect(page.locator("#comment")).to_be_hidden()
    answered(page)
    assert desk.read(first)["reviews"][0]["note"] == "same scar, sdumnxz"


def test_who_comes_second_sees_the_present_state_and_loses_nothing(
    new_page: NewPage, desk: Desk, watch: Watch
) -> None:
    """Promise 48: of those who decide the same at once one wins."""
    watch.expect("409")
    first, second = known(desk, 2)
    vera = desk.person("Vera", Role.REVIEWER)
    mine, hers = new_page(), new_page(extra_http_headers=vera)
    for page in (mine, hers):
        begin(page, desk)
    press(hers, "u")
    ready(hers, second)
    answered(hers)
    press(mine, "c")
    mine.keyboard.type("I think so")
    press(mine, "Escape")
    press(mine, "s")
    told = mine.locator("[data-notices]")
    expect(told).to_contain_text("Somebody was faster.")
    expect(told).to_contain_text("Unsure: decided by Vera")
    expect(told).to_contain_text("Your comment is kept.")
    assert desk.verdicts(first) == ["unsure"]
    told.get_by_role("button", name="Look at it").click()
    ready(mine, first)
    expect(mine.locator("#comment")).to_have_value("I think so")
    mine.locator("h1").focus()
    press(mine, "s")
    ready(mine, second)
    answered(mine)
    assert desk.read(first)["state"] == "same"


def test_a_lost_connection_loses_no_decision(page: Page, desk: Desk, watch: Watch) -> None:
    """Promise 49: what is sent again is decided once."""
    watch.expect("")
    first, second = known(desk, 2)
    begin(page, desk)
    page.route("**/v1/reviews", lambda route: route.abort())
    press(page, "s")
    ready(page, second)
    told = page.locator("[data-notices]")
    expect(told).to_contain_text("Not saved:")
    page.unroute("**/v1/reviews")
    told.get_by_role("button", name="Try again").click()
    expect(told.locator(".message")).to_have_count(0)
    answered(page)
    assert desk.verdicts(first) == ["same"]


def test_a_key_held_down_decides_once(page: Page, desk: Desk) -> None:
    first, second, third = known(desk)
    begin(page, desk)
    page.keyboard.down("s")
    for _ in range(5):
        page.keyboard.down("s")
        page.wait_for_timeout(80)
    page.keyboard.up("s")
    ready(page, second)
    assert [desk.verdicts(query) for query in (first, second, third)] == [["same"], [], []]


def test_opinions_are_blind_until_ones_own(new_page: NewPage, desk: Desk, watch: Watch) -> None:
    (before,) = known(desk, 1)
    query = desk.ask_many(before, votes=3)
    best = desk.read(query)["candidates"][0]["individual"]["id"]
    vera = desk.person("Vera", Role.REVIEWER)
    body = {"query_id": query, "version": 0, "verdict": "same", "individual_id": best}
    voted = httpx.post(
        f"{desk.site.url}/v1/reviews", json=body | {"note": "her secret"}, headers=vera
    )
    assert voted.status_code == 201, voted.text
    page = new_page()
    page.goto(f"/review?queue=second_opinion&place={desk.place}")
    page.locator("[data-start]").click()
    ready(page, query)
    expect(page.locator(".banner-blind")).to_contain_text("1 of 3 given")
    assert "her secret" not in page.content()
    assert "Vera" not in page.locator(".more-about").inner_text()
    press(page, "u")
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    answered(page)
    page.goto(f"/review/{query}?queue=second_opinion")
    ready(page)
    expect(page.locator(".verdicts")).to_contain_text("her secret")
    expect(page.locator(".verdicts li")).to_have_count(2)


def test_what_the_gate_rejected_is_contradicted(page: Page, desk: Desk, site: Site) -> None:
    query = desk.bring(site.not_a_whale)
    assert desk.read(query)["gate"]["state"] == "rejected"
    page.goto(f"/review?queue=gate_rejected&place={desk.place}")
    page.locator("[data-start]").click()
    ready(page, query)
    expect(candidate(page)).to_contain_text("The gate saw no animal")
    expect(page.locator('[data-act="same"]')).to_be_disabled()
    press(page, "g")
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    answered(page)
    assert desk.verdicts(query) == ["usable"]


def test_a_viewer_looks_and_decides_nothing(new_page: NewPage, desk: Desk) -> None:
    first, second = known(desk, 2)
    page = new_page(extra_http_headers=desk.person("Looker", Role.VIEWER))
    page.goto(f"/review/{first}?queue=to_review&place={desk.place}")
    ready(page)
    expect(page.locator("main")).to_contain_text("Deciding needs the role reviewer")
    expect(page.locator('[data-act="same"]')).to_have_count(0)
    press(page, "s")
    press(page, "Shift+ArrowRight")
    ready(page, second)
    assert desk.verdicts(first) == []


# ---------------------------------------------------------------------------------------- looking


def test_candidates_and_photos_are_stepped_through(page: Page, desk: Desk) -> None:
    query = known(desk, 1, photos=2)[0]
    begin(page, desk)
    found = desk.read(query)["candidates"]
    press(page, "ArrowRight")
    expect(candidate(page)).to_have_attribute("data-name", found[1]["individual"]["name"])
    expect(page.locator("#said")).to_contain_text(found[1]["individual"]["name"])
    assert f"candidate={found[1]['individual']['id']}" in page.url
    scores = page.locator(".side-query .strip-line > span:first-child")
    expected = [f"{one['score']:.2f}" for one in found[1]["evidence"]]
    assert scores.all_inner_texts() == expected
    press(page, "k")
    expect(candidate(page)).to_have_attribute("data-name", name_of(0))
    film = page.locator('[data-photo="candidate"]')
    shown = page.locator('[data-photo="candidate"][aria-pressed="true"]')
    best = shown.get_attribute("data-annotation")
    press(page, "ArrowDown")
    expect(film.nth(1)).to_have_attribute("aria-pressed", "true")
    assert photo(page, "candidate").get_attribute("src") == film.nth(1).get_attribute("data-large")
    press(page, "ArrowUp")
    expect(shown).to_have_attribute("data-annotation", str(best))
    press(page, "Shift+ArrowDown")
    asked = page.locator('[data-photo="query"][aria-pressed="true"]')
    # The candidate's photo of the best pair comes along.
    expect(shown).to_have_attribute("data-annotation", str(asked.get_attribute("data-match")))


def test_each_photo_says_what_is_known_of_it(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    expect(page.locator(".side-query .caption")).to_contain_text(
        re.compile(rf"desk-{FIRST}-\d+\.jpg.*14 Jun 2026 · {desk.place}", re.DOTALL)
    )
    expect(page.locator(".side-candidate .caption-name")).not_to_be_empty()
    expect(page.locator(".scores")).to_contain_text("not enough verdicts yet")
    expect(page.locator('[data-part="about"]')).to_contain_text("Other encounters")


def test_what_was_searched_is_told(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    page.locator(".searched summary").click()
    expect(page.locator(".searched")).to_contain_text(re.compile(r"Compared with .*photos"))
    expect(page.locator(".searched")).to_contain_text("Viewpoint rule")
    expect(page.locator(".searched .mono").first).not_to_be_empty()


def test_zoom_and_pan_move_both_photos_until_they_are_taken_apart(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    photo(page, "candidate").hover()
    page.mouse.wheel(0, -600)
    assert scale(page, "query") == scale(page, "candidate") > 1
    box = photo(page, "query").locator("..").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    expect(page.locator('[data-view="candidate"] .ghost')).to_be_visible()
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 240, steps=3)
    page.mouse.up()
    assert transform(page, "query") == transform(page, "candidate")
    press(page, "l")
    page.mouse.wheel(0, -300)
    assert scale(page, "query") > scale(page, "candidate")
    press(page, "0")
    assert scale(page, "query") == scale(page, "candidate") == 1
    press(page, "l")
    page.mouse.dblclick(box["x"] + 200, box["y"] + 200)
    assert scale(page, "candidate") == 3
    page.mouse.dblclick(box["x"] + 200, box["y"] + 200)
    assert scale(page, "candidate") == 1
    press(page, "+")
    press(page, "+")
    press(page, "-")
    assert scale(page, "query") == 1.5
    press(page, "7")
    assert scale(page, "query") == scale(page, "candidate") == 3


def test_one_photo_is_turned_flipped_and_lit_alone(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    press(page, "f")
    press(page, "r")
    assert "rotate(90deg) scale(-" in transform(page, "candidate")
    assert "rotate(0deg) scale(1, 1)" in transform(page, "query")
    press(page, "Shift+R")
    assert "rotate(90deg)" in transform(page, "query")
    press(page, "b")
    light = page.locator('[data-light="candidate"][data-what="brightness"]')
    expect(light).to_be_focused()
    light.fill("160")
    assert photo(page, "candidate").evaluate("i => i.style.filter") == (
        "brightness(160%) contrast(100%)"
    )
    page.locator('[data-act="plain-candidate"]').click()
    assert photo(page, "candidate").evaluate("i => i.style.filter") == ""
    assert "rotate(0deg) scale(1, 1)" in transform(page, "candidate")


def test_one_photo_is_laid_over_the_other(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    expect(page.locator(".view-over")).to_be_hidden()
    press(page, "o")
    over = page.locator(".view-over [data-over]")
    expect(over).to_be_visible()
    assert over.evaluate("image => image.style.opacity") == "0.5"
    page.locator("[data-mix]").fill("80")
    assert over.evaluate("image => image.style.opacity") == "0.8"
    assert over.get_attribute("src") == photo(page, "candidate").get_attribute("src")
    press(page, "ArrowRight")
    press(page, "o")
    expect(page.locator(".view-over")).to_be_hidden()


def test_anybody_of_the_catalogue_can_be_put_beside_the_query(page: Page, desk: Desk) -> None:
    query, _ = known(desk, 2)
    begin(page, desk)
    press(page, "/")
    page.keyboard.type(name_of(30 - FIRST)[:5])
    expect(page.locator("[data-found]").first).to_be_visible()
    press(page, "Enter")
    expect(candidate(page)).to_have_attribute("data-name", name_of(30 - FIRST))
    page.wait_for_timeout(200)
    press(page, "s")
    ready(page)
    answered(page)
    said = desk.read(query)["reviews"][0]
    assert said["individual"]["name"] == name_of(30 - FIRST)


# ------------------------------------------------------------------------------- keys and addresses


def test_the_question_mark_shows_the_keys(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    press(page, "?")
    dialog = page.locator("dialog[open]")
    for line in ("same animal", "undo the last decision", "lay one photo over the other"):
        expect(dialog).to_contain_text(line)
    press(page, "s")
    press(page, "?")
    expect(dialog).to_have_count(0)
    expect(page.locator("[data-toast]")).to_be_hidden()


def test_letters_can_be_switched_off_and_any_alphabet_works(page: Page, desk: Desk) -> None:
    first, second = known(desk, 2)
    begin(page, desk)
    cyrillic = """document.dispatchEvent(new KeyboardEvent("keydown",
        { key: "ы", code: "KeyS", bubbles: true, cancelable: true }))"""
    dispatch = cyrillic.replace("document.dispatch", "document.body.dispatch")
    press(page, "?")
    page.get_by_label("Keys of one letter act at once").uncheck()
    press(page, "Escape")
    page.evaluate(dispatch)
    press(page, "s")
    assert desk.verdicts(first) == []
    press(page, "?")
    page.get_by_label("Keys of one letter act at once").check()
    press(page, "Escape")
    page.evaluate(dispatch)
    ready(page, second)


def test_each_item_has_an_address_and_back_works(page: Page, desk: Desk) -> None:
    first, second, third = known(desk)
    begin(page, desk)
    page.evaluate("window.untouched = true")
    press(page, "Shift+ArrowRight")
    ready(page, second)
    assert f"/review/{second}?" in page.url
    press(page, "Shift+ArrowRight")
    ready(page, third)
    page.go_back()
    ready(page, second)
    press(page, "Shift+ArrowLeft")
    ready(page, first)
    page.go_forward()
    ready(page, second)
    assert page.evaluate("window.untouched")
    page.go_back()
    page.go_back()
    page.wait_for_url(re.compile(r"/review\?"))
    expect(page.locator("[data-row]")).to_have_count(3)


def test_the_end_of_a_queue_offers_what_was_skipped(page: Page, desk: Desk) -> None:
    first, second = known(desk, 2)
    begin(page, desk)
    press(page, "Shift+ArrowRight")
    ready(page, second)
    press(page, "s")
    expect(page.locator("h1")).to_have_text("That was all of this queue")
    page.get_by_role("button", name="Go through the skipped ones").click()
    ready(page, first)


def test_a_screen_reader_hears_what_happened(page: Page, desk: Desk) -> None:
    known(desk, 2)
    begin(page, desk)
    said = page.locator("#said")
    expect(said).to_contain_text(f"14 Jun 2026 · {desk.place}. Candidate 1: {name_of(0)}, score")
    press(page, "s")
    expect(said).to_contain_text(f"Candidate 1: {name_of(1)}")
    expect(page.locator("h1")).to_be_focused()


# ------------------------------------------------------------------------------------------ a phone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_both_photos_and_decides_by_touch(
    new_page: NewPage, desk: Desk, scheme: str
) -> None:
    first, second, third = known(desk)
    page = new_page(**PHONE, color_scheme=scheme)

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

    page.goto(desk.url)
    fits()
    page.locator("[data-row]").first.tap()
    ready(page, first)
    fits()
    for which in ("query", "candidate"):
        expect(photo(page, which)).to_be_in_viewport(ratio=0.6)
    page.locator('[data-act="same"]').tap()
    ready(page, second)
    page.wait_for_timeout(200)
    page.locator('[data-act="more"]').tap()
    page.locator('[data-act="none"]').tap()
    ready(page, third)
    fits()
    answered(page)
    assert desk.read(first)["state"] == "same"
    assert desk.read(second)["state"] == "no_match"


def test_nothing_inline_can_run(page: Page, desk: Desk) -> None:
    known(desk, 1)
    begin(page, desk)
    answer = page.reload()
    assert answer is not None
    html = answer.text()
    assert not re.search(r"<[^>]+\sstyle=", html)
    assert not re.search(r"<script(?![^>]*(src=|application/json))", html)
    assert not re.search(r"<[^>]+\son[a-z]+=", html)
