// Owns the keyboard of the review page: which key asks for what, and when keys are left alone.

const OFF = "resight-keys-off";

const PLAIN = {
  ArrowRight: "next-candidate",
  ArrowLeft: "previous-candidate",
  ArrowDown: "next-photo",
  ArrowUp: "previous-photo",
  j: "next-candidate",
  k: "previous-candidate",
  s: "same",
  d: "different",
  u: "unsure",
  n: "new",
  m: "none",
  x: "not-usable",
  g: "usable",
  z: "undo",
  c: "comment",
  t: "tick",
  l: "link",
  o: "overlay",
  w: "whole-photo",
  f: "flip-candidate",
  r: "rotate-candidate",
  b: "adjust-candidate",
  "+": "zoom-in",
  "=": "zoom-in",
  "-": "zoom-out",
  0: "zoom-reset",
  "/": "lookup",
  "?": "keys",
};
const SHIFTED = {
  ArrowRight: "skip",
  ArrowLeft: "previous-item",
  ArrowDown: "next-query-photo",
  ArrowUp: "previous-query-photo",
  f: "flip-query",
  r: "rotate-query",
  b: "adjust-query",
};
/** Held down, these would decide about what nobody has seen. */
const ONCE = new Set(["same", "different", "unsure", "new", "none", "not-usable", "usable", "undo"]);

/** The key as on a Latin keyboard, whatever alphabet is set. */
function nameOf(event) {
  if (/^[a-z]$/i.test(event.key)) return event.key.toLowerCase();
  const letter = /^Key([A-Z])$/.exec(event.code);
  return letter && event.key.length === 1 && /\p{L}/u.test(event.key)
    ? letter[1].toLowerCase()
    : event.key;
}

/** A digit, wherever the alphabet has put it, asks for a ninth of the photos. */
function ninthOf(event) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  return digit && (event.key === digit[1] || !/[!-~]/.test(event.key)) ? `ninth-${digit[1]}` : null;
}

const TYPED = "textarea, select, input:not([type=range], [type=checkbox])";

/** Calls `act` with what a key asks for; it answers whether it did something. */
export function enableKeys(act) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.target.matches(TYPED)) return;
    if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
    const name = nameOf(event);
    const asked = ninthOf(event) ?? ((event.shiftKey && SHIFTED[name]) || PLAIN[name]);
    if (!asked || (event.repeat && ONCE.has(asked))) return;
    // Keys of one letter can be switched off, for who speaks to the machine.
    if (/^[a-z]$/.test(name) && localStorage.getItem(OFF)) return;
    if (act(asked, event) !== false) event.preventDefault();
  });
}

/** The switch in the dialog of keys. */
export function enableKeySwitch(box) {
  box.checked = !localStorage.getItem(OFF);
  box.addEventListener("change", () => {
    if (box.checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
  });
}
