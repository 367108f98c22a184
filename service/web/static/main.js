// Owns what every page does with a script: the open page is in sight, language and theme are chosen.

import { enableAppearance } from "./appearance.js";

document.documentElement.classList.add("with-script");
// Where the pages do not all fit beside each other, the one that is open is in sight. With the first
// frame, which lays the page out anyway.
requestAnimationFrame(() =>
  document
    .querySelector(".nav [aria-current]")
    ?.scrollIntoView({ block: "nearest", inline: "nearest" }),
);
enableAppearance(document.querySelector("#appearance"));
