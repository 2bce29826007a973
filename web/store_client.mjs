// SPDX-License-Identifier: Apache-2.0
// One model per round, shared by every view of it: marks show at once, are sent in order, and survive a lost server.
//
// A model never forgets a click: what the server has not acknowledged is kept (in localStorage too, for a reload),
// sent again with growing pauses, and merged when another tab was faster.

import { read, Refused, Unreachable } from "./answers.mjs";
import * as rules from "./rules.mjs";

const RETRY_SECONDS = [1, 2, 4, 8, 15];
const TIMEOUT_MS = 20000;
const NEWS = ["rev", "stamp", "status", "mode", "n", "running", "notes"];

/** Asks the routes under /hero and keeps one RoundModel for each round. */
export class StoreClient {
  /**
   * @param {(path: string, init: object) => Promise<Response>} request fetches a path such as "/hero/rounds"
   * @param {(path: string) => string} address turns such a path into one for an <img>
   */
  constructor(request, address) {
    this.request = request;
    this.address = address;
    this.models = new Map();
  }

  /** The JSON that a path answers; throws Unreachable or Refused. */
  async ask(path, method = "GET", body = undefined) {
    const init = { method, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { "Content-Type": "application/json" };
    }
    let response;
    try {
      response = await this.request(path, init);
    } catch (error) {
      throw new Unreachable(null, { cause: error });
    }
    return read(response.status, await response.json().catch(() => undefined));
  }

  /** The rounds that wait for marks, newest first; their models are brought up to date on the way. */
  async pending() {
    const { rounds } = await this.ask("/hero/rounds?status=pending");
    const models = rounds.map((round) => this.learned(round));
    return models.sort((a, b) => (b.info.stamp ?? "").localeCompare(a.info.stamp ?? ""));
  }

  /** The model of a round, asked of the server the first time. */
  async round(id) {
    return this.models.get(id) ?? this.learned(await this.ask(roundPath(id)));
  }

  /** A round's JSON that another party announced: known rounds hear it, new ones are asked for whole. */
  async announced(info) {
    const known = this.models.get(info.id);
    known?.hear(info);
    return known ?? this.round(info.id);
  }

  /** Take in a round's JSON as the server answered it, and give its model. */
  learned(info) {
    const known = this.models.get(info.id);
    if (known) {
      known.hear(info);
      return known;
    }
    const model = new RoundModel(this, info);
    this.models.set(info.id, model);
    model.recall();
    return model;
  }

  /** Every round that a view still looks at asks the server how it is. */
  refreshAll() {
    for (const model of this.models.values()) if (model.watched) model.refresh();
  }
}

function roundPath(id) {
  return `/hero/rounds/${encodeURIComponent(id)}`;
}

/** A round and its marks: `marks` as the person sees them, `acked` as the server has them at `info.rev`. */
export class RoundModel {
  constructor(client, info) {
    this.client = client;
    this.notice = null;
    this.offline = false;
    this.undone = [];
    this.listeners = new Set();
    this.sending = null;
    this.submitting = false;
    this.trouble = null; // why marks are not saved, in the server's words; null where it says nothing
    this.told = []; // sentences that a run of this tab gave for the rater
    this.held = false; // the host's three: Run (Instant) waits for Submit; queueing what follows it; queued
    this.queueing = false;
    this.goesOn = false;
    this.failures = 0;
    this.heard = 0;
    this.adopt(info);
    this.marks = this.acked;
  }

  get id() {
    return this.info.id;
  }

  get submitted() {
    return this.info.submitted;
  }

  get watched() {
    return this.listeners.size > 0;
  }

  get counts() {
    return rules.counts(this.marks, this.info.n);
  }

  get problems() {
    return rules.problems(this.marks, this.info.has_old_best);
  }

  /** Marks that the server has not acknowledged. */
  get unsaved() {
    return rules.differences(this.acked, this.marks).length;
  }

  get canUndo() {
    return this.undone.length > 0 && !this.submitted && !this.submitting;
  }

  /** The address of picture `index` or "best". */
  picture(index, size) {
    const version = this.info.stamp ? `&v=${this.info.stamp}` : "";
    return this.client.address(`${roundPath(this.id)}/pictures/${index}?size=${size}${version}`);
  }

  /** Call `listener` after every change; returns a function that stops it. */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Press "good", "bad" or "best" on a picture, or null to take its mark off. */
  press(index, mark) {
    this.change(mark ? rules.pressed(this.marks, index, mark) : rules.withLabel(this.marks, index, null));
  }

  /** Mark a picture "good" or "bad" and never take it off: going over marked pictures again changes nothing. */
  put(index, mark) {
    this.change(rules.withLabel(this.marks, index, mark));
  }

  /** Keep the old best, or no longer. */
  toggleKeep() {
    this.change(rules.withBest(this.marks, this.marks.best === rules.KEEP ? null : rules.KEEP));
  }

  markRestBad() {
    this.change(rules.withRestBad(this.marks, this.info.n));
  }

  /** Take back the last change of this tab. Returns the picture that changed, if it was one. */
  undo() {
    if (!this.canUndo) return null;
    const before = this.undone.pop();
    const changed = rules.differences(before, this.marks);
    this.set(before);
    return changed.length ? changed[0] : null;
  }

  change(marks) {
    if (this.submitted || this.submitting || rules.same(marks, this.marks)) return;
    this.undone.push(this.marks);
    this.notice = null;
    this.set(marks);
  }

  set(marks) {
    this.marks = marks;
    this.remember();
    this.emit();
    this.flush();
  }

  /** Send what is unsaved, one request at a time; resolves when nothing is left or the round is closed. */
  flush() {
    if (this.submitted || rules.same(this.acked, this.marks)) return this.sending ?? Promise.resolve();
    this.sending ??= this.sendAll().finally(() => {
      this.sending = null;
      this.emit();
      if (this.heard > this.info.rev) this.refresh();
    });
    return this.sending;
  }

  async sendAll() {
    while (!this.submitted && !rules.same(this.acked, this.marks)) {
      const sent = this.marks;
      try {
        const body = { rev: this.info.rev, labels: sent.labels, best: sent.best };
        this.adopt(await this.client.ask(`${roundPath(this.id)}/labels`, "PUT", body));
        this.reached();
      } catch (error) {
        if (error instanceof Refused) this.refused(error);
        else await this.wait(error);
      }
      this.remember();
      this.emit();
    }
  }

  refused(error) {
    this.reached();
    if (error.current) this.reconcile(error.current);
    else {
      this.marks = this.acked;
      this.notice = `Not saved: ${error.message}`;
    }
  }

  /** Pause before the next try; coming back online ends the pause. */
  wait(error) {
    this.offline = true;
    this.trouble = error.sentence;
    this.emit();
    const seconds = RETRY_SECONDS[Math.min(this.failures++, RETRY_SECONDS.length - 1)];
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        globalThis.removeEventListener("online", done);
        this.wake = null;
        resolve();
      };
      const timer = setTimeout(done, seconds * 1000);
      globalThis.addEventListener("online", done);
      this.wake = done;
    });
  }

  reached() {
    this.offline = false;
    this.trouble = null;
    this.failures = 0;
  }

  /** Close the round. Resolves to true when it is closed; otherwise `notice` says why not. */
  async submit() {
    if (this.submitted) return true;
    if (this.submitting || this.problems.length) return false;
    this.submitting = true;
    this.notice = null;
    this.emit();
    const meant = this.marks;
    try {
      await this.flush();
      if (!this.submitted && !rules.same(meant, this.marks)) return false; // merged with another tab: look again
      if (!this.submitted) this.adopt(await this.client.ask(`${roundPath(this.id)}/submit`, "POST", { rev: this.info.rev }));
      this.reached();
    } catch (error) {
      if (error.current) this.reconcile(error.current);
      this.notice = `Not submitted: ${error.message}${error instanceof Unreachable ? " Your marks are safe: submit again." : ""}`;
    } finally {
      this.submitting = false;
      this.remember();
      this.emit();
    }
    return this.submitted;
  }

  /** What the host knows of the round beside the server: some of `told`, `held`, `queueing` and `goesOn`. */
  hostSays(words) {
    Object.assign(this, words);
    this.emit();
  }

  /** Ask the server how the round is. */
  async refresh() {
    try {
      this.hear(await this.client.ask(roundPath(this.id)));
      if (this.offline) this.wake?.();
    } catch (error) {
      if (error instanceof Refused) this.notice = error.message;
      this.emit();
    }
  }

  /** A round's JSON that came unasked (event, list, another tab); old news and our own echo change nothing. */
  hear(info) {
    this.heard = Math.max(this.heard, info.rev);
    if (this.sending || this.submitting || info.rev < this.info.rev) return;
    const known = { ...this.info, stamp: this.info.stamp ?? info.stamp };
    const news = { ...known, ...info, stamp: info.stamp ?? known.stamp };
    if (NEWS.some((key) => String(news[key]) !== String(known[key]))) this.reconcile(info);
    this.flush();
  }

  /** Take the server's state and put what is unsaved here on top of it. */
  reconcile(info) {
    const base = this.acked;
    const lost = this.unsaved;
    const theirs = rules.marksOf(info);
    const elsewhere = !rules.same(base, theirs);
    this.adopt(info);
    if (this.submitted) {
      this.marks = this.acked;
      this.undone = [];
      this.notice = lost ? `Submitted in another tab: your last ${lost} ${lost === 1 ? "mark" : "marks"} came too late.` : null;
    } else {
      const mine = this.marks;
      this.marks = lost ? rules.merged(base, mine, theirs) : this.acked;
      if (elsewhere) {
        this.undone = this.undone.map((before) => rules.merged(base, before, theirs));
        this.notice = lost
          ? "Marks were changed in another tab as well; both are kept. Look before you submit."
          : "Updated with marks from another tab.";
      }
    }
    this.remember();
    this.emit();
  }

  adopt(info) {
    this.info = { ...this.info, ...info, stamp: info.stamp ?? this.info?.stamp ?? null };
    this.acked = rules.marksOf(info);
    if (info.submitted) this.marks = this.acked;
  }

  /** Keep unsaved marks across a reload of the page. */
  remember() {
    try {
      if (this.submitted || rules.same(this.acked, this.marks)) localStorage.removeItem(this.storageKey);
      else localStorage.setItem(this.storageKey, JSON.stringify({ base: this.acked, marks: this.marks, stamp: this.info.stamp }));
    } catch {
      // A browser without storage still saves every mark on the server.
    }
  }

  /** Bring back what an earlier page could not save. */
  recall() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(this.storageKey));
    } catch {
      return;
    }
    if (!kept || kept.stamp !== this.info.stamp || this.submitted) return;
    this.marks = rules.merged(kept.base, kept.marks, this.acked);
    if (this.unsaved) this.flush();
  }

  get storageKey() {
    return `hero.unsaved.${this.id}`;
  }

  emit() {
    for (const listener of [...this.listeners]) listener(this);
  }
}
