// Owns looking an individual up by name, to compare with one that the search did not suggest.

import { word } from "../words.js";
import { enableClosing } from "./forms.js";

const PAUSE_MS = 180;
const SHOWN = 8;

/** The dialog; `choose` gets an individual's id. Answers what opens it. */
export function enableLookup(choose) {
  const sheet = document.querySelector('[data-dialog="lookup"]');
  if (!sheet) return () => {};
  const input = sheet.querySelector("input");
  const found = sheet.querySelector(".lookup-found");
  let asked = 0;
  let timer = 0;
  enableClosing(sheet);

  async function look() {
    const text = input.value.trim();
    const turn = ++asked;
    found.hidden = !text;
    if (!text) return;
    const url = `/v1/individuals?limit=${SHOWN}&text=${encodeURIComponent(text)}`;
    const response = await fetch(url).catch(() => null);
    if (turn !== asked || !response?.ok) return;
    const { items } = await response.json();
    found.replaceChildren(...(items.length ? items.map(line) : [nobody()]));
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

  function take(button) {
    sheet.close();
    choose(button.dataset.found);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  sheet.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    clearTimeout(timer);
    await look();
    const first = found.querySelector("[data-found]");
    if (first) take(first);
  });
  found.addEventListener("click", (event) => {
    const button = event.target.closest("[data-found]");
    if (button) take(button);
  });
  sheet.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const stops = [input, ...found.querySelectorAll("[data-found]")];
    stops[stops.indexOf(event.target) + by]?.focus();
  });
  return () => {
    input.value = "";
    found.hidden = true;
    sheet.showModal();
    input.focus();
  };
}
