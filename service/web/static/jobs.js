// Owns what moves on the pages of jobs: bars and counts by server-sent events, cards drawn anew when a
// job's phase changes, refusals told in the card they belong to.

const said = document.querySelector("#said");
const connection = document.querySelector("#connection");
const list = document.querySelector("[data-live]");
const run = document.querySelector("[data-run]");

const cardOf = (id) => document.getElementById(`job-${id}`);

/** Moves the bar and the numbers of a card. */
function move(card, job) {
  const bar = card.querySelector("[data-bar]");
  if (job.share !== null) {
    bar.setAttribute("aria-valuenow", String(Math.round(job.share * 100)));
    bar.querySelector(".bar-fill").setAttribute("width", (job.share * 100).toFixed(1));
  }
  for (const part of ["counts", "pace", "failed"]) {
    const shown = card.querySelector(`[data-${part}]`);
    if (shown.textContent !== job[part]) shown.textContent = job[part];
  }
}

/** Draws a card anew, or the whole run that it belongs to. */
function redraw(card) {
  const part = run ?? card;
  // Two answers under way at once could arrive in the wrong order; the newest asks last.
  if (part.dataset.redrawing) {
    part.dataset.redrawing = "again";
    return;
  }
  part.dataset.redrawing = "once";
  const url = run ? run.dataset.run : `/jobs/${card.dataset.job}`;
  const options = run
    ? { target: run, swap: "innerHTML" }
    : { target: card, swap: "outerHTML" };
  htmx.ajax("GET", url, options).finally(() => {
    const again = part.dataset.redrawing === "again";
    delete part.dataset.redrawing;
    const now = cardOf(card.dataset.job);
    if (again && now) redraw(now);
  });
}

async function insert(job) {
  const open = document.querySelector("#open-jobs");
  if (!open || !job.open) return;
  const place = document.createElement("li");
  place.id = `job-${job.id}`;
  place.dataset.job = job.id;
  place.dataset.phase = job.phase;
  place.dataset.empty = "";
  open.prepend(place);
  document.querySelector("#no-jobs").hidden = true;
  await htmx.ajax("GET", `/jobs/${job.id}`, { target: place, swap: "outerHTML" });
}

function onJob(job) {
  const card = cardOf(job.id);
  if (!card) {
    insert(job);
  } else if (card.dataset.empty === undefined) {
    if (card.dataset.phase !== job.phase) redraw(card);
    else move(card, job);
  }
}

function listen() {
  const source = new EventSource(list.dataset.live);
  source.addEventListener("open", () => {
    connection.hidden = true;
  });
  source.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => {
    connection.hidden = false;
    // Refused (a restart, too many listeners): the browser gives up, so this does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
  addEventListener("pagehide", () => source.close(), { once: true });
  addEventListener("pageshow", (event) => event.persisted && listen(), { once: true });
}

/** What a screen reader hears when a job's state changes, and where the keyboard goes on. */
function enableCards() {
  let pressed = null;
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const card = event.detail.elt.closest?.(".job");
    pressed = card?.contains(document.activeElement) ? card.dataset.job : pressed;
  });
  document.body.addEventListener("htmx:afterSettle", () => {
    const card = pressed && cardOf(pressed);
    // A button that is gone takes the keyboard's place with it; the card's next one keeps it.
    if (card && document.activeElement === document.body) {
      (card.querySelector(".job-tools button") ?? card.querySelector("h3 a"))?.focus();
    }
    pressed = null;
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    const id = event.detail.elt.dataset?.job ?? event.detail.target.dataset?.job;
    const card = id && cardOf(id);
    if (!card?.querySelector("[data-label]")) return;
    const words = `${card.querySelector("h3").textContent}: ${card.querySelector("[data-label]").textContent}`;
    if (said.textContent !== words) said.textContent = words;
  });
}

/** A refusal is told beside what was pressed, and the card stays. */
function enableProblems() {
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, elt } = event.detail;
    if (xhr.status < 400) return;
    const place = elt.closest?.("[data-problems]") ?? elt.closest?.(".job");
    const told = place?.querySelector(".job-problem");
    if (!told) return;
    if (xhr.getResponseHeader("Content-Type")?.includes("json")) {
      event.detail.shouldSwap = false;
      told.textContent = JSON.parse(xhr.responseText).detail;
      return;
    }
    event.detail.target = told;
    event.detail.swapOverride = "innerHTML";
  });
}

enableCards();
enableProblems();
if (list) listen();
