// Owns what every page does with a script: the open page is in sight, language and theme are chosen.

document.documentElement.classList.add("with-script");
// Where the pages do not all fit beside each other, the one that is open is in sight. With the first
// frame, which lays the page out anyway.
requestAnimationFrame(() =>
  document
    .querySelector(".nav [aria-current]")
    ?.scrollIntoView({ block: "nearest", inline: "nearest" }),
);

/** The choice at the foot of the page; without a script there is a button. */
function enableAppearance(form) {
  if (!form) return;
  form.addEventListener("submit", () => {
    form.elements.back.value = location.pathname + location.search;
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "theme") wear(event.target.value);
    else form.requestSubmit();
  });

  /** Wears the theme at once: what is being typed on the page stays. */
  function wear(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    document.querySelector('meta[name="color-scheme"]').content = theme || "light dark";
    fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" });
  }
}

enableAppearance(document.querySelector("#appearance"));
