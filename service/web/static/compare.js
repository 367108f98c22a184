// Owns the side-by-side view: opening it, stepping through candidates, zooming both photos as one.

const MAX_ZOOM = 12;

/** Zoom and pan shared by both panes: x and y are shares of the pane, so that they fit any size. */
class Lens {
  constructor(dialog) {
    this.dialog = dialog;
    this.reset();
  }

  reset() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.apply();
  }

  /** Scales by a factor around a point given in shares of the pane. */
  zoom(factor, at = { x: 0.5, y: 0.5 }) {
    const scale = Math.min(MAX_ZOOM, Math.max(1, this.scale * factor));
    const ratio = scale / this.scale;
    this.x = at.x - (at.x - this.x) * ratio;
    this.y = at.y - (at.y - this.y) * ratio;
    this.scale = scale;
    this.apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.apply();
  }

  apply() {
    const least = 1 - this.scale;
    this.x = Math.min(0, Math.max(least, this.x));
    this.y = Math.min(0, Math.max(least, this.y));
    for (const image of this.dialog.querySelectorAll(".pane-view img")) {
      image.style.transform = `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
    }
  }
}

function shareOf(pane, event) {
  const box = pane.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

function enableLens(dialog, lens) {
  const pointers = new Map();
  dialog.addEventListener(
    "wheel",
    (event) => {
      const pane = event.target.closest(".pane-view");
      if (!pane) return;
      event.preventDefault();
      lens.zoom(Math.exp(-event.deltaY * 0.0018), shareOf(pane, event));
    },
    { passive: false },
  );
  dialog.addEventListener("pointerdown", (event) => {
    const pane = event.target.closest(".pane-view");
    if (!pane || event.button !== 0) return;
    pane.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { pane, ...shareOf(pane, event) });
  });
  dialog.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = shareOf(last.pane, event);
    if (pointers.size === 1) {
      lens.pan(now.x - last.x, now.y - last.y);
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(now.x - other.x, now.y - other.y);
      if (before > 0) {
        lens.zoom(after / before, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
      }
    }
    pointers.set(event.pointerId, { pane: last.pane, ...now });
  });
  const lift = (event) => pointers.delete(event.pointerId);
  dialog.addEventListener("pointerup", lift);
  dialog.addEventListener("pointercancel", lift);
  dialog.addEventListener("dblclick", (event) => {
    const pane = event.target.closest(".pane-view");
    if (!pane) return;
    if (lens.scale > 1) lens.reset();
    else lens.zoom(3, shareOf(pane, event));
  });
}

export function enableCompare(answer, dialog) {
  const lens = new Lens(dialog);
  const kept = new Map();
  let asked = 0;

  /** The fragment of one comparison; kept, so that stepping back is instant. */
  async function load(url) {
    if (!kept.has(url)) {
      const response = await fetch(url, { headers: { "HX-Request": "true" } });
      if (!response.ok) throw new Error(`${response.status}`);
      kept.set(url, await response.text());
    }
    return kept.get(url);
  }

  async function show(url) {
    const turn = ++asked;
    let html;
    try {
      html = await load(url);
    } catch {
      location.assign(url);
      return;
    }
    // A slower answer to an earlier key press must not replace a later one.
    if (turn !== asked) return;
    const held = document.activeElement?.dataset.step;
    // The fragment is the service's own template, which escapes every text that it shows.
    dialog.innerHTML = html;
    dialog.querySelector(".with-zoom").hidden = false;
    if (!dialog.open) dialog.showModal();
    // What had the focus is gone with the old content, and keys go where the focus is.
    (dialog.querySelector(`a[data-step="${held}"]`) ?? dialog).focus({ preventScroll: true });
    lens.reset();
    for (const near of [current().dataset.next, current().dataset.previous]) {
      if (near) load(near).then(warm, () => {});
    }
  }

  /** Fetches the large photo of a neighbour before it is asked for. */
  function warm(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    const image = parsed.querySelector('[data-pane="candidate"] img');
    if (image) new Image().src = image.getAttribute("src");
  }

  const current = () => dialog.querySelector(".compare");

  // Each step starts where the one before has arrived, however fast the key is pressed.
  let stepping = Promise.resolve();
  function step(name) {
    stepping = stepping.then(() => {
      const url = dialog.open && current()?.dataset[name];
      return url ? show(url) : undefined;
    });
  }

  function swap(button) {
    const which = button.dataset.show;
    dialog.querySelector(`[data-pane="${which}"] img`).src = button.dataset.src;
    dialog.querySelector(`span[data-caption="${which}"]`).textContent = button.dataset.caption;
    for (const other of dialog.querySelectorAll(`[data-show="${which}"]`)) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  }

  const zooms = {
    in: () => lens.zoom(1.5),
    out: () => lens.zoom(1 / 1.5),
    reset: () => lens.reset(),
  };

  answer.addEventListener("click", (event) => {
    const card = event.target.closest("[data-compare]");
    if (!card || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    show(card.getAttribute("href"));
  });

  answer.addEventListener("keydown", (event) => {
    const card = event.target.closest("[data-compare]");
    if (!card || !["ArrowRight", "ArrowLeft"].includes(event.key)) return;
    const cards = [...answer.querySelectorAll("[data-compare]")];
    const next = cards[cards.indexOf(card) + (event.key === "ArrowRight" ? 1 : -1)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });

  dialog.addEventListener("click", (event) => {
    const control = event.target.closest("[data-zoom], [data-step], [data-close], [data-show]");
    if (!control) return;
    event.preventDefault();
    if (control.dataset.zoom) zooms[control.dataset.zoom]();
    else if (control.dataset.step) step(control.dataset.step);
    else if (control.dataset.show) swap(control);
    else dialog.close();
  });

  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      ArrowRight: () => step("next"),
      ArrowLeft: () => step("previous"),
      "+": zooms.in,
      "=": zooms.in,
      "-": zooms.out,
      0: zooms.reset,
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // The card of the candidate last looked at is where the eye goes next.
  dialog.addEventListener("close", () => {
    answer.querySelector(`[data-compare][data-rank="${current()?.dataset.rank}"]`)?.focus();
    kept.clear();
  });

  enableLens(dialog, lens);
}
