// SPDX-License-Identifier: Apache-2.0
// The rating page: one grid that fills the window, fed by asking the server every two seconds while it is looked at.

import { Grid } from "./grid.mjs";
import { StoreClient } from "./store_client.mjs";

const POLL_MS = 2000;

/** Runs the page: shows the round that the address names, else the newest that waits. */
class RatingPage {
  constructor(root, client) {
    this.client = client;
    this.grid = new Grid({
      place: "page",
      submitted: (model) => this.afterSubmit(model),
      picked: (id) => this.pick(id),
    });
    root.replaceChildren(this.grid.element);
    this.grid.onUpdate = (model) => this.title(model);
    this.wanted = decodeURIComponent(location.hash.slice(1)) || null;
    this.timer = null;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.poll());
    globalThis.addEventListener("focus", () => this.poll());
    globalThis.addEventListener("hashchange", () => this.pick(decodeURIComponent(location.hash.slice(1))));
    this.poll();
  }

  /** Ask what waits, show it, and ask again soon; a hidden page asks nothing. */
  async poll() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const turn = (this.turn = {});
    try {
      const waiting = await this.client.pending();
      if (turn !== this.turn) return;
      await this.follow(waiting);
    } catch {
      if (!this.grid.model) this.grid.say("The server cannot be reached", "Is it still running? This page keeps asking.", true);
    }
    if (turn === this.turn) this.timer = setTimeout(() => this.poll(), POLL_MS);
  }

  async follow(waiting) {
    const shown = this.grid.model;
    if (shown && !waiting.includes(shown)) await shown.refresh();
    if (!shown && this.wanted) await this.showWanted();
    const current = this.grid.model;
    if (!current) {
      if (waiting.length) this.open(waiting[0]);
      else this.grid.say("No round waits for marks", "When the next pictures are made they appear here by themselves.", true);
    } else if (current.submitted && !this.lingers(current)) {
      // Never on to another session by itself: the next key would mark pictures that the person did not mean.
      const next = waiting.find((model) => model.info.session === current.info.session);
      if (next) this.open(next);
    }
    this.grid.offer(waiting);
  }

  /** A submitted round that the person asked for by its address stays until they turn to another. */
  lingers(model) {
    return Boolean(model?.submitted) && model.id === this.wanted && !this.submittedHere;
  }

  async showWanted() {
    try {
      this.open(await this.client.round(this.wanted));
    } catch {
      this.wanted = null; // no such round any more
    }
  }

  open(model) {
    const first = this.grid.model !== model;
    this.submittedHere = false;
    this.wanted = model.id;
    history.replaceState(null, "", `#${encodeURIComponent(model.id)}`);
    this.grid.show(model);
    if (first) this.grid.focus();
  }

  async pick(id) {
    if (!id || id === this.grid.model?.id) return;
    this.wanted = id;
    try {
      this.open(await this.client.round(id));
    } catch (error) {
      this.grid.say("This round cannot be shown", error.message);
    }
  }

  afterSubmit() {
    this.submittedHere = true;
    this.poll();
  }

  title(model) {
    const { unrated } = model.counts;
    document.title = `${model.submitted ? "✓" : `(${unrated})`} ${model.info.session} round ${model.info.round} · HERO Feedback`;
  }
}

// The page lies at …/hero/, and the routes beside it: whatever stands before /hero/ is a proxy's prefix.
const base = new URL(".", location.href).pathname.replace(/\/hero\/$/, "");
const client = new StoreClient(
  (path, init) => fetch(base + path, init),
  (path) => base + path,
);
new RatingPage(document.querySelector("main"), client).start();
