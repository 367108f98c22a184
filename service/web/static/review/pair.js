// Owns the pair on the page: which candidate stands beside the query, and which photos of both.

import { word } from "../words.js";
import { say, showToast } from "./told.js";

export class Pair {
  /** `onCandidate`: another candidate is shown. */
  constructor(place, lens, shelf, onCandidate) {
    this.place = place;
    this.lens = lens;
    this.shelf = shelf;
    this.onCandidate = onCandidate;
    this.asked = 0;
    this.item = place.querySelector("[data-item]");
    if (this.item) this.#begin();
  }

  /** Puts an item on the page, as the service drew it. */
  mount(element) {
    this.place.replaceChildren(element);
    this.item = element;
    this.#begin();
  }

  #begin() {
    this.asked += 1;
    this.shelf.clearCandidates();
    if (this.candidate.id) this.shelf.keepCandidate(this.candidate.id, this.side, this.about);
    this.lens.fresh();
    if (this.lens.over) this.#lay();
    this.#warm();
  }

  get id() {
    return this.item?.dataset.item ?? null;
  }

  get side() {
    return this.item.querySelector('[data-part="side"]');
  }

  get about() {
    return this.item.querySelector('[data-part="about"]');
  }

  get cards() {
    return [...this.item.querySelectorAll(".rail-card")];
  }

  /** Who is shown beside the query; `id` is empty where nobody is. */
  get candidate() {
    const { candidate: id, name, rank, rejected } = this.side.dataset;
    return { id, name, rank: rank ? Number(rank) : null, rejected: rejected === "yes" };
  }

  /** The candidate's photo that is shown. */
  get matchAnnotation() {
    return this.#pressed("candidate")?.dataset.annotation || null;
  }

  /** The photos that the next verdict speaks of; null for all. */
  get ticked() {
    const ticks = [...this.item.querySelectorAll("[data-tick]")];
    const on = ticks.filter((tick) => tick.checked);
    return on.length === ticks.length ? null : on.map((tick) => tick.dataset.tick);
  }

  // ------------------------------------------------------------------------------ candidates

  #cardOf(id) {
    return this.cards.find((card) => card.dataset.candidate === id);
  }

  /** The next candidate in this direction; `open` leaves out those rejected. */
  near(by, { open = false } = {}) {
    const cards = open ? this.cards.filter((card) => !card.matches(".rail-no")) : this.cards;
    const here = cards.indexOf(this.#cardOf(this.candidate.id));
    if (here >= 0) return cards[here + by] ?? null;
    const all = this.cards;
    const place = all.indexOf(this.#cardOf(this.candidate.id));
    return cards.find((card) => all.indexOf(card) > place) ?? null;
  }

  step(by) {
    const card = this.near(by);
    if (!card) {
      say(by > 0 ? word("That was the last candidate.") : word("This is the first candidate."));
      return;
    }
    this.showCandidate(card.dataset.candidate, card.dataset.fragment);
  }

  async showCandidate(id, url) {
    const turn = ++this.asked;
    const { item } = this;
    const kept = this.shelf.wantCandidate(id, url);
    const entry = kept instanceof Promise ? await kept.catch(() => null) : kept;
    // A slower answer to an earlier key press must not replace a later one.
    if (turn !== this.asked || item !== this.item) return;
    if (!entry) {
      showToast(word("The candidate could not be loaded."), { undo: false });
      return;
    }
    this.side.replaceWith(entry.side);
    this.about.replaceWith(entry.about);
    for (const card of this.cards) {
      const current = card.dataset.candidate === id;
      if (current) {
        card.setAttribute("aria-current", "true");
        card.scrollIntoView({ block: "nearest", inline: "nearest" });
      } else card.removeAttribute("aria-current");
    }
    this.lens.plain("candidate");
    this.#evidence();
    if (this.lens.over) this.#lay();
    this.#warm();
    say(entry.side.dataset.said);
    this.onCandidate(id);
  }

  /** Each photo of the query with its best score with this candidate. */
  #evidence() {
    const pairs = JSON.parse(this.side.dataset.evidence || "[]");
    for (const [place, button] of this.#photos("query").entries()) {
      const pair = pairs[place] ?? {};
      button.dataset.match = pair.match ?? "";
      button.querySelector(".strip-line > span").textContent = pair.score ?? "–";
    }
  }

  /** Fetches the neighbours, and the large photos that may be asked for next. */
  #warm() {
    for (const card of [this.near(1), this.near(1, { open: true }), this.near(-1)]) {
      if (card) this.shelf.wantCandidate(card.dataset.candidate, card.dataset.fragment);
    }
    for (const which of ["query", "candidate"]) {
      const next = this.#beside(which, 1);
      if (next) new Image().src = next.dataset.large;
    }
  }

  /** Marks the candidate as rejected, or no longer so, until the service draws it anew. */
  mark(id, rejected) {
    const card = this.#cardOf(id);
    card?.classList.toggle("rail-no", rejected);
    const tag = card?.querySelector(".tag-no");
    if (tag) tag.hidden = !rejected;
    if (this.candidate.id === id) this.side.dataset.rejected = rejected ? "yes" : "";
  }

  // --------------------------------------------------------------------------------- photos

  #photos(which) {
    return [...this.item.querySelectorAll(`[data-photo="${which}"]`)];
  }

  #pressed(which) {
    return this.item.querySelector(`[data-photo="${which}"][aria-pressed="true"]`);
  }

  #beside(which, by) {
    const photos = this.#photos(which);
    if (photos.length < 2) return null;
    const here = photos.indexOf(this.#pressed(which));
    return photos[(here + by + photos.length) % photos.length];
  }

  stepPhoto(which, by) {
    const button = this.#beside(which, by);
    if (button) this.choose(button);
  }

  /** Shows a photo of a strip; one of the query brings the candidate's nearest along. */
  choose(button) {
    const which = button.dataset.photo;
    for (const other of this.#photos(which)) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
    const image = this.item.querySelector(`[data-view="${which}"] img`);
    if (image) this.#put(image, button);
    for (const part of ["name", "caption", "viewpoint"]) {
      this.item.querySelector(`[data-told="${which}-${part}"]`).textContent = button.dataset[part];
    }
    if (which === "query") {
      const photos = this.#photos("query");
      this.item.querySelector('[data-told="query-place"]').textContent = word(
        "Photo %(number)s of %(count)s",
        { number: photos.indexOf(button) + 1, count: photos.length },
      );
    }
    this.lens.plain(which);
    if (this.lens.over) this.#lay();
    const next = this.#beside(which, 1);
    if (next) new Image().src = next.dataset.large;
    say(button.getAttribute("aria-label"));
    const match = which === "query" && button.dataset.match;
    const other = match && this.item.querySelector(`[data-photo="candidate"][data-annotation="${match}"]`);
    if (other && other !== this.#pressed("candidate")) this.choose(other);
  }

  #put(image, button) {
    delete image.dataset.deepened;
    image.dataset.deep = button.dataset.deep;
    image.src = button.dataset.large;
  }

  /** The whole photos instead of the regions that were compared, and back. */
  whole() {
    let any = false;
    for (const which of ["query", "candidate"]) {
      const button = this.#pressed(which);
      const image = this.item.querySelector(`[data-view="${which}"] img`);
      if (!button?.dataset.whole || !image) continue;
      any = true;
      const whole = image.src.endsWith(button.dataset.whole);
      delete image.dataset.deepened;
      image.dataset.deep = whole ? button.dataset.deep : "";
      image.src = whole ? button.dataset.large : button.dataset.whole;
    }
    this.lens.reset();
    if (this.lens.over) this.#lay();
    if (!any) say(word("These are whole photos already."));
  }

  /** Whether the photo of the query that is shown belongs to the next verdict. */
  tick() {
    const tick = this.#pressed("query")?.parentElement.querySelector("[data-tick]");
    if (tick) tick.click();
  }

  // -------------------------------------------------------------------------------- overlay

  overlay(on) {
    this.lens.lay(on);
    this.item.querySelector("[data-pair]").classList.toggle("pair-over", on);
    this.item.querySelector('[data-view="over"]').hidden = !on;
    if (on) this.#lay();
  }

  #lay() {
    this.item.querySelector("[data-pair]").classList.add("pair-over");
    const view = this.item.querySelector('[data-view="over"]');
    view.hidden = false;
    for (const which of ["query", "candidate"]) {
      const shown = this.item.querySelector(`[data-view="${which}"] img`);
      const image = view.querySelector(`[data-layer="${which}"]`);
      image.hidden = !shown;
      if (!shown) continue;
      image.src = shown.getAttribute("src");
      image.dataset.deep = shown.dataset.deep ?? "";
      delete image.dataset.deepened;
    }
    this.lens.apply();
  }
}
