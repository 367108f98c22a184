// Owns what is typed: comments, the form of a new individual, reasons, and the question "sure?".
// Nothing that was typed is lost before it is saved.

import { word } from "../words.js";
import { send } from "./decide.js";

const dialog = (name) => document.querySelector(`[data-dialog="${name}"]`);
const commentKey = (id) => `resight-comment-${id}`;

/** The comment that goes with the next verdict on an item. */
export class Comment {
  constructor() {
    this.box = document.querySelector("[data-comment]");
    this.text = this.box?.querySelector("textarea");
    this.button = document.querySelector('[data-act="comment"]');
    this.id = null;
    this.text?.addEventListener("input", () => this.keep(this.text.value));
    this.text?.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && !(event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
        return;
      }
      event.preventDefault();
      this.toggle(false);
    });
    this.box?.addEventListener("submit", (event) => event.preventDefault());
  }

  /** The comment of another item, which may have been begun before. */
  of(id) {
    this.id = id;
    if (!this.box) return;
    this.text.value = sessionStorage.getItem(commentKey(id)) ?? "";
    this.#show(this.text.value !== "");
  }

  keep(value) {
    if (value.trim()) sessionStorage.setItem(commentKey(this.id), value);
    else sessionStorage.removeItem(commentKey(this.id));
  }

  get value() {
    return this.text?.value.trim() || null;
  }

  /** After it was saved. */
  clear(id) {
    sessionStorage.removeItem(commentKey(id));
    if (id === this.id && this.box) {
      this.text.value = "";
      this.#show(false);
    }
  }

  #show(open) {
    this.box.hidden = !open;
    this.button?.setAttribute("aria-expanded", String(open));
  }

  toggle(open = this.box.hidden) {
    this.#show(open || this.text.value !== "");
    if (open) this.text.focus();
    else this.button?.focus({ preventScroll: true });
  }
}

/** Closing by a button or a click beside the sheet. */
export function enableClosing(sheet) {
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet || event.target.closest("[data-close]")) sheet.close();
  });
}

/** The form of a new individual: its name is suggested and kept for the reader at once. */
export class NewForm {
  constructor(submit) {
    this.sheet = dialog("new");
    if (!this.sheet) return;
    this.form = this.sheet.querySelector("form");
    this.problem = this.sheet.querySelector(".sheet-problem");
    this.hint = this.sheet.querySelector("[data-reserved]");
    this.typed = new Map();
    this.reserved = null;
    this.id = null;
    enableClosing(this.sheet);
    this.form.addEventListener("input", () => this.#keep());
    this.form.addEventListener("submit", async (event) => {
      event.preventDefault();
      await this.#submit(submit);
    });
    this.sheet.addEventListener("close", () => this.#release());
  }

  #keep() {
    const { name, taxon, note } = this.form.elements;
    this.typed.set(this.id, { name: name.value, taxon: taxon.value, note: note.value });
  }

  async open({ id, taxon, note, candidates }) {
    this.id = id;
    const typed = this.typed.get(id);
    const { elements } = this.form;
    elements.name.value = typed?.name ?? "";
    elements.taxon.value = typed?.taxon ?? taxon;
    elements.note.value = typed?.note ?? note ?? "";
    elements.remember.checked = true;
    this.sheet.querySelector("[data-remember]").hidden = candidates === 0;
    this.problem.hidden = true;
    this.hint.hidden = true;
    this.sheet.showModal();
    elements.name.focus();
    await this.#reserve(elements.taxon.value);
  }

  async #reserve(taxon) {
    const { id } = this;
    const body = taxon ? { taxon } : {};
    // A species that nobody has heard of is no reason to go without a name.
    const made = await send("POST", "/v1/names/next", body)
      .catch(() => send("POST", "/v1/names/next", {}))
      .catch(() => null);
    if (!made) return;
    if (id !== this.id || !this.sheet.open) {
      this.#giveBack(made.name);
      return;
    }
    this.reserved = made.name;
    const { name } = this.form.elements;
    if (!name.value) {
      name.value = made.name;
      name.select();
    }
    this.hint.textContent = word("%(name)s is the next free name, kept for you.", {
      name: made.name,
    });
    this.hint.hidden = false;
  }

  #giveBack(name) {
    send("DELETE", `/v1/names/reserved/${encodeURIComponent(name)}`).catch(() => {});
  }

  #release() {
    if (this.reserved) this.#giveBack(this.reserved);
    this.reserved = null;
  }

  async #submit(submit) {
    const { name, taxon, note, remember } = this.form.elements;
    const main = this.form.querySelector("[type=submit]");
    main.disabled = true;
    this.problem.hidden = true;
    try {
      await submit({
        name: name.value.trim(),
        taxon: taxon.value.trim() || null,
        note: note.value.trim() || null,
        remember: remember.checked,
      });
      if (name.value.trim() === this.reserved) this.reserved = null;
      this.typed.delete(this.id);
      this.sheet.close();
    } catch (refusal) {
      this.problem.textContent = refusal.message;
      this.problem.hidden = false;
      name.focus();
    } finally {
      main.disabled = false;
    }
  }
}

/** Why photos are not usable; a digit chooses. */
export function askReason(choose) {
  const sheet = dialog("reason");
  if (!sheet) return () => {};
  enableClosing(sheet);
  const pick = (button) => {
    sheet.close();
    choose(button.dataset.reason, button.querySelector("span").textContent);
  };
  sheet.addEventListener("click", (event) => {
    const button = event.target.closest("[data-reason]");
    if (button) pick(button);
  });
  sheet.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = sheet.querySelector(`[data-reason][aria-keyshortcuts="${CSS.escape(event.key)}"]`);
    if (!button) return;
    event.preventDefault();
    pick(button);
  });
  return () => {
    sheet.showModal();
    sheet.querySelector("[data-reason]").focus();
  };
}

/** Asks before something that speaks against an earlier word. */
export function ask(title, text, yes) {
  const sheet = dialog("sure");
  sheet.querySelector("[data-sure-title]").textContent = title;
  sheet.querySelector("[data-sure-text]").textContent = text;
  const button = sheet.querySelector("[data-sure-yes]");
  button.textContent = yes;
  return new Promise((resolve) => {
    let said = false;
    const agree = () => {
      said = true;
      sheet.close();
    };
    button.addEventListener("click", agree, { once: true });
    sheet.addEventListener(
      "close",
      () => {
        button.removeEventListener("click", agree);
        resolve(said);
      },
      { once: true },
    );
    sheet.showModal();
    button.focus();
  });
}

/** The dialog of keys. */
export function enableKeysSheet() {
  const sheet = dialog("keys");
  enableClosing(sheet);
  sheet.addEventListener("keydown", (event) => {
    if (event.key === "?") {
      event.preventDefault();
      sheet.close();
    }
  });
  return () => sheet.showModal();
}

const sure = dialog("sure");
if (sure) enableClosing(sure);
