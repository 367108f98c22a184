// Owns sending decisions and taking them back: each once, in order, with what is needed to undo it.

import { word } from "../words.js";

const KEPT = "resight-decisions";
const KEPT_AT_MOST = 100;
const AGAIN_MS = 900;

/** What people read for a code; anything else is told as the service says it. */
const REFUSALS = {
  individual_name_taken: () => word("Another individual of this catalogue has this name already."),
  name_reserved: () => word("Somebody else is about to give this name; choose another one."),
  query_moved_on: () => word("Somebody has decided about this meanwhile."),
  query_decided: () => word("This is decided already; take that decision back first."),
  vote_given: () => word("You have voted here already."),
  pair_rejected: () => word("Somebody has said before that these are different animals."),
  annotation_named: () => word("A photo of it shows another individual already."),
  change_superseded: () => word("A later change stands in the way; undo that one first."),
  name_blank: () => word("A name cannot be blank."),
};

/** A refusal of the service, or none at all (`status` 0). */
export class Refusal extends Error {
  constructor(status, problem) {
    super(REFUSALS[problem.code]?.() ?? problem.detail ?? word("The service did not answer."));
    this.status = status;
    this.code = problem.code ?? "";
    this.problem = problem;
  }
}

/** Unlike `crypto.randomUUID`, also where the page came without TLS. */
export const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

const token = () => document.querySelector('meta[name="csrf-token"]')?.content;

/** A request that changes something; with a key it is safe to send again, and is, once. */
export async function send(method, url, body, key = null) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  if (token()) headers["X-CSRF-Token"] = token();
  const options = { method, headers, keepalive: true };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (!key) throw new Refusal(0, {});
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    response = await fetch(url, options).catch(() => {
      throw new Refusal(0, {});
    });
  }
  const answer = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

export class Decider {
  #versions = new Map();
  #chains = new Map();
  #stack = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");

  /** What the page shows of a query: decisions speak of this version of it. */
  saw(id, version) {
    if (!this.#chains.has(id)) this.#versions.set(id, version);
  }

  get canUndo() {
    return this.#stack.length > 0;
  }

  /** Decisions on one query wait for each other, as each names the version the last one made. */
  #inTurn(id, work) {
    const before = this.#chains.get(id) ?? Promise.resolve();
    const turn = before.catch(() => {}).then(work);
    this.#chains.set(id, turn);
    const over = () => this.#chains.get(id) === turn && this.#chains.delete(id);
    turn.then(over, over);
    return turn;
  }

  /** Sends a decision. `entry.text` says what it was, for the one who may take it back. */
  decide(id, body, text) {
    const entry = { id, text, decision: null };
    const key = newKey();
    this.#stack.push(entry);
    const work = async () => {
      const version = this.#versions.get(id);
      const answer = await send("POST", "/v1/reviews", { query_id: id, version, ...body }, key);
      this.#versions.set(id, answer.query?.version ?? version);
      entry.decision = answer.decision_id;
      this.#keep();
      return answer;
    };
    entry.pending = this.#inTurn(id, work);
    entry.pending.catch(() => this.#forget(entry));
    return entry;
  }

  #forget(entry) {
    this.#stack = this.#stack.filter((one) => one !== entry);
    this.#keep();
  }

  #keep() {
    const known = this.#stack.filter((one) => one.decision).slice(-KEPT_AT_MOST);
    const plain = known.map(({ id, text, decision }) => ({ id, text, decision }));
    sessionStorage.setItem(KEPT, JSON.stringify(plain));
  }

  /** Takes the last decision of this tab back; null when there is none. */
  async undoLast() {
    const entry = this.#stack.at(-1);
    if (!entry) return null;
    await entry.pending?.catch(() => {});
    if (!entry.decision) return null;
    await this.undo(entry.id, entry.decision);
    return entry;
  }

  /** Takes a decision back. */
  async undo(id, decision) {
    const answer = await this.#inTurn(id, () =>
      send("POST", `/v1/reviews/${decision}/undo`, {}, newKey()),
    ).catch((refusal) => {
      // Somebody else was faster at taking it back: that is what was wanted.
      if (refusal.code === "decision_undone") return {};
      throw refusal;
    });
    if (answer.query) this.#versions.set(id, answer.query.version);
    this.#stack = this.#stack.filter((one) => one.decision !== decision);
    this.#keep();
  }
}
