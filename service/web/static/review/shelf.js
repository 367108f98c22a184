// Owns what was fetched before it is asked for: items and candidates as drawn by the service, with
// their photos decoded, so that showing one is a matter of putting it on the page.

/** Fetches a fragment as the service draws it. */
async function fetchFragment(url) {
  const response = await fetch(url, { headers: { "HX-Request": "true" }, cache: "no-store" });
  if (!response.ok) throw Object.assign(new Error(`${response.status}`), { status: response.status });
  const box = document.createElement("div");
  // The service's own template, which escapes every text that it shows. Made in this document and
  // not in an inert one: its photos begin to load.
  box.innerHTML = await response.text();
  return box;
}

/** Settles when the large photos can be drawn at once; a photo that fails is no reason to wait. */
function drawable(element) {
  const large = [...element.querySelectorAll("img[data-layer][src]")];
  return Promise.allSettled(large.map((image) => image.decode()));
}

export class Shelf {
  #items = new Map();
  #candidates = new Map();

  /** `query`: the queue as it stands in every address. */
  constructor(query) {
    this.query = query;
  }

  urlOf(id, candidate = null) {
    const chosen = candidate ? `&candidate=${encodeURIComponent(candidate)}` : "";
    return `/review/${id}?${this.query}${chosen}`;
  }

  #fetchItem(id, candidate = null) {
    const entry = { id, element: null, at: performance.now(), settled: false };
    entry.promise = fetchFragment(this.urlOf(id, candidate)).then((box) => {
      entry.element = box.querySelector("[data-item]");
      entry.drawable = drawable(entry.element).then(() => (entry.settled = true));
      return entry;
    });
    entry.promise.catch(() => this.#items.delete(id));
    return entry;
  }

  /** Fetches these if they are not here, and forgets all others. */
  want(ids) {
    for (const id of this.#items.keys()) if (!ids.includes(id)) this.#items.delete(id);
    for (const id of ids) if (!this.#items.has(id)) this.#items.set(id, this.#fetchItem(id));
  }

  /** The item, to be put on the page: it is no longer kept here. Immediately when it is here. */
  take(id, candidate = null) {
    const entry = this.#items.get(id);
    this.#items.delete(id);
    if (!entry || candidate) return this.#fetchItem(id, candidate).promise;
    return entry.element ? entry : entry.promise;
  }

  /** An item as it is now, whatever was fetched before. */
  again(id) {
    const entry = this.#fetchItem(id);
    this.#items.set(id, entry);
    return entry.promise;
  }

  // Candidates belong to the item on the page.

  clearCandidates() {
    this.#candidates.clear();
  }

  keepCandidate(id, side, about) {
    this.#candidates.set(id, { side, about });
  }

  wantCandidate(id, url) {
    if (!this.#candidates.has(id)) {
      const made = fetchFragment(url).then((box) => {
        const part = (name) => box.querySelector(`[data-part="${name}"]`);
        const entry = { side: part("side"), about: part("about") };
        drawable(entry.side);
        // Unless the item is another one by now.
        if (this.#candidates.get(id) === made) this.#candidates.set(id, entry);
        return entry;
      });
      made.catch(() => this.#candidates.delete(id));
      this.#candidates.set(id, made);
    }
    return this.#candidates.get(id);
  }
}
