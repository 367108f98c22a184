// Owns what is said: to a screen reader, in the toast after a decision, and in notices that stay.

import { word } from "../words.js";

const TOAST_MS = 9000;

const said = document.querySelector("#said");
const toast = document.querySelector("[data-toast]");
const notices = document.querySelector("[data-notices]");

/** Read out by a screen reader; the same words twice are read twice. */
export function say(text) {
  said.textContent = said.textContent === text ? `${text}\u00a0` : text;
}

let toastTimer = 0;

/** What was just done, with a way back. */
export function showToast(text, { undo = true } = {}) {
  clearTimeout(toastTimer);
  toast.querySelector("[data-toast-text]").textContent = text;
  for (const way of toast.querySelectorAll("button, kbd")) way.hidden = !undo;
  toast.hidden = false;
  toastTimer = setTimeout(hideToast, TOAST_MS);
}

export function hideToast() {
  toast.hidden = true;
}

/** Something that wants an answer, but not now. `actions`: [label, what to do]. */
export function notice(title, text, actions = []) {
  const box = document.createElement("div");
  box.className = "message message-caution bench-notice";
  box.setAttribute("role", "alert");
  const told = document.createElement("p");
  const strong = document.createElement("strong");
  strong.textContent = title;
  told.append(strong, " ", text);
  const row = document.createElement("p");
  row.className = "bench-notice-ways";
  for (const [label, run] of [...actions, [word("All right"), () => {}]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link-button";
    button.textContent = label;
    button.addEventListener("click", () => {
      box.remove();
      run();
    });
    row.append(button);
  }
  box.append(told, row);
  notices.append(box);
  return box;
}
