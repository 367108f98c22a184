// Owns the choice of language and theme at the foot of every page; without this there is a button.

export function enableAppearance(form) {
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
