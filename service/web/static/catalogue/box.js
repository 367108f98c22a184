// Owns drawing and correcting a box on a photo: by pointer, by keyboard, and by its four numbers.

import { word } from "../words.js";

const SVG = "http://www.w3.org/2000/svg";
const NEAR_PX = 16;
const LEAST = 4;

const svg = document.querySelector("#region[data-edit]");
const form = document.querySelector("#region-form");

class Box {
  constructor() {
    this.width = svg.viewBox.baseVal.width;
    this.height = svg.viewBox.baseVal.height;
    this.fields = ["x", "y", "width", "height"].map((name) => form.elements[name]);
    this.rect = svg.querySelector(".region-box") ?? this.make("rect", "region-box");
    this.rect.setAttribute("tabindex", "0");
    this.rect.setAttribute("role", "img");
    this.handles = this.make("path", "region-handles");
    this.read();
  }

  make(kind, name) {
    const made = document.createElementNS(SVG, kind);
    made.setAttribute("class", name);
    svg.append(made);
    return made;
  }

  /** From the fields; without all four numbers it is the whole photo. */
  read() {
    const typed = this.fields.map((field) => parseFloat(field.value));
    this.now = typed.every(Number.isFinite) ? typed : null;
    this.draw();
  }

  /** As whole pixels inside the photo. */
  set(x, y, width, height) {
    width = Math.min(Math.max(LEAST, Math.round(width)), this.width);
    height = Math.min(Math.max(LEAST, Math.round(height)), this.height);
    x = Math.min(Math.max(0, Math.round(x)), this.width - width);
    y = Math.min(Math.max(0, Math.round(y)), this.height - height);
    this.now = [x, y, width, height];
    this.fields.forEach((field, i) => (field.value = this.now[i]));
    this.draw();
  }

  clear() {
    this.now = null;
    for (const field of this.fields) field.value = "";
    this.draw();
  }

  draw() {
    this.rect.toggleAttribute("hidden", !this.now);
    const [x, y, width, height] = this.now ?? [0, 0, 0, 0];
    Object.entries({ x, y, width, height }).forEach(([name, value]) =>
      this.rect.setAttribute(name, value),
    );
    this.rect.setAttribute(
      "aria-label",
      this.now
        ? word("Box: left %(x)s, top %(y)s, %(width)s wide, %(height)s high", { x, y, width, height })
        : word("The whole photo"),
    );
    const corners = this.corners().map(([left, top]) => `M${left} ${top}h0`);
    this.handles.setAttribute("d", corners.join(""));
  }

  corners() {
    if (!this.now) return [];
    const [x, y, width, height] = this.now;
    return [
      [x, y],
      [x + width, y],
      [x + width, y + height],
      [x, y + height],
    ];
  }

  contains(point) {
    if (!this.now) return false;
    const [x, y, width, height] = this.now;
    return point.x >= x && point.x <= x + width && point.y >= y && point.y <= y + height;
  }
}

const at = (event) =>
  new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

/** What a press begins: a corner goes with the pointer, the whole box, or a new one. */
function begin(box, point) {
  const reach = NEAR_PX / svg.getScreenCTM().a;
  const corners = box.corners();
  const nearest = corners.findIndex(([x, y]) => Math.hypot(x - point.x, y - point.y) < reach);
  if (nearest >= 0) {
    const [x, y] = corners[(nearest + 2) % 4];
    return (to) => span(box, { x, y }, to);
  }
  if (box.contains(point)) {
    const [x, y, width, height] = box.now;
    return (to) => box.set(x + to.x - point.x, y + to.y - point.y, width, height);
  }
  return (to) => span(box, point, to);
}

function span(box, from, to) {
  const [left, right] = [from.x, to.x].sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].sort((a, b) => a - b);
  const [x, y] = [Math.max(0, left), Math.max(0, top)];
  box.set(x, y, Math.min(right, box.width) - x, Math.min(bottom, box.height) - y);
}

function enablePointer(box) {
  let act = null;
  let start = null;
  let dragged = false;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = at(event);
    act = begin(box, start);
    dragged = false;
  });
  svg.addEventListener("pointermove", (event) => {
    if (!act || !event.buttons) return;
    const point = at(event);
    const scale = svg.getScreenCTM().a;
    if (!dragged && Math.hypot(point.x - start.x, point.y - start.y) * scale < 4) return;
    if (!dragged) svg.setPointerCapture(event.pointerId);
    dragged = true;
    act(point);
  });
  const end = () => {
    if (dragged) box.rect.focus({ preventScroll: true });
    act = null;
  };
  // Pressing the mouse would take the keyboard from the box again.
  svg.addEventListener("mousedown", (event) => event.preventDefault());
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  // A drag that ends on another region is no click on it.
  svg.addEventListener("click", (event) => dragged && event.preventDefault(), true);
  svg.addEventListener("dragstart", (event) => event.preventDefault());
}

function enableKeys(box) {
  box.rect.addEventListener("keydown", (event) => {
    const ways = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    };
    const way = ways[event.key];
    if (!way || !box.now) return;
    event.preventDefault();
    const step = event.altKey ? 1 : Math.max(1, Math.round(box.width / 100));
    const [dx, dy] = way.map((one) => one * step);
    const [x, y, width, height] = box.now;
    if (event.shiftKey) box.set(x, y, width + dx, height + dy);
    else box.set(x + dx, y + dy, width, height);
  });
}

function enableWhole(box) {
  const button = document.querySelector("#whole");
  button.hidden = false;
  button.addEventListener("click", () => box.clear());
  for (const field of box.fields) field.addEventListener("input", () => box.read());
}

if (svg && form) {
  const box = new Box();
  enablePointer(box);
  enableKeys(box);
  enableWhole(box);
}
