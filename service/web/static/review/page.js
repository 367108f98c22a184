// Owns the flow of the review page: look, decide, and the next pair is there. What is decided is sent
// while the next one is looked at already; what the service refuses comes back with all that was typed.

import { nword, word } from "../words.js";
import { Decider, send } from "./decide.js";
import { Comment, NewForm, ask, askReason, enableKeysSheet } from "./forms.js";
import { enableKeySwitch, enableKeys } from "./keys.js";
import { Lens, enableLens } from "./lens.js";
import { Line } from "./line.js";
import { enableLookup } from "./lookup.js";
import { Pair } from "./pair.js";
import { Shelf } from "./shelf.js";
import { hideToast, notice, say, showToast } from "./told.js";

const bench = document.querySelector("#bench");
const place = bench.querySelector("[data-place]");
const mayDecide = "mayDecide" in bench.dataset;
/** No eye has seen a pair that came up more recently: a second press was meant for the one before. */
const SEEN_MS = 150;
const AHEAD = 3;
/** An item fetched longer ago is asked for again behind the reader's back. */
const STALE_MS = 30_000;

const shelf = new Shelf(bench.dataset.query);
const line = new Line(bench.dataset.line, Number(bench.dataset.count));
const lens = new Lens(place);
const decider = new Decider();
const comment = new Comment();
const pair = new Pair(place, lens, shelf, onCandidate);

let turns = 0;
let shownAt = 0;
let decidedAt = null;
/** What was just decided, to be heard before the next pair. */
let done = "";

// ---------------------------------------------------------------------------------- showing items

function onCandidate(id) {
  history.replaceState({ id: pair.id, candidate: id }, "", shelf.urlOf(pair.id, id));
  shownAt = performance.now();
  press({ "flip-candidate": false });
  drawButtons();
}

function press(states) {
  for (const [act, on] of Object.entries(states)) {
    for (const button of bench.querySelectorAll(`[data-act="${act}"][aria-pressed]`)) {
      button.setAttribute("aria-pressed", String(on));
    }
  }
}

/** Shows an item; immediately when it was fetched before. */
async function show(id, { past = "push", candidate = null } = {}) {
  const turn = ++turns;
  const waiting = setTimeout(() => bench.classList.add("bench-waits"), 200);
  let entry;
  try {
    entry = shelf.take(id, candidate);
    if (entry instanceof Promise) entry = await entry;
  } catch {
    if (turn === turns) location.assign(shelf.urlOf(id, candidate));
    return;
  } finally {
    clearTimeout(waiting);
    if (turn === turns) bench.classList.remove("bench-waits");
  }
  if (turn !== turns) return;
  bench.classList.remove("bench-done");
  const held = document.activeElement;
  const lost = held === document.body || place.contains(held);
  pair.mount(entry.element);
  if (past !== "none") {
    history[past === "push" ? "pushState" : "replaceState"]({ id }, "", shelf.urlOf(id, candidate));
  }
  settle();
  if (lost) place.querySelector("h1").focus({ preventScroll: true });
  if (place.getBoundingClientRect().top < 0) bench.scrollIntoView({ block: "start" });
  measure(entry);
  if (performance.now() - entry.at > STALE_MS) refresh(id);
}

/** The photos fill what the window has left below everything above them. */
function fit() {
  const stage = place.querySelector(".stage");
  if (!stage) return;
  const above = stage.getBoundingClientRect().top + scrollY;
  const below = bench.querySelector(".decide").offsetHeight;
  bench.style.setProperty("--above", `${Math.round(above)}px`);
  bench.style.setProperty("--decide", `${below}px`);
}

/** Everything around the item that depends on it. */
function settle() {
  const { item } = pair;
  fit();
  shownAt = performance.now();
  decider.saw(item.dataset.item, Number(item.dataset.version));
  comment.of(pair.id);
  document.title = `${item.dataset.title} · Resight`;
  say(done ? word("%(done)s. %(next)s", { done, next: item.dataset.said }) : item.dataset.said);
  done = "";
  bench.classList.remove("bench-more");
  bench.querySelector('[data-act="more"]')?.setAttribute("aria-expanded", "false");
  press({ "flip-query": false, "flip-candidate": false });
  drawButtons();
  line.stand(pair.id).then(() => shelf.want(line.peek(AHEAD)));
  shelf.want(line.peek(AHEAD));
}

function drawButtons() {
  const { item } = pair;
  for (const name of Object.keys(DECISIONS)) {
    const button = bench.querySelector(`[data-decide] [data-act="${name}"]`);
    if (button) button.disabled = !allowed(name);
  }
  const usable = bench.querySelector('[data-act="usable"]');
  if (usable) usable.hidden = item?.dataset.gate !== "rejected";
  for (const button of bench.querySelectorAll('[data-decide] [data-act="undo"]')) {
    button.disabled = !decider.canUndo;
  }
  const left = bench.querySelector("[data-left]");
  left.textContent = nword("%(num)d left", "%(num)d left", Math.max(0, line.left));
}

/** How long it took from a decision to the next pair on the screen, both photos drawn. */
function measure(entry) {
  const from = decidedAt;
  decidedAt = null;
  entry.drawable.then(() =>
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        bench.dataset.shown = entry.id;
        if (from !== null) {
          performance.measure("decision to next pair", { start: from, end: performance.now() });
        }
      }),
    ),
  );
}

/** Draws the item anew where it has changed meanwhile. */
async function refresh(id) {
  const entry = await shelf.again(id).catch(() => null);
  if (!entry || pair.id !== id) return;
  shelf.take(id);
  if (entry.element.dataset.version === pair.item.dataset.version) return;
  const candidate = pair.candidate.id;
  pair.mount(entry.element);
  settle();
  bench.dataset.shown = id;
  const card = pair.cards.find((one) => one.dataset.candidate === candidate);
  if (card && candidate !== pair.candidate.id) pair.showCandidate(candidate, card.dataset.fragment);
}

async function showNext() {
  const id = line.peek(1)[0] ?? (await line.next().catch(() => null));
  if (id) await show(id);
  else await showDone();
}

async function showDone() {
  turns += 1;
  const made = document.querySelector("#done").content.cloneNode(true);
  const first = await line.first().catch(() => null);
  made.querySelector("[data-done-text]").textContent = first
    ? word("Some that you skipped, or that came meanwhile, still wait.")
    : word("Nothing waits here any more.");
  const again = made.querySelector('[data-act="again"]');
  again.hidden = !first;
  if (first) again.dataset.first = first;
  place.replaceChildren(made);
  pair.item = null;
  delete bench.dataset.shown;
  bench.classList.add("bench-done");
  history.pushState({ done: true }, "", bench.dataset.list);
  document.title = `${bench.dataset.label} · Resight`;
  place.querySelector("h1").focus({ preventScroll: true });
  say(place.querySelector("h1").textContent);
  drawButtons();
}

// ------------------------------------------------------------------------------------- deciding

/** The body of a verdict on what is shown. */
function bodyOf(verdict, more = {}) {
  const body = { verdict, note: comment.value, ...more };
  const { ticked, candidate } = pair;
  if (ticked) body.annotation_ids = ticked;
  if (candidate.id && ["same", "different"].includes(verdict)) {
    body.individual_id = candidate.id;
    body.rank = candidate.rank;
    body.match_annotation_id = pair.matchAnnotation;
  }
  return body;
}

/** Sends a verdict; the page does not wait for the answer. */
function decide(body, text) {
  const { id } = pair;
  const typed = comment.value;
  const entry = decider.decide(id, body, text);
  comment.clear(id);
  showToast(text);
  drawButtons();
  entry.pending.then(
    () => drawButtons(),
    (refusal) => refused(refusal, { id, body, text, typed }),
  );
  return entry;
}

/** A verdict after which the next pair is shown. */
function leave(body, text) {
  decidedAt = performance.now();
  const { id } = pair;
  decide(body, text);
  gone(id);
  done = text;
  showNext();
}

/** The item leaves the queue, as far as this page can tell. */
function gone(id) {
  if (!line.decided.has(id)) line.left -= 1;
  line.decided.add(id);
}

function back(id) {
  if (line.decided.delete(id)) line.left += 1;
}

/** The service did not take a verdict: say why, and keep everything that was typed. */
async function refused(refusal, { id, body, text, typed }) {
  hideToast();
  back(id);
  if (typed) sessionStorage.setItem(`resight-comment-${id}`, typed);
  if (pair.id === id) comment.of(id);
  drawButtons();
  const again = (more = {}) => {
    decider.decide(id, { ...body, ...more }, text).pending.then(
      () => {
        gone(id);
        comment.clear(id);
        showToast(text);
        drawButtons();
        if (pair.id === id) refresh(id);
      },
      (next) => refused(next, { id, body: { ...body, ...more }, text, typed }),
    );
  };
  const look = [word("Look at it"), () => show(id)];
  if (refusal.status === 0) {
    notice(word("Not saved:"), text, [[word("Try again"), () => again()], look]);
    return;
  }
  if (refusal.code === "pair_rejected") {
    const anyway = [word("Say it anyway"), () => again({ confirm_rejected: true })];
    notice(word("Not saved:"), refusal.message, [anyway, look]);
    return;
  }
  const entry = await shelf.again(id).catch(() => null);
  const now = entry?.element.dataset.last;
  if (["query_moved_on", "query_decided", "vote_given"].includes(refusal.code)) {
    const what = now || refusal.message.replace(/\.$/, "");
    const told = typed ? word("%(what)s. Your comment is kept.", { what }) : what;
    notice(word("Somebody was faster."), told, [look]);
  } else {
    notice(word("Not saved:"), refusal.message, [look]);
  }
  if (pair.id === id) refresh(id);
}

async function saySame() {
  const { candidate, item } = pair;
  const more = {};
  if (candidate.rejected) {
    const sure = await ask(
      word("Same as %(name)s after all?", candidate),
      word("Somebody has said before that this is not %(name)s.", candidate),
      word("Same after all"),
    );
    if (!sure || item !== pair.item) return;
    more.confirm_rejected = true;
  }
  leave(bodyOf("same", more), word("Same as %(name)s", candidate));
}

function sayDifferent() {
  const { candidate } = pair;
  decide(bodyOf("different"), word("Not %(name)s", candidate)).candidate = candidate.id;
  pair.mark(candidate.id, true);
  drawButtons();
  const next = pair.near(1, { open: true });
  if (next) pair.showCandidate(next.dataset.candidate, next.dataset.fragment);
  else say(word("That was the last candidate: none of these (M), or a new individual (N)."));
}

const newForm = new NewForm(async ({ name, taxon, note, remember }) => {
  const started = performance.now();
  const { id } = pair;
  const rejected = remember ? pair.cards.map((card) => card.dataset.candidate) : [];
  const body = bodyOf("new", { name, taxon, note, rejected_individual_ids: rejected });
  const text = word("New individual %(name)s", { name });
  try {
    // The name may be taken: the form stays until the service has said that it is not.
    await decider.decide(id, body, text).pending;
  } catch (refusal) {
    if (["query_moved_on", "query_decided"].includes(refusal.code)) refresh(id);
    throw refusal;
  }
  comment.clear(id);
  showToast(text);
  gone(id);
  decidedAt = started;
  done = text;
  await showNext();
});

const openReason = askReason((reason, label) => {
  leave(bodyOf("not_usable", { reason }), word("Not usable: %(reason)s", { reason: label }));
});

async function undo() {
  let entry;
  try {
    entry = await decider.undoLast();
  } catch (refusal) {
    const change = refusal.problem?.blocking_id;
    const ways = change ? [[word("See the later change"), () => location.assign(`/changes?id=${change}`)]] : [];
    notice(word("Not taken back:"), refusal.message, ways);
    return;
  }
  hideToast();
  if (!entry) {
    say(word("There is nothing to undo."));
    drawButtons();
    return;
  }
  back(entry.id);
  showToast(word("Taken back: %(what)s", { what: entry.text }), { undo: false });
  if (pair.id === entry.id) await refresh(entry.id);
  else await show(entry.id);
  say(word("Taken back: %(what)s", { what: entry.text }));
}

async function undoDecision(decision) {
  const { id } = pair;
  try {
    await decider.undo(id, decision);
  } catch (refusal) {
    notice(word("Not taken back:"), refusal.message);
    return;
  }
  back(id);
  await refresh(id);
  say(word("Taken back."));
}

/** Asks about the same encounter again, in the whole catalogue. */
async function askWider() {
  try {
    const asked = await send("POST", "/v1/queries", { encounter_id: pair.item.dataset.encounter });
    await show(asked.id);
  } catch (refusal) {
    notice(word("Not asked:"), refusal.message);
  }
}

// ---------------------------------------------------------------------------------- keys and buttons

const openKeys = enableKeysSheet();
const openLookup = enableLookup((id) =>
  pair.showCandidate(id, `/review/${pair.id}/candidates/${id}?${bench.dataset.query}`),
);

function toggleAdjust(which) {
  const box = pair.item.querySelector(`[data-adjust="${which}"]`);
  box.hidden = !box.hidden;
  press({ [`adjust-${which}`]: !box.hidden });
  if (!box.hidden) box.querySelector("input").focus();
}

function asItWas(which) {
  lens.plain(which);
  press({ [`flip-${which}`]: false });
  for (const input of pair.item.querySelectorAll(`[data-light="${which}"]`)) input.value = "100";
}

const DECISIONS = {
  same: saySame,
  different: sayDifferent,
  unsure: () => leave(bodyOf("unsure"), word("Unsure")),
  new: () => {
    const { item } = pair;
    newForm.open({
      id: pair.id,
      taxon: item.dataset.taxon,
      note: comment.value,
      candidates: pair.cards.length,
    });
  },
  none: () => leave(bodyOf("none"), word("None of these")),
  "not-usable": () => openReason(),
  usable: () => leave(bodyOf("usable"), word("An animal is to be seen")),
};
const LOOKS = {
  "next-candidate": () => pair.step(1),
  "previous-candidate": () => pair.step(-1),
  "next-photo": () => pair.stepPhoto("candidate", 1),
  "previous-photo": () => pair.stepPhoto("candidate", -1),
  "next-query-photo": () => pair.stepPhoto("query", 1),
  "previous-query-photo": () => pair.stepPhoto("query", -1),
  "zoom-in": () => lens.zoom(1.5),
  "zoom-out": () => lens.zoom(1 / 1.5),
  "zoom-reset": () => lens.reset(),
  "flip-query": () => press({ "flip-query": lens.flip("query") }),
  "flip-candidate": () => press({ "flip-candidate": lens.flip("candidate") }),
  "rotate-query": () => lens.turn("query", 90),
  "rotate-candidate": () => lens.turn("candidate", 90),
  "adjust-query": () => toggleAdjust("query"),
  "adjust-candidate": () => toggleAdjust("candidate"),
  "plain-query": () => asItWas("query"),
  "plain-candidate": () => asItWas("candidate"),
  "whole-photo": () => pair.whole(),
  tick: () => pair.tick(),
  link: () => {
    lens.link(!lens.linked);
    press({ link: lens.linked });
    say(lens.linked ? word("Both photos move as one.") : word("Each photo moves by itself."));
  },
  overlay: () => {
    pair.overlay(!lens.over);
    press({ overlay: lens.over });
    bench.querySelector(".over-mix").hidden = !lens.over;
    say(lens.over ? word("One photo lies over the other.") : word("Side by side."));
  },
  lookup: () => openLookup(),
  wider: askWider,
};
const WAYS = {
  skip: () => {
    if (pair.id) line.skipped.add(pair.id);
    showNext();
  },
  "previous-item": () => history.back(),
  undo,
  keys: openKeys,
  again: (event) => show(event.target.closest("[data-first]").dataset.first),
  more: () => {
    const open = bench.classList.toggle("bench-more");
    bench.querySelector('[data-act="more"]').setAttribute("aria-expanded", String(open));
  },
};

/** Whether a verdict makes sense on what is shown. What is decided has to be taken back first. */
function allowed(name) {
  const { item } = pair;
  if (!mayDecide || !item) return false;
  if (name === "comment") return true;
  if (item.dataset.decided) return false;
  if (name === "same") return Boolean(pair.candidate.id);
  if (name === "different") return Boolean(pair.candidate.id) && !pair.candidate.rejected;
  if (name === "none") return pair.cards.length > 0;
  if (name === "usable") return item.dataset.gate === "rejected";
  return true;
}

function act(name, event) {
  if (name in DECISIONS || name === "comment") {
    if (performance.now() - shownAt < SEEN_MS) return false;
    if (!allowed(name)) {
      if (pair.item?.dataset.decided) say(word("This is decided already; take that decision back first."));
      return false;
    }
    if (name === "comment") comment.toggle();
    else DECISIONS[name]();
    return true;
  }
  if (name === "undo" && !mayDecide) return false;
  if (name in LOOKS || name.startsWith("ninth-")) {
    if (!pair.item) return false;
    if (name in LOOKS) LOOKS[name](event);
    else lens.ninth(Number(name.at(-1)));
    return true;
  }
  if (!(name in WAYS)) return false;
  WAYS[name](event);
  return true;
}

enableKeys(act);
enableLens(place, lens);
const keySwitch = document.querySelector("[data-key-switch]");
if (keySwitch) enableKeySwitch(keySwitch);

document.addEventListener("click", (event) => {
  const control = event.target.closest("[data-act], [data-undo], [data-photo], .rail-card");
  if (!control || !bench.contains(control)) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (control.dataset.act) act(control.dataset.act, event);
  else if (control.dataset.undo) undoDecision(control.dataset.undo);
  else if (control.dataset.photo) pair.choose(control);
  else {
    event.preventDefault();
    pair.showCandidate(control.dataset.candidate, control.dataset.fragment);
  }
});

document.addEventListener("input", (event) => {
  const { target } = event;
  if (target.matches("[data-light]")) {
    lens.light(target.dataset.light, target.dataset.what, Number(target.value));
  } else if (target.matches("[data-mix]")) {
    lens.mix = Number(target.value) / 100;
    lens.apply();
  }
});

addEventListener("popstate", (event) => {
  const { state } = event;
  if (state?.id) show(state.id, { past: "none", candidate: state.candidate ?? null });
  else location.reload();
});

addEventListener("resize", fit);
history.replaceState({ id: pair.id, candidate: new URLSearchParams(location.search).get("candidate") }, "");
settle();
// On a phone both photos are on the screen only without the head of the site.
if (matchMedia("(max-width: 760px)").matches && scrollY === 0) bench.scrollIntoView();
bench.dataset.shown = pair.id;
