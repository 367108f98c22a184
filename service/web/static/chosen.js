// Owns how photos look that were chosen and are not stored yet.

/** Shows the photos in a box; those that it showed before are let go. */
export function showChosen(box, files) {
  clearChosen(box);
  const row = document.createElement("div");
  row.className = "preview-row";
  for (const file of files) {
    const frame = document.createElement("span");
    frame.className = "frame";
    const image = document.createElement("img");
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    // A photo that this browser cannot draw may still be one that the service can read.
    image.addEventListener("error", () => image.remove());
    frame.append(image);
    row.append(frame);
  }
  box.replaceChildren(row);
  box.hidden = false;
}

export function clearChosen(box) {
  for (const image of box.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  box.replaceChildren();
  box.hidden = true;
}
