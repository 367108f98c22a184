// Owns looking an individual up by name, to compare with one that the search did not suggest.

import { word } from "../words.js";

const PAUSE_MS = 180;
const SHOWN = 6;

/** The field in the list of candidates, on whatever item is on the page; `choose` gets {id, name}. */
export function enableLookup(place, choose) {
  let asked = 0;
  let timer = 0;

  const partsOf = (form) => ({
    input: form.querySelector("input"),
    found: form.querySelector(".lookup-found"),
  });

  async function look(form) {
    const { input, found } = partsOf(form);
    const text = input.value.trim();
    const turn = ++asked;
    if (!text) {
      found.hidden = true;
      return;
    }
    const url = `/v1/individuals?limit=${SHOWN}&text=${encodeURIComponent(text)}`;
    const response = await fetch(url).catch(() => null);
    if (turn !== asked || !response?.ok) return;
    const { items } = await response.json();
    found.replaceChildren(...(items.length ? items.map(line) : [nobody()]));
    found.hidden = false;
  }

  function line(item) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "lookup-one";
    button.dataset.found = item.id;
    button.textContent = item.name;
    row.append(button);
    return row;
  }

  function nobody() {
    const row = document.createElement("li");
    row.className = "small muted";
    row.textContent = word("Nobody is called so.");
    return row;
  }

  function take(form, button) {
    const { input, found } = partsOf(form);
    asked += 1;
    input.value = "";
    found.hidden = true;
    input.blur();
    choose({ id: button.dataset.found, name: button.textContent });
  }

  place.addEventListener("input", (event) => {
    const form = event.target.closest("[data-lookup]");
    if (!form) return;
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS, form);
  });
  place.addEventListener("submit", async (event) => {
    const form = event.target.closest("[data-lookup]");
    if (!form) return;
    event.preventDefault();
    clearTimeout(timer);
    await look(form);
    const first = form.querySelector("[data-found]");
    if (first) take(form, first);
  });
  place.addEventListener("click", (event) => {
    const button = event.target.closest("[data-found]");
    if (button) take(button.closest("[data-lookup]"), button);
  });
  place.addEventListener("keydown", (event) => {
    const form = event.target.closest("[data-lookup]");
    if (!form) return;
    const stops = [form.querySelector("input"), ...form.querySelectorAll("[data-found]")];
    const here = stops.indexOf(event.target);
    if (event.key === "Escape") {
      partsOf(form).found.hidden = true;
      stops[0].value = "";
      stops[0].blur();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      stops[here + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    } else return;
    event.preventDefault();
  });
}
