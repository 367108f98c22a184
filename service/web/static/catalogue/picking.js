// Owns ticking many and acting once: the bar that counts, what fits the count, ranges with Shift.

import { nword } from "../words.js";

/** Whether a number of ticks fits a button: `2` is two, `1+` one or more. */
function fits(needs, count) {
  return needs.endsWith("+") ? count >= parseInt(needs, 10) : count === parseInt(needs, 10);
}

function update(form) {
  const count = form.querySelectorAll("[data-tick]:checked").length;
  form.classList.toggle("picking", count > 0);
  const said = form.querySelector("[data-picked-count]");
  if (!said) return;
  said.textContent = nword("%(num)d picked", "%(num)d picked", count);
  for (const button of form.querySelectorAll("[data-needs]")) {
    button.disabled = !fits(button.dataset.needs, count);
  }
  const clear = form.querySelector("[data-clear]");
  if (clear) clear.hidden = count === 0;
}

/** Everything between the last tick and this one, as in every file manager. */
function range(form, from, to) {
  const ticks = [...form.querySelectorAll("[data-tick]")];
  const [first, last] = [ticks.indexOf(from), ticks.indexOf(to)].sort((a, b) => a - b);
  if (first < 0) return;
  for (const tick of ticks.slice(first, last + 1)) tick.checked = to.checked;
}

export function enablePicking() {
  let last = null;
  document.addEventListener("click", (event) => {
    const tick = event.target.closest?.("[data-tick]");
    if (!tick) return;
    const form = tick.closest("[data-picked]");
    if (event.shiftKey && last?.isConnected) range(form, last, tick);
    last = tick;
    update(form);
  });
  document.addEventListener("keydown", (event) => {
    const form = document.querySelector("[data-picked].picking");
    if (event.key !== "Escape" || !form || event.target.matches("input[type=text], textarea")) return;
    form.reset();
    update(form);
  });
  document.addEventListener("reset", (event) => {
    if (event.target.matches("[data-picked]")) setTimeout(update, 0, event.target);
  });
  // More of the list came, or the browser filled ticks in when it went back.
  const all = () => document.querySelectorAll("[data-picked]").forEach(update);
  document.addEventListener("htmx:afterSettle", all);
  addEventListener("pageshow", all);
  all();
}
