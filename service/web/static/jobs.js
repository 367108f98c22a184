// Owns what moves on the pages of jobs: bars and counts by server-sent events, cards drawn anew when a
// job's phase changes, refusals told in the card they belong to.

const said = document.querySelector("#said");
const connection = document.querySelector("#connection");
const list = document.querySelector("[data-live]");
const run = document.querySelector("[data-run]");

const RETRY_MS = 5000;
// Longer than the stream takes to notice a job that somebody has just set going.
const NOTICED_MS = 2500;

/** The job whose card had the keyboard when it was replaced. */
let focused = null;

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

/** Draws a card anew, or the whole run that it belongs to. One at a time: two answers under way at
 * once could arrive in the wrong order. */
async function redraw(id) {
  const card = cardOf(id);
  const part = run ?? card;
  if (part.dataset.redrawing) {
    part.dataset.redrawing = "again";
    return;
  }
  part.dataset.redrawing = "once";
  if (card.contains(document.activeElement)) focused = id;
  const open = card.querySelector("details")?.open ?? false;
  const target = run ? { target: run, swap: "innerHTML" } : { target: card, swap: "outerHTML" };
  await htmx.ajax("GET", run ? run.dataset.run : `/jobs/${id}`, target);
  const again = part.dataset.redrawing === "again";
  delete part.dataset.redrawing;
  const details = cardOf(id)?.querySelector("details");
  if (details) details.open = open;
  if (again) await redraw(id);
}

/** A card for a job that began since the page was drawn. */
async function insert(job) {
  const open = document.querySelector("#open-jobs");
  if (!open || !job.open) return;
  const place = document.createElement("li");
  place.id = `job-${job.id}`;
  place.dataset.redrawing = "once";
  open.prepend(place);
  document.querySelector("#no-jobs").hidden = true;
  await htmx.ajax("GET", `/jobs/${job.id}`, { target: place, swap: "outerHTML" });
  if (place.dataset.redrawing === "again") await redraw(job.id);
}

function onJob(job) {
  const card = cardOf(job.id);
  if (!card) insert(job);
  else if (card.dataset.phase !== job.phase) redraw(job.id);
  else move(card, job);
}

function listen() {
  const source = new EventSource(list.dataset.live);
  source.addEventListener("open", () => {
    connection.hidden = true;
  });
  source.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    connection.hidden = false;
    // Refused (a restart, too many listeners): the browser gives up, so this does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  });
  addEventListener("pagehide", () => source.close(), { once: true });
  addEventListener("pageshow", (event) => event.persisted && listen(), { once: true });
}

/** A job that was set going and ended before the stream looked is in no event. */
async function notice(id) {
  const answer = await fetch(`/v1/jobs/${id}`);
  if (!answer.ok) return;
  const job = await answer.json();
  const card = cardOf(id);
  if (card && card.dataset.phase !== `${job.state}/${job.stage ?? ""}`) await redraw(id);
}

/** Where the keyboard goes on after a button is gone, and what a screen reader hears. */
function enableCards() {
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const card = event.detail.elt.closest(".job");
    if (card?.contains(document.activeElement)) focused = card.dataset.job;
  });
  document.body.addEventListener("htmx:afterSettle", () => {
    const card = focused && cardOf(focused);
    if (card && document.activeElement === document.body) {
      (card.querySelector(".job-tools button") ?? card.querySelector("h3 a"))?.focus();
    }
    focused = null;
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    const { requestConfig, successful } = event.detail;
    const id = requestConfig.elt.closest(".job")?.dataset.job;
    if (id && successful && requestConfig.verb === "post") setTimeout(notice, NOTICED_MS, id);
  });
  document.body.addEventListener("htmx:load", (event) => {
    const card = event.detail.elt;
    if (!card.matches?.(".job")) return;
    const words = `${card.querySelector("h3").textContent}: ${card.querySelector("[data-label]").textContent}`;
    if (said.textContent !== words) said.textContent = words;
  });
}

/** A refusal is told beside what was pressed, and the rest stays as it is. */
function enableProblems() {
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    // `detail.elt` is what would be swapped; what was pressed is in the request.
    const { xhr, requestConfig } = event.detail;
    if (xhr.status < 400) return;
    const place = requestConfig.elt.closest("[data-problems], .job");
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
