// Owns bringing many photos in: a few at a time, with a bar that moves; what they became is shown as it
// comes, and each encounter is asked about once, when all its photos are there. What went wrong on the
// way is told, and goes on from where it stopped.

import { takeDropped } from "../dropping.js";
import { csrfToken } from "../session.js";
import { number, nword, word } from "../words.js";

const form = document.querySelector("#drop");
const input = form.querySelector("input[type=file]");
const progress = document.querySelector("#progress");
const said = document.querySelector("#drop-said");
const bar = document.querySelector("#drop-bar");
const again = document.querySelector("#drop-again");
const stop = document.querySelector("#drop-stop");
const made = document.querySelector("#made");
const refused = document.querySelector("#refused");

const AT_ONCE = Number(form.dataset.atOnce);
const BYTES_AT_ONCE = Number(form.dataset.bytesAtOnce);
const PHOTO_BYTES = Number(form.dataset.photoBytes);
/** The service is busy, restarts, or wants somebody to sign in: nothing is wrong with the photos. */
const TRY_AGAIN = new Set([401, 403, 429, 500, 502, 503, 504, 507]);
const CONTINUES = 200;
const REMEMBERED = 60;

/** `batch` is under way until it is settled; `alone` photos are sent each by itself. */
const work = {
  waiting: [],
  batch: null,
  alone: 0,
  total: 0,
  done: 0,
  left: 0,
  known: [],
  sending: null,
  stopped: false,
  busy: false,
};

function refuse(line) {
  const item = document.createElement("li");
  item.textContent = line;
  refused.append(item);
  refused.hidden = false;
  work.left += 1;
}

/** In the order of the camera, as far as the files tell. */
function add(files) {
  if (files.length === 0) return;
  const photos = [...files].sort(
    (a, b) => a.lastModified - b.lastModified || a.name.localeCompare(b.name, undefined, { numeric: true }),
  );
  for (const photo of photos) {
    if (photo.size > PHOTO_BYTES) {
      refuse(word("%(name)s was left out: it is larger than a photo may be.", { name: photo.name }));
      work.done += 1;
    } else {
      work.waiting.push(photo);
    }
    work.total += 1;
  }
  form.classList.add("answered");
  run();
}

/** As many as one request takes; nothing where none is left. */
function next() {
  const most = work.alone > 0 ? 1 : AT_ONCE;
  const photos = [];
  let bytes = 0;
  while (work.waiting.length > 0 && photos.length < most) {
    const size = work.waiting[0].size;
    if (photos.length > 0 && bytes + size > BYTES_AT_ONCE) break;
    photos.push(work.waiting.shift());
    bytes += size;
  }
  work.alone = Math.max(0, work.alone - photos.length);
  // Sent again with the same key after a lost connection, it is not stored twice.
  return photos.length > 0 ? { photos, key: `drop-${Date.now()}-${Math.random()}` } : null;
}

function body(photos) {
  const data = new FormData();
  for (const field of document.querySelectorAll("#drop-fields input")) {
    if (field.type === "checkbox" ? field.checked : field.value.trim()) data.append(field.name, field.value);
  }
  // Each is asked about once, when it is whole.
  data.set("ask", "false");
  for (const id of work.known.slice(-CONTINUES)) data.append("continues", id);
  for (const photo of photos) data.append("file", photo, photo.name);
  return data;
}

/** Sends with progress, which `fetch` does not tell. */
function send(url, data, key, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("HX-Request", "true");
    if (key) request.setRequestHeader("Idempotency-Key", key);
    if (csrfToken()) request.setRequestHeader("X-CSRF-Token", csrfToken());
    if (onProgress) request.upload.addEventListener("progress", onProgress);
    request.addEventListener("load", () => resolve(request));
    request.addEventListener("error", () => reject(new Error(word("The connection was lost."))));
    request.addEventListener("abort", () => reject(new Error(word("Stopped."))));
    request.send(data);
    work.sending = request;
  });
}

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

/** The service's own words for why not. */
function problemOf(request) {
  const type = request.getResponseHeader("Content-Type") ?? "";
  if (type.includes("json")) return JSON.parse(request.responseText).detail;
  const told = parse(request.responseText).querySelector(".message p");
  return told?.textContent.trim() || word("The service refused without saying why.");
}

/** Puts a card where it belongs: in place of an older one of the same encounter, or last. */
function show(card) {
  const before = document.getElementById(card.id);
  if (before) before.replaceWith(card);
  else made.append(card);
  document.querySelector("#made-head").hidden = false;
  htmx.process(card);
}

function take(html) {
  const parts = parse(html);
  for (const line of parts.querySelectorAll("[data-refused]")) refuse(line.textContent);
  for (const card of parts.querySelectorAll("[data-encounter]")) {
    const id = card.dataset.encounter;
    if (!work.known.includes(id)) work.known.push(id);
    show(card);
  }
  const address = new URL(location.href);
  address.searchParams.set("made", work.known.slice(0, REMEMBERED).join(","));
  history.replaceState(history.state, "", address);
}

function tell(text, share) {
  progress.hidden = false;
  said.textContent = text;
  bar.value = share;
}

const counted = () =>
  word("%(done)s of %(photos)s", {
    done: number(work.done),
    photos: nword("%(num)d photo", "%(num)d photos", work.total),
  });

/** What has come of it in the end. */
function summed() {
  const photos = nword("%(num)d photo", "%(num)d photos", work.done - work.left);
  const encounters = nword("%(num)d encounter", "%(num)d encounters", work.known.length);
  const told = word("%(photos)s stored, in %(encounters)s.", { photos, encounters });
  return work.left > 0
    ? `${told} ${nword("%(num)d was left out.", "%(num)d were left out.", work.left)}`
    : told;
}

async function sendAll() {
  while (!work.stopped) {
    work.batch ??= next();
    if (!work.batch) return;
    const { photos, key } = work.batch;
    const request = await send(form.getAttribute("action"), body(photos), key, (event) => {
      const sent = (event.loaded / event.total) * photos.length * 0.5;
      bar.value = (work.done + sent) / work.total;
    });
    if (TRY_AGAIN.has(request.status)) throw new Error(problemOf(request));
    work.batch = null;
    if (request.status >= 400 && photos.length > 1) {
      // One of them is at fault: each by itself, so that it alone is left out.
      work.waiting.unshift(...photos);
      work.alone = photos.length;
      continue;
    }
    if (request.status >= 400) {
      refuse(word("%(name)s was left out. %(why)s", { name: photos[0].name, why: problemOf(request) }));
    } else {
      take(request.responseText);
    }
    work.done += photos.length;
    tell(counted(), work.done / work.total);
  }
}

async function askAll() {
  const waiting = [...made.querySelectorAll('[data-may-ask="true"]')].map((card) => card.dataset.encounter);
  for (const [position, id] of waiting.entries()) {
    if (work.stopped) return;
    tell(
      word("Asking who they are: %(number)s of %(total)s", { number: position + 1, total: waiting.length }),
      position / waiting.length,
    );
    const request = await send(`/encounters/${id}/ask`, new FormData(), null);
    if (TRY_AGAIN.has(request.status)) throw new Error(problemOf(request));
    const card = parse(request.responseText).querySelector("[data-encounter]");
    if (card) show(card);
  }
}

async function run() {
  if (work.busy) return;
  work.busy = true;
  work.stopped = false;
  again.hidden = true;
  stop.hidden = false;
  tell(counted(), work.done / Math.max(1, work.total));
  try {
    await sendAll();
    if (form.querySelector("[data-ask]").checked) await askAll();
    if (work.stopped) throw new Error(word("Stopped."));
    tell(summed(), 1);
  } catch (error) {
    const stored = counted();
    tell(
      word("%(why)s %(stored)s are stored; nothing is lost.", { why: error.message, stored }),
      work.done / Math.max(1, work.total),
    );
    again.hidden = false;
  } finally {
    work.busy = false;
    stop.hidden = true;
  }
}

function enableDrop() {
  takeDropped(form, add);
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  again.addEventListener("click", run);
  stop.addEventListener("click", () => {
    work.stopped = true;
    work.sending?.abort();
  });
  addEventListener("beforeunload", (event) => {
    if (work.busy) event.preventDefault();
  });
}

const shown = [...made.querySelectorAll("[data-encounter]")];
work.known = shown.map((card) => card.dataset.encounter);
enableDrop();
