"""The match page as a biologist uses it: ask, read, compare, add."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage, Site, Watch

DROP = """
async ({ name, data }) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
  const target = document.querySelector(".drop");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, options));
  }
}
"""


def drop(page: Page, photo: Path) -> None:
    data = base64.b64encode(photo.read_bytes()).decode()
    page.evaluate(DROP, {"name": photo.name, "data": data})
    expect(page.locator("article.answer")).to_be_visible()


def choose(page: Page, *photos: Path) -> None:
    page.locator("#file").set_input_files(photos)
    expect(page.locator("article.answer")).to_be_visible()


def fact(page: Page, label: str) -> str:
    title = page.get_by_text(label, exact=True)
    return page.locator(".fact").filter(has=title).locator(".fact-value").inner_text()


def wait_until_drawn(page: Page, image: Locator) -> None:
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


def names(page: Page) -> list[str]:
    """Names on the cards, best first."""
    texts = page.locator(".card .card-name").all_inner_texts()
    return [re.sub(r"^\d+\s+", "", text.strip()) for text in texts]


def test_a_dropped_photo_is_answered_with_cards(page: Page, site: Site) -> None:
    drop(page, site.known)
    expect(page.locator(".verdict h1")).to_have_text(site.known_individual)
    assert fact(page, "Gate").startswith("Accepted")
    assert fact(page, "Default answer").startswith(site.known_individual)
    shown = names(page)
    assert shown[0] == site.known_individual
    assert len(shown) == len(set(shown)) == 12
    scores = [float(text) for text in page.locator(".card-score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(page.locator(".card-foot").first).to_contain_text(re.compile(r"\d+ photos?$"))
    wait_until_drawn(page, page.locator(".card img").first)


def test_an_answer_has_an_address_that_shows_it_again(page: Page, site: Site) -> None:
    drop(page, site.known)
    page.wait_for_url(re.compile(r"/queries/[0-9a-f-]{36}$"))
    before = names(page)
    page.reload()
    assert names(page) == before
    expect(page.locator(".verdict h1")).to_have_text(site.known_individual)


def test_back_leads_to_the_empty_page(page: Page, site: Site) -> None:
    drop(page, site.known)
    page.wait_for_url(re.compile(r"/queries/"))
    page.go_back()
    expect(page.locator("h1")).to_have_text("Have we seen this individual before?")
    expect(page.locator("article.answer")).to_have_count(0)


def test_a_click_opens_both_photos_and_keys_step_through(page: Page, site: Site) -> None:
    choose(page, site.known)
    second, third = names(page)[1:3]
    page.locator(".card").nth(1).click()
    dialog = page.locator("dialog[open]")
    expect(dialog.locator("h2")).to_have_text(second)
    images = dialog.locator(".pane-view img")
    expect(images).to_have_count(2)
    wait_until_drawn(page, images.first)
    wait_until_drawn(page, images.last)
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("h2")).to_have_text(third)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator("h2")).to_have_text(names(page)[0])
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator("h2")).to_have_text(names(page)[0])
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator(".card").first).to_be_focused()


def test_cards_are_walked_and_opened_without_a_mouse(page: Page, site: Site) -> None:
    choose(page, site.known)
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("dialog[open] h2")).to_have_text(names(page)[1])


def test_zoom_moves_both_photos_as_one(page: Page, site: Site) -> None:
    choose(page, site.known)
    page.locator(".card").first.click()
    images = page.locator("dialog[open] .pane-view img")
    page.locator('[data-pane="candidate"]').hover()
    page.mouse.wheel(0, -600)
    page.mouse.down()
    page.mouse.move(500, 500)
    page.mouse.up()
    expect(images.first).not_to_have_css("transform", "matrix(1, 0, 0, 1, 0, 0)")
    left, right = (images.nth(i).evaluate("image => image.style.transform") for i in range(2))
    assert left == right
    assert re.search(r"scale\((?!1\))", left)
    page.keyboard.press("0")
    assert images.first.evaluate("image => image.style.transform") == "translate(0%, 0%) scale(1)"


def test_another_photo_of_the_candidate_can_be_shown(page: Page, site: Site) -> None:
    choose(page, site.known)
    page.locator(".card").first.click()
    film = page.locator('dialog[open] [data-show="candidate"]')
    expect(film).to_have_count(4)
    shown = page.locator('dialog[open] [data-pane="candidate"] img')
    assert film.first.get_attribute("data-src") == shown.get_attribute("src")
    film.nth(2).click()
    assert film.nth(2).get_attribute("data-src") == shown.get_attribute("src")
    expect(film.nth(2)).to_have_attribute("aria-pressed", "true")


def test_an_unknown_animal_is_probably_new(page: Page, site: Site) -> None:
    page.get_by_role("button", name="A stranger").click()
    expect(page.locator(".verdict h1")).to_have_text("Probably new")
    expect(page.locator(".strip-mark")).to_have_count(1)
    assert page.locator(".strip-same").count() > 3
    best = float(page.locator(".card-score").first.inner_text())
    expect(page.locator(".strip-label")).to_have_text(f"{best:.2f}")
    expect(page.get_by_role("button", name="Add", exact=True)).to_be_visible()


def test_what_is_no_whale_is_rejected(page: Page, site: Site) -> None:
    choose(page, site.not_a_whale)
    expect(page.locator(".verdict h1")).to_have_text("No whale or dolphin seen")
    assert fact(page, "Gate").startswith("Rejected")
    assert fact(page, "Default answer") == "Withheld"
    assert names(page) == []
    expect(page.get_by_text("Add as a new individual")).to_have_count(0)


def test_the_receipt_says_what_was_searched(page: Page, site: Site) -> None:
    choose(page, site.known)
    receipt = page.locator("details.receipt")
    expect(receipt.locator(".timings")).to_be_hidden()
    receipt.locator("summary").click()
    expect(receipt).to_contain_text(re.compile(r"Compared with all \d+ photos of the catalogue"))
    expect(receipt.locator(".pairs .mono").first).not_to_be_empty()
    steps = receipt.locator(".timings th").all_inner_texts()
    assert {"Gate", "Embedding", "Search", "In all"} <= set(steps)


def test_options_limit_the_candidates(page: Page, site: Site) -> None:
    page.get_by_text("Options").click()
    page.get_by_label("Candidates").select_option("6")
    choose(page, site.known)
    assert len(names(page)) == 6
    page.get_by_label("Only this species").fill("beluga")
    page.locator("#file").set_input_files(site.known)
    expect(page.locator(".card")).to_have_count(0)
    page.locator("details.receipt summary").click()
    expect(page.locator(".pairs")).to_contain_text("species: beluga")


def test_photos_of_one_encounter_are_asked_together(page: Page, site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "cut short.jpg"
    broken.write_bytes(site.known.read_bytes()[:3000])
    choose(page, site.stranger(1, 0), site.stranger(1, 1), broken)
    expect(page.locator("[data-asked]")).to_have_count(2)
    expect(page.locator(".photo-problems li")).to_have_count(1)
    expect(page.locator(".photo-problems")).to_contain_text("cut short.jpg was left out.")
    large = page.locator(".asked figure img")
    page.locator("[data-asked]").nth(1).click()
    assert large.get_attribute("src") == page.locator("[data-asked]").nth(1).get_attribute(
        "data-asked"
    )


def test_a_photo_can_be_added_to_the_question(page: Page, site: Site) -> None:
    choose(page, site.stranger(2, 0))
    first = page.url
    page.locator(".again input[type=file]").set_input_files(site.stranger(2, 1))
    expect(page.locator("[data-asked]")).to_have_count(2)
    assert page.url != first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "empty"), (b"this is a letter, not a photo\n" * 40, "no photo that can be read")],
)
def test_a_bad_file_is_refused_with_a_sentence(
    page: Page, watch: Watch, tmp_path: Path, content: bytes, sentence: str
) -> None:
    watch.expect("Failed to load resource")
    watch.expect("Response Status Error Code")
    path = tmp_path / "letter.jpg"
    path.write_bytes(content)
    page.locator("#file").set_input_files(path)
    alert = page.locator("#answer [role=alert]")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text(re.compile(sentence, re.IGNORECASE))
    expect(page.locator("article.answer")).to_have_count(0)


def test_a_lost_service_is_told(page: Page, site: Site, watch: Watch) -> None:
    watch.expect("")
    page.route("**/identify", lambda route: route.abort())
    page.locator("#file").set_input_files(site.known)
    expect(page.locator("#answer [role=alert]")).to_contain_text("No answer from the service")


def test_a_file_name_is_only_text(page: Page, site: Site, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.jpg"
    path = tmp_path / name
    path.write_bytes(site.known.read_bytes())
    choose(page, path)
    expect(page.locator("[data-asked-name]")).to_have_text(name)


def test_a_new_individual_is_added_and_then_found(
    page: Page, site: Site, watch: Watch, new_page: NewPage
) -> None:
    choose(page, site.stranger(3, 0))
    form = page.locator(".add")
    if not form.get_by_label("Name").is_visible():
        form.locator("summary").click()
    watch.expect("409")
    form.get_by_label("Name").fill(site.known_individual.upper())
    form.get_by_role("button", name="Add").click()
    expect(form.locator("[role=alert]")).to_contain_text("in this catalogue already")
    expect(form.get_by_label("Name")).to_have_value(site.known_individual.upper())
    expect(form.get_by_role("link", name="See that individual.")).to_be_visible()

    form.get_by_label("Name").fill("Newcomer")
    form.get_by_label("Species").fill("humpback whale")
    form.get_by_role("button", name="Add").click()
    expect(form.get_by_role("link", name="Newcomer")).to_be_visible()

    later = new_page()
    later.goto("/")
    choose(later, site.stranger(3, 1))
    assert names(later)[0] == "Newcomer"
    page.get_by_role("link", name="Newcomer").click()
    expect(page.locator("h1")).to_have_text("Newcomer")
    expect(page.locator(".photos img")).to_have_count(1)


def test_an_unknown_address_is_told_on_a_page(page: Page, watch: Watch) -> None:
    watch.expect("404")
    answer = page.goto("/queries/00000000-0000-4000-8000-000000000000")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("alert")).to_contain_text("Not found")


def test_without_javascript_it_works_too(new_page: NewPage, site: Site) -> None:
    page = new_page(java_script_enabled=False)
    page.goto("/")
    page.locator("#file").set_input_files(site.known)
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".verdict h1")).to_have_text(site.known_individual)
    page.locator(".card").first.click()
    expect(page.locator(".compare-title h2")).to_have_text(site.known_individual)
    expect(page.locator(".pane-view img")).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(new_page: NewPage, site: Site, scheme: str) -> None:
    page = new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, page.url

    page.goto("/")
    fits()
    choose(page, site.known, site.unknown)
    page.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")
    fits()
    page.locator(".card").first.tap()
    expect(page.locator("dialog[open] .pane-view img")).to_have_count(2)
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 390
    page.keyboard.press("Escape")
    page.goto("/individuals")
    fits()
    page.locator(".card").first.click()
    fits()


def test_nothing_inline_can_run(page: Page, site: Site) -> None:
    answer = page.goto("/")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    # Data for scripts is no script.
    inline = 'script:not([src]):not([type="application/json"])'
    assert page.locator(f"[style], style, {inline}").count() == 0


def test_every_control_has_a_name_and_every_page_one_heading(page: Page, site: Site) -> None:
    choose(page, site.known)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a")]
        .filter((e) => !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim()
                && !e.querySelector("img[alt]:not([alt=''])"))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("h1").count() == 1
    said = page.locator("[aria-live=polite]")
    expect(said).to_have_text(re.compile(rf"^{site.known_individual}\. .* 12 candidates\.$"))
