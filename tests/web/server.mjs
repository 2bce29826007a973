// SPDX-License-Identifier: Apache-2.0
// A stand-in for the server and the browser: rounds with revisions as hero_core keeps them, faults on request.

import { StoreClient } from "../../web/store_client.mjs";

/** The browser's storage and its `online` event, fresh. */
export function browser() {
  const kept = new Map();
  const events = new EventTarget();
  const storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, String(value)),
    removeItem: (key) => kept.delete(key),
  };
  Object.defineProperty(globalThis, "localStorage", { value: storage, configurable: true });
  for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"]) globalThis[name] = events[name].bind(events);
  return kept;
}

/** One round of `n` pictures on a server. `faults` are answers (or errors) that come first, one a request. */
export class Server {
  constructor(n = 6, round = {}) {
    this.round = {
      id: "rose.0001", session: "rose", round: 1, status: "sampled", mode: "resume", n, rev: 0, labels: {}, best: null,
      submitted: false, has_old_best: false, stamp: "a", running: false, notes: [], ...round,
    };
    this.asked = [];
    this.faults = [];
  }

  /** A tab's client of this server. */
  client() {
    return new StoreClient((path, init) => this.answer(path, init), (path) => path);
  }

  async model() {
    return this.client().round(this.round.id);
  }

  /** Marks from elsewhere. */
  mark(labels, best = null) {
    Object.assign(this.round, { labels, best, rev: this.round.rev + 1 });
  }

  async answer(path, { method, body }) {
    const data = body && JSON.parse(body);
    this.asked.push(data ? [method, path.split("/").at(-1), data] : [method, path]);
    const fault = this.faults.shift();
    if (fault instanceof Error) throw fault;
    return fault ?? this.ordinary(path, method, data);
  }

  ordinary(path, method, data) {
    const { round } = this;
    if (path.includes("?status=")) return json(200, { rounds: round.submitted ? [] : [round] });
    if (method === "GET") return json(200, round);
    if (data.rev !== round.rev || round.submitted) return json(409, { error: "Others were faster.", current: round });
    if (method === "PUT") this.mark(data.labels, data.best);
    else Object.assign(round, { submitted: true, status: "rated", rev: round.rev + 1 });
    return json(200, round);
  }

  /** The bodies of the marks that came, in order. */
  get puts() {
    return this.asked.filter(([method]) => method === "PUT").map(([, , data]) => data);
  }
}

export function json(status, data) {
  return new Response(JSON.stringify(data), { status });
}

export function page(status, text = "<html>nginx</html>") {
  return new Response(text, { status });
}

/** Until everything that can go on has gone on. */
export async function settled() {
  for (let i = 0; i < 30; i++) await new Promise((resolve) => setImmediate(resolve));
}
