// Owns what a sign-in needs on every page: the token that HTMX sends, and a fresh one after somebody
// has signed in again in another tab, so that nothing typed here is lost.

const meta = document.querySelector('meta[name="csrf-token"]');

/** The token that a change has to carry; empty where no cookie says who asks. */
export const csrfToken = () => meta?.content ?? "";

document.addEventListener("htmx:configRequest", (event) => {
  if (csrfToken()) event.detail.headers["X-CSRF-Token"] = csrfToken();
});

async function renew() {
  const answer = await fetch("/v1/me", { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { csrf } = await answer.json();
  if (!csrf || csrf === meta.content) return;
  meta.content = csrf;
  for (const field of document.querySelectorAll('input[name="csrf"]')) field.value = csrf;
}

document.addEventListener("visibilitychange", () => {
  // The service may be away for a moment; the next return asks again.
  if (document.visibilityState === "visible" && csrfToken()) renew().catch(() => {});
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector("[data-secret]").textContent);
    button.disabled = true;
  });
}
