// Owns how both photos are looked at: zoom and pan as one or apart, turning, flipping, light, overlay.

const MIN_ZOOM = 0.5;
const MAX_ZOOM = 16;
/** From here on the larger rendering of a photo shows more. */
const DEEP_FROM = 1.8;

const still = () => ({ scale: 1, x: 0, y: 0 });
const plain = () => ({ turn: 0, flip: false, brightness: 100, contrast: 100 });

/** x and y are shares of the view, so that they fit any size of it. */
export class Lens {
  constructor(place) {
    this.place = place;
    this.linked = true;
    this.over = false;
    this.mix = 0.5;
    /** Photos may be moved off the middle once somebody has taken them apart. */
    this.free = false;
    this.layers = { query: { ...still(), ...plain() }, candidate: { ...still(), ...plain() } };
  }

  #meant(which) {
    return this.linked ? Object.values(this.layers) : [this.layers[which]];
  }

  get zoomed() {
    return Object.values(this.layers).some((layer) => layer.scale !== 1);
  }

  /** Scales by a factor around a point of the view. */
  zoom(factor, at = { x: 0.5, y: 0.5 }, which = "candidate") {
    for (const layer of this.#meant(which)) {
      const scale = Math.min(MAX_ZOOM, Math.max(this.free ? MIN_ZOOM : 1, layer.scale * factor));
      const ratio = scale / layer.scale;
      layer.x = at.x - (at.x - layer.x) * ratio;
      layer.y = at.y - (at.y - layer.y) * ratio;
      layer.scale = scale;
    }
    this.apply();
  }

  pan(dx, dy, which) {
    for (const layer of this.#meant(which)) {
      layer.x += dx;
      layer.y += dy;
    }
    this.apply();
  }

  /** The same ninth of each photo, counted as on a number pad: 7 is the upper left. */
  ninth(digit) {
    const at = { x: (((digit - 1) % 3) + 0.5) / 3, y: (2.5 - Math.floor((digit - 1) / 3)) / 3 };
    for (const [which, layer] of Object.entries(this.layers)) {
      const image = this.place.querySelector(`.view:not([hidden]) img[data-layer="${which}"]`);
      const shown = image ? drawnIn(image) : { width: 1, height: 1 };
      layer.scale = 3;
      layer.x = 0.5 - layer.scale * (0.5 + (at.x - 0.5) * shown.width);
      layer.y = 0.5 - layer.scale * (0.5 + (at.y - 0.5) * shown.height);
    }
    this.apply();
  }

  /** Both photos whole again, as one. */
  reset() {
    this.free = !this.linked || this.over;
    for (const layer of Object.values(this.layers)) Object.assign(layer, still());
    this.apply();
  }

  /** One photo without turning, flipping and other light. */
  plain(which) {
    Object.assign(this.layers[which], plain());
    this.apply();
  }

  /** As a new pair is first seen. */
  fresh() {
    for (const which of Object.keys(this.layers)) this.layers[which] = { ...still(), ...plain() };
    this.free = !this.linked || this.over;
    this.apply();
  }

  turn(which, degrees) {
    this.layers[which].turn = (this.layers[which].turn + degrees + 360) % 360;
    this.apply();
  }

  flip(which) {
    this.layers[which].flip = !this.layers[which].flip;
    this.apply();
    return this.layers[which].flip;
  }

  light(which, what, percent) {
    this.layers[which][what] = percent;
    this.apply();
  }

  link(linked) {
    this.linked = linked;
    if (!linked) this.free = true;
  }

  lay(over) {
    this.over = over;
    if (over) this.free = true;
    this.apply();
  }

  apply() {
    for (const layer of Object.values(this.layers)) {
      const spare = this.free ? 0.5 : 0;
      layer.x = Math.min(spare, Math.max(1 - layer.scale - spare, layer.x));
      layer.y = Math.min(spare, Math.max(1 - layer.scale - spare, layer.y));
    }
    for (const image of this.place.querySelectorAll("img[data-layer]")) this.#draw(image);
    for (const view of this.place.querySelectorAll(".view")) {
      view.classList.toggle("view-held", this.zoomed || this.free);
    }
  }

  #draw(image) {
    const layer = this.layers[image.dataset.layer];
    const fit = layer.turn % 180 ? fitTurned(image) : 1;
    image.style.transform =
      `translate(${layer.x * 100}%, ${layer.y * 100}%) scale(${layer.scale}) translate(50%, 50%) ` +
      `rotate(${layer.turn}deg) scale(${layer.flip ? -fit : fit}, ${fit}) translate(-50%, -50%)`;
    const lit = layer.brightness !== 100 || layer.contrast !== 100;
    image.style.filter = lit
      ? `brightness(${layer.brightness}%) contrast(${layer.contrast}%)`
      : "";
    if ("over" in image.dataset) image.style.opacity = String(this.mix);
    if (layer.scale > DEEP_FROM) deepen(image);
  }
}

/** The part of its view that a whole photo takes up, in shares of the view. */
function drawnIn(image) {
  const { clientWidth: width, clientHeight: height } = image.parentElement;
  const { naturalWidth, naturalHeight } = image;
  if (!naturalWidth || !width || !height) return { width: 1, height: 1 };
  const fit = Math.min(width / naturalWidth, height / naturalHeight);
  return { width: (naturalWidth * fit) / width, height: (naturalHeight * fit) / height };
}

/** How much smaller a photo is drawn when it lies on its side. */
function fitTurned(image) {
  const { clientWidth: width, clientHeight: height } = image.parentElement;
  const shown = drawnIn(image);
  if (!width || !height) return 1;
  return Math.min(width / (shown.height * height), height / (shown.width * width));
}

/** Puts the larger rendering in place once it has arrived, unless another photo is shown by then. */
function deepen(image) {
  const { deep } = image.dataset;
  if (!deep || image.dataset.deepened === deep) return;
  image.dataset.deepened = deep;
  const larger = new Image();
  larger.src = deep;
  larger.decode().then(
    () => {
      if (image.dataset.deep === deep) image.src = deep;
    },
    () => {},
  );
}

function shareOf(view, event) {
  const box = view.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

/** In the overlay the photo on top is the one that moves alone. */
const whichOf = (view) => (view.dataset.view === "query" ? "query" : "candidate");

/** Wheel, drag, pinch and double click on the photos of `place`. */
export function enableLens(place, lens) {
  const pointers = new Map();
  const viewOf = (event) => event.target.closest?.(".view:not(.view-none)");

  place.addEventListener(
    "wheel",
    (event) => {
      const view = viewOf(event);
      if (!view) return;
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
      lens.zoom(Math.exp(-event.deltaY * lines * 0.0018), shareOf(view, event), whichOf(view));
    },
    { passive: false },
  );
  place.addEventListener("pointerdown", (event) => {
    const view = viewOf(event);
    if (!view || event.button !== 0) return;
    view.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { view, ...shareOf(view, event) });
  });
  place.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) {
      pointAt(place, viewOf(event), event, lens);
      return;
    }
    const now = shareOf(last.view, event);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) {
      lens.pan(now.x - last.x, now.y - last.y, whichOf(last.view));
    } else {
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(now.x - other.x, now.y - other.y);
      const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
      if (before > 0) lens.zoom(after / before, middle, whichOf(last.view));
      lens.pan((now.x - last.x) / 2, (now.y - last.y) / 2, whichOf(last.view));
    }
    pointers.set(event.pointerId, { view: last.view, ...now });
  });
  const lift = (event) => pointers.delete(event.pointerId);
  place.addEventListener("pointerup", lift);
  place.addEventListener("pointercancel", lift);
  place.addEventListener("lostpointercapture", lift);
  place.addEventListener("pointerout", (event) => {
    if (!viewOf({ target: event.relatedTarget ?? place })) pointAt(place, null, event, lens);
  });
  place.addEventListener("dblclick", (event) => {
    const view = viewOf(event);
    if (!view) return;
    if (lens.zoomed) lens.reset();
    else lens.zoom(3, shareOf(view, event), whichOf(view));
  });
}

/** A mark in the other photo, where the pointer is in this one. */
function pointAt(place, view, event, lens) {
  for (const ghost of place.querySelectorAll(".ghost")) {
    const other = ghost.parentElement;
    const shown = view && lens.linked && !lens.over && other !== view && event.pointerType === "mouse";
    ghost.hidden = !shown;
    if (!shown) continue;
    const { x, y } = shareOf(view, event);
    ghost.style.left = `${x * 100}%`;
    ghost.style.top = `${y * 100}%`;
  }
}
