// Owns the flow of the match page: dropping photos, waiting, failing clearly. HTMX does the asking.

import { clearChosen, showChosen } from "./chosen.js";
import { enableCompare } from "./compare.js";
import { takeDropped } from "./dropping.js";
import { nword, word } from "./words.js";

const root = document.documentElement;
const ask = document.querySelector("#ask");
const answer = document.querySelector("#answer");
const preview = document.querySelector("#preview");

/** Sends a form whose file input just got photos. */
function send(form) {
  form.requestSubmit();
}

function showProblem(title, detail, lines = []) {
  const box = document.createElement("div");
  box.className = "message message-caution";
  box.setAttribute("role", "alert");
  const heading = document.createElement("h2");
  heading.textContent = title;
  const text = document.createElement("p");
  text.textContent = detail;
  box.append(heading, text);
  if (lines.length > 0) {
    const list = document.createElement("ul");
    for (const line of lines) {
      const item = document.createElement("li");
      item.textContent = line;
      list.append(item);
    }
    box.append(list);
  }
  answer.replaceChildren(box);
}

function enableDrop() {
  const form = ask.querySelector(".ask-form");
  const input = form.querySelector("input[type=file]");
  takeDropped(ask, (files) => {
    input.files = files;
    if (files.length > 0) send(form);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    input.files = event.clipboardData.files;
    send(form);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("input[type=file]") && event.target.files.length > 0) {
      send(event.target.form);
    }
  });
}

function enableWaiting() {
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.target !== answer) return;
    root.classList.add("asking");
    answer.setAttribute("aria-busy", "true");
    const input = event.detail.elt.querySelector?.("input[type=file]");
    if (input?.files.length) showChosen(preview, input.files);
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.target !== answer) return;
    root.classList.remove("asking");
    answer.removeAttribute("aria-busy");
    clearChosen(preview);
    const input = ask.querySelector(".ask-form input[type=file]");
    input.value = "";
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== answer) return;
    settle();
  });
}

/** Makes the form small, and brings the answer into view. */
function settle() {
  ask.classList.add("answered");
  const title = document.querySelector(".ask-title");
  // One main heading a page: the answer brings its own.
  if (title?.tagName === "H1" && answer.querySelector("h1")) {
    const plain = document.createElement("p");
    plain.className = title.className;
    plain.textContent = title.textContent;
    title.replaceWith(plain);
  }
  const headline = answer.querySelector("h1, h2")?.textContent.trim() ?? word("Answer");
  document.title = `${headline} · Resight`;
  // Read out in one breath; the whole answer would take a minute.
  const candidates = answer.querySelectorAll(".card").length;
  const lead = answer.querySelector(".lead")?.textContent.trim() ?? "";
  const found = nword("%(num)d candidate.", "%(num)d candidates.", candidates);
  document.querySelector("#said").textContent = `${headline}. ${lead} ${found}`;
  const top = answer.getBoundingClientRect().top;
  if (top < 0 || top > innerHeight * 0.5) answer.scrollIntoView({ block: "start" });
}

function enableProblems() {
  // The edge of the service answers in problem+json, which is nothing to put on a page as it is.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const type = event.detail.xhr.getResponseHeader("Content-Type") ?? "";
    if (!type.includes("json")) return;
    event.detail.shouldSwap = false;
    const problem = JSON.parse(event.detail.xhr.responseText);
    showProblem(
      word("This could not be answered"),
      problem.detail ?? word("The service refused without saying why."),
      (problem.errors ?? []).map((error) => error.detail),
    );
    settle();
  });
  const lost = () => {
    root.classList.remove("asking");
    showProblem(
      word("No answer from the service"),
      word(
        "The connection was lost before an answer came. Check that the service is still running, then try again.",
      ),
    );
    settle();
  };
  document.body.addEventListener("htmx:sendError", lost);
  document.body.addEventListener("htmx:timeout", lost);
}

/** The photos of the encounter, one large at a time. */
function enableAskedPhotos() {
  answer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-asked]");
    if (!button) return;
    const asked = button.closest(".asked");
    asked.querySelector("figure img").src = button.dataset.asked;
    asked.querySelector("[data-asked-name]").textContent = button.dataset.name;
    asked.querySelector("[data-asked-size]").textContent = button.dataset.size;
    for (const other of asked.querySelectorAll("[data-asked]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

enableDrop();
enableWaiting();
enableProblems();
enableAskedPhotos();
enableCompare(answer, document.querySelector("#compare"));
