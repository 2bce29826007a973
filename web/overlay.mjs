// SPDX-License-Identifier: Apache-2.0
// The full-screen grid of ComfyUI, and the pill that it becomes when minimised.

import { el, icon } from "./dom.mjs";
import { Grid } from "./grid.mjs";

/** One for the page. It shows one round at a time; which one, `follow` and the person decide. */
export class Overlay {
  /**
   * @param {object} options
   * @param {(model: object) => void} options.submitted told after a round was submitted here
   * @param {(id: string) => void} options.picked told which waiting round the person chose
   */
  constructor({ submitted, picked }) {
    this.dismissed = null;
    this.element = el("div", { class: "hero-overlay", role: "dialog", "aria-label": "Feedback Grid, full screen", hidden: true });
    this.grid = new Grid({
      place: "full",
      tools: [{ icon: "minimise", title: "Minimise (Esc)", run: () => this.minimise() }],
      escape: () => this.minimise(),
      submitted,
      picked,
    });
    this.grid.onUpdate = () => this.updatePill();
    this.element.append(this.grid.element);
    this.buildPill();
    document.body.append(this.element, this.pill);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  get model() {
    return this.grid.model;
  }

  open(model = this.model) {
    this.before = this.isOpen ? this.before : document.activeElement;
    if (model) this.grid.show(model);
    this.element.hidden = false;
    this.grid.fit();
    this.updatePill();
    this.grid.focus();
  }

  minimise() {
    this.element.hidden = true;
    this.dismissed = null;
    this.updatePill();
    this.before?.focus?.({ preventScroll: true });
  }

  toggle() {
    if (this.isOpen) this.minimise();
    else this.open();
  }

  /** Take in what waits: stay on a round that is being rated, go on from one that is done. */
  follow(waiting) {
    const { model } = this;
    if (!model || (model.submitted && waiting.length)) {
      const next = waiting.find((one) => one.info.session === model?.info.session) ?? waiting[0];
      if (next) this.grid.show(next);
    }
    this.grid.offer(waiting);
    this.updatePill();
  }

  // -- the pill -------------------------------------------------------------------------------------------------

  buildPill() {
    this.pillText = el("b", {});
    this.pillCounts = el("span", {});
    const open = el("button", { type: "button", class: "hero-button hero-pill-open", title: "Show the Feedback Grid" });
    open.append(el("span", { class: "hero-dot", "aria-hidden": "true" }), this.pillText, this.pillCounts, icon("expand"));
    open.addEventListener("click", () => this.open());
    const close = el("button", { type: "button", class: "hero-button", title: "Hide until the next round", "aria-label": "Hide until the next round" });
    close.append(icon("close"));
    close.addEventListener("click", () => {
      this.dismissed = this.model?.id ?? null;
      this.updatePill();
    });
    this.pill = el("div", { class: "hero-pill", role: "region", "aria-label": "A round waits for marks", hidden: true });
    this.pill.append(open, close);
  }

  updatePill() {
    const { model } = this;
    this.pill.hidden = this.isOpen || !model || model.submitted || this.dismissed === model.id;
    if (this.pill.hidden) return;
    const { good, bad, unrated } = model.counts;
    this.pillText.textContent = `Round ${model.info.round} waits for marks`;
    this.pillCounts.textContent = good + bad ? `${good} good, ${bad} bad, ${unrated} unrated` : model.info.session;
  }
}
