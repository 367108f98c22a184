// Owns what comes next in the queue that is worked through.

const AT_ONCE = 20;
const LOW = 6;

export class Line {
  #ahead = [];
  #from = null;
  #ended = false;
  #filling = Promise.resolve();

  /** `url`: the queue in the API, filters and order in it. `count`: how many waited at first. */
  constructor(url, count) {
    this.url = url;
    this.left = count;
    /** Decided here: what the queue still lists until it is asked again is not offered again. */
    this.decided = new Set();
    this.skipped = new Set();
  }

  async #ask(params) {
    const response = await fetch(`${this.url}${this.url.endsWith("?") ? "" : "&"}${params}`, {
      cache: "no-store",
    });
    if (!response.ok) throw new Error(`${response.status}`);
    return (await response.json()).items.map((item) => item.id);
  }

  /** Where the reader is; what follows is known soon after. */
  async stand(id) {
    const place = this.#ahead.indexOf(id);
    if (place >= 0) {
      this.#ahead = this.#ahead.slice(place + 1);
    } else if (this.#from !== id) {
      this.#ahead = [];
      this.#ended = false;
    }
    this.#from = id;
    await this.#fill();
  }

  #fill() {
    this.#filling = this.#filling.then(async () => {
      if (this.#ended || this.#ahead.length >= LOW) return;
      const last = this.#ahead.at(-1) ?? this.#from;
      const more = await this.#ask(`limit=${AT_ONCE}&after=${last}`);
      if (last !== (this.#ahead.at(-1) ?? this.#from)) return;
      this.#ended = more.length < AT_ONCE;
      this.#ahead.push(...more.filter((id) => id !== this.#from && !this.#ahead.includes(id)));
    });
    this.#filling = this.#filling.catch(() => {});
    return this.#filling;
  }

  /** The next ids, as far as they are known. */
  peek(count) {
    return this.#ahead.filter((id) => !this.decided.has(id)).slice(0, count);
  }

  /** The next id, waited for if need be; null at the end of the queue. */
  async next() {
    if (this.peek(1).length === 0) await this.#fill();
    return this.peek(1)[0] ?? null;
  }

  /** The first that still waits, from the start of the queue; null when there is none. */
  async first() {
    const ids = await this.#ask(`limit=${AT_ONCE}`);
    return ids.find((id) => !this.decided.has(id)) ?? null;
  }
}
