// Owns the maps: zooming and moving the view, its scale, and choosing a position on one. The page
// brings land and spots; x is degrees of longitude times `stretch`, y degrees of latitude southwards.

import { number, word } from "../words.js";

const KM_PER_DEGREE = 111.195;
const LEAST_HEIGHT = 0.05;
const STEP = 1.6;

class View {
  constructor(map) {
    this.map = map;
    this.svg = map.querySelector(".map-view");
    this.stretch = Number(this.svg.dataset.stretch);
    this.home = this.svg.getAttribute("viewBox").split(" ").map(Number);
    this.show(this.home);
  }

  show([x, y, width, height]) {
    const most = Math.min(180, (360 * this.stretch * height) / width);
    const fit = Math.min(1, most / height);
    [x, y] = [x + (width * (1 - fit)) / 2, y + (height * (1 - fit)) / 2];
    [width, height] = [width * fit, height * fit];
    y = Math.max(-90, Math.min(90 - height, y));
    this.box = [x, y, width, height];
    this.svg.setAttribute("viewBox", this.box.map((part) => part.toFixed(5)).join(" "));
    this.scale();
  }

  /** Pixels of one degree: the drawing covers its frame. */
  get pixels() {
    const { width, height } = this.svg.getBoundingClientRect();
    return Math.max(width / this.box[2], height / this.box[3]);
  }

  /** The bar of a round length, at most a quarter of the width. */
  scale() {
    const bar = this.map.querySelector(".map-scale");
    const pixels = this.pixels / KM_PER_DEGREE;
    const most = this.svg.getBoundingClientRect().width / 4 / pixels;
    if (!Number.isFinite(most) || most <= 0) return;
    const power = 10 ** Math.floor(Math.log10(most));
    const km = [5, 2, 1].map((one) => one * power).find((one) => one <= most) ?? power;
    bar.style.setProperty("--scale", `${(km * pixels).toFixed(1)}px`);
    bar.firstElementChild.textContent =
      km < 1 ? word("%(number)s m", { number: number(km * 1000) }) : word("%(number)s km", { number: number(km) });
  }

  /** The point of the map under a pointer. */
  at(event) {
    const point = new DOMPoint(event.clientX, event.clientY);
    return point.matrixTransform(this.svg.getScreenCTM().inverse());
  }

  zoom(factor, at = { x: this.box[0] + this.box[2] / 2, y: this.box[1] + this.box[3] / 2 }) {
    const [x, y, width, height] = this.box;
    if (factor > 1 && height / factor < LEAST_HEIGHT) return;
    this.show([
      at.x - (at.x - x) / factor,
      at.y - (at.y - y) / factor,
      width / factor,
      height / factor,
    ]);
  }

  move(dx, dy) {
    const [x, y, width, height] = this.box;
    this.show([x + dx, y + dy, width, height]);
  }
}

function enableButtons(view) {
  const acts = {
    in: () => view.zoom(STEP),
    out: () => view.zoom(1 / STEP),
    home: () => view.show(view.home),
  };
  view.map.querySelector(".map-tools").addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom]");
    if (button) acts[button.dataset.zoom]();
  });
  view.map.addEventListener("keydown", (event) => {
    const step = view.box[2] / 8;
    const moves = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    view.move(...moves[event.key]);
  });
}

function enablePointer(view) {
  const { svg } = view;
  let held = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button === 0) held = { x: event.clientX, y: event.clientY, moved: false };
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held || !event.buttons) return;
    const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
    if (!held.moved && Math.hypot(dx, dy) < 4) return;
    if (!held.moved) svg.setPointerCapture(event.pointerId);
    const pixels = view.pixels;
    view.move(-dx / pixels, -dy / pixels);
    held = { x: event.clientX, y: event.clientY, moved: true };
  });
  // A drag that ends on a spot is no click on it.
  svg.addEventListener("click", (event) => held?.moved && event.preventDefault(), true);
  svg.addEventListener("dblclick", (event) => {
    event.preventDefault();
    view.zoom(STEP, view.at(event));
  });
  svg.addEventListener(
    "wheel",
    (event) => {
      // A plain wheel goes on scrolling the page.
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      view.zoom(Math.exp(-event.deltaY * 0.01), view.at(event));
    },
    { passive: false },
  );
  return () => Boolean(held?.moved);
}

/** A click gives the position to the two fields of the form; the fields move the spot. */
function enableChoice(view, dragged) {
  const form = view.map.closest("form");
  const [latitude, longitude] = ["latitude", "longitude"].map((name) => form?.elements[name]);
  if (!latitude || !longitude) return;
  const place = () => {
    const [north, east] = [latitude, longitude].map((field) => parseFloat(field.value));
    let spot = view.svg.querySelector(".map-spot");
    if (!spot) {
      spot = document.createElementNS("http://www.w3.org/2000/svg", "path");
      spot.setAttribute("class", "map-spot");
      view.svg.append(spot);
    }
    const known = Number.isFinite(north) && Number.isFinite(east);
    spot.setAttribute("d", known ? `M${east * view.stretch} ${-north}h0` : "");
  };
  for (const field of [latitude, longitude]) field.addEventListener("input", place);
  view.svg.addEventListener("click", (event) => {
    if (dragged()) return;
    const point = view.at(event);
    const east = ((point.x / view.stretch + 540) % 360) - 180;
    latitude.value = Math.max(-90, Math.min(90, -point.y)).toFixed(5);
    longitude.value = east.toFixed(5);
    place();
  });
}

export function enable(map) {
  if (map.dataset.live) return;
  map.dataset.live = "true";
  map.classList.add("map-live");
  for (const part of map.querySelectorAll(".map-tools, .map-scale")) part.hidden = false;
  const view = new View(map);
  enableButtons(view);
  const dragged = enablePointer(view);
  if ("pick" in map.dataset) enableChoice(view, dragged);
  new ResizeObserver(() => view.scale()).observe(map);
}
