// Owns choosing the photos that an individual gets: dropped, pasted or picked, and shown before they
// are sent. HTMX sends them, so that all stays in the form when they are refused.

import { clearChosen, showChosen } from "../chosen.js";
import { takeDropped } from "../dropping.js";

const form = document.querySelector("#add");
const input = form.querySelector("input[type=file]");
const chosen = document.querySelector("#chosen");

function show() {
  if (input.files.length > 0) showChosen(chosen, input.files);
  else clearChosen(chosen);
  form.classList.toggle("answered", input.files.length > 0);
}

function take(files) {
  if (files.length === 0) return;
  input.files = files;
  show();
}

takeDropped(form, take);
addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));
input.addEventListener("change", show);
// A browser that goes back keeps what was chosen.
show();
