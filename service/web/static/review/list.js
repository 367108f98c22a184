// Owns the keyboard of the page of queues: up and down through the items, Enter to begin.

const TYPED = "textarea, select, input, summary, button, a";

function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const here = rows.indexOf(document.activeElement);
  const next = rows[here < 0 ? (by > 0 ? 0 : rows.length - 1) : here + by];
  next?.focus();
  return Boolean(next);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.key === "Escape") {
    const open = document.querySelector("details.pop[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
    return;
  }
  if (event.target.matches("textarea, select, input")) return;
  const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (by && step(by)) event.preventDefault();
  if (event.key === "Enter" && !event.target.matches(TYPED)) {
    document.querySelector("[data-start]")?.click();
  }
});

document.addEventListener("click", (event) => {
  for (const pop of document.querySelectorAll("details.pop[open]")) {
    if (!pop.contains(event.target)) pop.open = false;
  }
});

// What is left empty filters nothing, and is not worth a place in the address.
document.querySelector(".filters")?.addEventListener("formdata", (event) => {
  const empty = [...event.formData].filter(([, value]) => !value);
  for (const [name] of empty) event.formData.delete(name);
});

// Whoever comes back from the bench finds the list where it was, with what still waits.
addEventListener("pageshow", async (event) => {
  if (!event.persisted) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok) return;
  const now = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of [".queues", "[data-waits]"]) {
    document.querySelector(part)?.replaceWith(now.querySelector(part));
  }
});

for (const pop of document.querySelectorAll("details.pop")) {
  pop.addEventListener("toggle", () => {
    if (pop.open) pop.querySelector("input:not([type=hidden]), select")?.focus();
  });
}
