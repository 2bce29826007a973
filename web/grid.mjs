// SPDX-License-Identifier: Apache-2.0
// The grid of a round's pictures with their marks: the same component in the node, full screen and on the rating page.
//
// It owns no state but what is on screen (which picture has the focus, how large tiles are); marks live in the
// RoundModel, so that every grid of one round shows the same. All text goes through textContent.

import { el, icon } from "./dom.mjs";
import { meaning, stepped } from "./keys.mjs";
import { fittingTile, TILE_MAX, TILE_MIN } from "./layout.mjs";
import { button, counter, helpPanel } from "./parts.mjs";
import { footWords, notesOf, savedState, submitText } from "./words.mjs";
import { openZoom } from "./zoom.mjs";

const MARKS = [
  { mark: "good", icon: "check", key: "G", title: "Good" },
  { mark: "best", icon: "star", key: "S", title: "Best" },
  { mark: "bad", icon: "cross", key: "B", title: "Bad" },
];

/** @typedef {{label: string, icon: string, title: string, run: () => void}} Tool a button the host adds to the bar */

export class Grid {
  /**
   * @param {object} options
   * @param {"node" | "full" | "page"} options.place where it is shown
   * @param {Tool[]} [options.tools] buttons of the host, at the right end of the bar
   * @param {() => void} [options.escape] what Esc does when no picture is zoomed
   * @param {(model: object) => void} [options.submitted] told after this grid has submitted a round
   * @param {(id: string) => void} [options.picked] told which of several waiting rounds the person chose
   */
  constructor({ place, tools = [], escape = () => {}, submitted = () => {}, picked = () => {} }) {
    this.escape = escape;
    this.onSubmitted = submitted;
    this.onPicked = picked;
    this.model = null;
    this.tiles = [];
    this.current = 0;
    this.tileSize = null;
    this.element = el("section", { class: "hero-grid", "data-place": place, "aria-label": "Feedback Grid", tabindex: -1 });
    this.build(tools);
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    this.onStrayKey = (event) => event.target === document.body && this.element.offsetParent && this.onKey(event);
    if (place !== "node") document.addEventListener("keydown", this.onStrayKey);
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.scroller);
    this.show(null);
  }

  /** Show a round, or with null that none waits. */
  show(model) {
    if (model && model === this.model && this.shownStamp === model.info.stamp) return this.update();
    this.unsubscribe?.();
    this.model = model;
    this.unsubscribe = model?.subscribe(() => this.update());
    this.current = 0;
    this.buildTiles();
    this.update();
    this.fit();
  }

  /** Offer the rounds that wait, where there are several; `others` are RoundModels. */
  offer(others) {
    const rounds = others.length > 1 || (others.length === 1 && others[0] !== this.model) ? others : [];
    const shown = this.model && !rounds.includes(this.model) && rounds.length ? [this.model, ...rounds] : rounds;
    const key = `${Boolean(this.model)} ${shown.map((model) => model.id).join()}`;
    if (this.offered !== key) {
      this.offered = key;
      const options = shown.map((model) => el("option", { value: model.id }, `${model.info.session}, round ${model.info.round}`));
      if (!this.model) options.unshift(el("option", { value: "" }, "Other rounds wait …"));
      this.picker.replaceChildren(...options);
      this.picker.hidden = shown.length === 0;
    }
    this.picker.value = this.model?.id ?? "";
  }

  /** Say something instead of pictures while no round is shown. */
  say(title, text, busy = false) {
    this.empty.replaceChildren(
      busy ? el("div", { class: "hero-spinner", role: "presentation" }) : icon("grid"),
      el("strong", {}, title),
      el("p", {}, text),
    );
  }

  focus() {
    (this.tiles[this.current]?.element ?? this.element).focus({ preventScroll: false });
  }

  destroy() {
    this.unsubscribe?.();
    this.resized.disconnect();
    document.removeEventListener("keydown", this.onStrayKey);
    this.element.remove();
  }

  // -- building -------------------------------------------------------------------------------------------------

  build(tools) {
    this.heading = el("strong", { class: "hero-heading" });
    this.prompt = el("span", { class: "hero-prompt" });
    this.picker = el("select", { class: "hero-picker", "aria-label": "Rounds that wait for marks", hidden: true });
    this.picker.addEventListener("change", () => this.onPicked(this.picker.value));
    this.counters = { good: counter("check", "good"), bad: counter("cross", "bad"), unrated: counter("circle", "unrated") };
    this.meter = { good: el("i", { class: "is-good" }), bad: el("i", { class: "is-bad" }) };
    const chips = el("div", { class: "hero-counts", role: "status", "aria-label": "Marks so far" });
    chips.append(...Object.values(this.counters).map((one) => one.element));
    this.size = el("input", { type: "range", class: "hero-size", min: TILE_MIN, max: TILE_MAX, "aria-label": "Size of the pictures", title: "Size of the pictures" });
    this.size.addEventListener("input", () => this.resize(Number(this.size.value)));
    this.undoButton = button({ icon: "undo", title: "Undo (U)", run: () => this.act(() => this.undo()) });
    this.restButton = button({ icon: "rest", label: "Rest is bad", title: "Mark every unrated picture bad", run: () => this.act(() => this.model?.markRestBad()) });
    this.helpButton = button({ icon: "keyboard", title: "Keys", run: () => this.toggleHelp() });
    this.helpButton.setAttribute("aria-expanded", "false");
    const bar = el("header", { class: "hero-bar" });
    const title = el("div", { class: "hero-title" });
    title.append(this.heading, this.picker, this.prompt);
    const right = el("div", { class: "hero-tools" });
    right.append(this.size, this.restButton, this.undoButton, this.helpButton, ...tools.map(button));
    bar.append(title, chips, right);
    const meter = el("div", { class: "hero-meter", "aria-hidden": "true" });
    meter.append(this.meter.good, this.meter.bad);
    this.help = helpPanel();
    this.old = this.buildOldBest();
    this.list = el("div", { class: "hero-tiles", role: "list" });
    this.empty = el("div", { class: "hero-empty" });
    this.say("No round waits for marks", "Queue the workflow: the pictures of the round appear here.");
    this.scroller = el("div", { class: "hero-scroll", "data-capture-wheel": "true" });
    this.scroller.append(this.list, this.empty);
    this.scroller.addEventListener("wheel", (event) => keepWheel(event, this.scroller), { passive: true });
    const body = el("div", { class: "hero-body" });
    body.append(this.old.element, this.scroller);
    this.notes = el("ul", { class: "hero-notes", role: "status", "aria-label": "Before you mark", hidden: true });
    this.element.append(bar, meter, this.help, body, this.notes, this.buildFoot());
  }

  buildOldBest() {
    const picture = el("img", { alt: "The best picture so far", draggable: "false" });
    const frame = el("button", { class: "hero-old-picture", type: "button", title: "Zoom the old best" });
    frame.append(picture);
    frame.addEventListener("click", () => this.zoom("best"));
    const keep = button({ icon: "star", label: "Keep it", title: "Keep the old best (K): none of the new pictures is better", run: () => this.act(() => this.model?.toggleKeep()) });
    keep.classList.add("hero-keep");
    const element = el("aside", { class: "hero-old", "aria-label": "The old best", hidden: true });
    element.append(el("h3", {}, "Best so far"), frame, keep, el("p", {}, "Pick a new best among the pictures, or keep this one."));
    return { element, picture, keep };
  }

  buildFoot() {
    this.saved = el("span", { class: "hero-saved", role: "status" });
    this.why = el("span", { class: "hero-why", role: "status" });
    this.submitButton = button({ icon: "send", label: "Submit marks", title: "Submit (Ctrl + Enter)", run: () => this.submit() });
    this.submitButton.classList.add("hero-submit");
    const foot = el("footer", { class: "hero-foot" });
    foot.append(this.saved, this.why, this.submitButton);
    return foot;
  }

  buildTiles() {
    const info = this.model?.info;
    this.shownStamp = info?.stamp;
    this.tiles = info ? Array.from({ length: info.n }, (_, index) => this.buildTile(index)) : [];
    this.list.replaceChildren(...this.tiles.map((tile) => tile.element));
    this.list.style.setProperty("--hero-ratio", info?.width ? `${info.width} / ${info.height}` : "1");
    this.empty.hidden = Boolean(info);
    this.list.hidden = !info;
    if (info?.has_old_best) this.old.picture.src = this.model.picture("best", "thumb");
    else this.old.picture.removeAttribute("src");
    this.old.element.hidden = !info?.has_old_best;
    this.scroller.scrollTop = 0;
  }

  buildTile(index) {
    const picture = el("img", { loading: "lazy", decoding: "async", alt: "", draggable: "false" });
    picture.src = this.model.picture(index, "thumb");
    picture.addEventListener("error", () => element.classList.add("is-missing"));
    const frame = el("div", { class: "hero-frame" });
    const badge = el("span", { class: "hero-badge", "aria-hidden": "true" });
    badge.append(icon("check"), icon("cross"), icon("star"));
    frame.append(picture, el("span", { class: "hero-number", "aria-hidden": "true" }, String(index + 1)), badge);
    const zoom = button({ icon: "zoom", title: "Zoom (Z)", run: () => this.zoom(index) });
    zoom.classList.add("hero-zoomer");
    zoom.tabIndex = -1;
    frame.append(zoom);
    const buttons = MARKS.map(({ mark, icon: name, key, title }) => {
      const one = button({ icon: name, title: `${title} (${key})`, run: () => this.press(index, mark) });
      one.classList.add("hero-mark", `is-${mark}`);
      one.tabIndex = -1;
      return one;
    });
    const actions = el("div", { class: "hero-actions" });
    actions.append(...buttons);
    const element = el("div", { class: "hero-tile", role: "listitem", tabindex: index === 0 ? 0 : -1, "data-index": index });
    element.append(frame, actions);
    element.addEventListener("focusin", () => this.setCurrent(index));
    frame.addEventListener("click", () => element.focus());
    frame.addEventListener("dblclick", () => this.zoom(index));
    return { element, buttons, shown: null };
  }

  // -- showing --------------------------------------------------------------------------------------------------

  update() {
    const { model } = this;
    this.element.classList.toggle("is-empty", !model);
    this.element.classList.toggle("is-submitted", Boolean(model?.submitted));
    if (!model) {
      this.heading.textContent = "Feedback Grid";
      this.prompt.textContent = "";
      return;
    }
    if (model.info.stamp !== this.shownStamp || model.info.n !== this.tiles.length) this.buildTiles();
    const { info, counts } = model;
    this.heading.textContent = `${info.session} · round ${info.round}`;
    this.prompt.textContent = this.prompt.title = info.prompt ?? "";
    for (const [name, one] of Object.entries(this.counters)) one.value.textContent = counts[name];
    for (const [name, bar] of Object.entries(this.meter)) bar.style.width = `${(100 * counts[name]) / Math.max(1, info.n)}%`;
    this.tiles.forEach((tile, index) => this.updateTile(tile, index));
    this.updateOldBest();
    this.updateNotes();
    this.updateFoot();
    this.onUpdate?.(model);
  }

  updateTile(tile, index) {
    const { marks, submitted } = this.model;
    const state = marks.best === index ? "best" : (marks.labels[index] ?? "unrated");
    if (tile.shown === `${state}${submitted}`) return;
    tile.shown = `${state}${submitted}`;
    tile.element.dataset.state = state;
    tile.element.setAttribute("aria-label", `Picture ${index + 1} of ${this.model.info.n}: ${state}`);
    tile.buttons.forEach((one, i) => {
      const pressed = MARKS[i].mark === state;
      one.setAttribute("aria-pressed", String(pressed));
      one.setAttribute("aria-label", `${MARKS[i].title}, picture ${index + 1}`);
      one.disabled = submitted;
    });
  }

  updateOldBest() {
    const kept = this.model.marks.best === "keep";
    this.old.keep.setAttribute("aria-pressed", String(kept));
    this.old.keep.disabled = this.model.submitted;
    this.old.keep.lastChild.textContent = kept ? "Kept" : "Keep it";
    this.old.element.classList.toggle("is-kept", kept);
  }

  updateNotes() {
    const notes = notesOf(this.model);
    const shown = [...this.notes.children].map((one) => one.textContent);
    if (shown.join("\n") !== notes.join("\n")) this.notes.replaceChildren(...notes.map((note) => el("li", {}, note)));
    this.notes.hidden = notes.length === 0;
  }

  updateFoot() {
    const { model } = this;
    const saved = savedState(model);
    this.saved.textContent = saved.text;
    this.saved.dataset.state = saved.state;
    const why = footWords(model);
    this.why.textContent = why.text;
    this.why.classList.toggle("is-notice", why.urgent);
    const reasons = model.submitted ? [] : model.problems;
    this.submitButton.disabled = model.submitted || model.submitting || reasons.length > 0;
    this.submitButton.title = reasons[0] ?? "Submit (Ctrl + Enter)";
    this.submitButton.lastChild.textContent = submitText(model);
    this.undoButton.disabled = !model.canUndo;
    this.restButton.disabled = model.submitted || model.counts.unrated === 0;
  }

  // -- acting ---------------------------------------------------------------------------------------------------

  press(index, mark) {
    this.model?.press(index, mark);
  }

  /** Do what a button of the bar says, and give the focus back to the pictures: the button may now be disabled. */
  act(action) {
    action();
    this.focus();
  }

  undo() {
    const index = this.model?.undo();
    if (typeof index === "number") this.moveTo(index);
  }

  async submit() {
    const { model } = this;
    if (model && !model.submitted && (await model.submit())) this.onSubmitted(model);
  }

  zoom(index) {
    if (!this.model) return;
    openZoom({ model: this.model, index, marks: MARKS, moved: (to) => this.setCurrent(to), closed: () => this.focus() });
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
    this.helpButton.setAttribute("aria-expanded", String(!this.help.hidden));
  }

  setCurrent(index) {
    if (typeof index !== "number" || !this.tiles[index]) return;
    if (this.tiles[this.current]) this.tiles[this.current].element.tabIndex = -1;
    this.current = index;
    this.tiles[index].element.tabIndex = 0;
  }

  moveTo(index) {
    const to = Math.min(Math.max(index, 0), this.tiles.length - 1);
    if (!this.tiles[to]) return;
    this.setCurrent(to);
    this.tiles[to].element.focus();
    this.tiles[to].element.scrollIntoView({ block: "nearest" });
  }

  onKey(event) {
    const typing = event.target.matches("select, input:not([type=range]), textarea");
    const chord = event.ctrlKey || event.metaKey;
    if (!chord && !event.altKey) event.stopPropagation(); // letters are ours here, not the canvas's
    if (typing || event.defaultPrevented) return;
    if (event.target === this.size && event.key.startsWith("Arrow")) return; // the slider's own
    const action = this.actionOf(meaning(event));
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** What the grid does for a key's meaning; null where that is nothing. */
  actionOf(key) {
    if (key?.does === "escape") return () => (this.help.hidden ? this.escape() : this.toggleHelp());
    if (key?.does === "submit") return () => this.submit();
    if (!key || !this.model) return null;
    const here = this.current;
    return {
      undo: () => this.undo(),
      step: () => this.moveTo(stepped(here, key.to, this.columns(), this.tiles.length)),
      first: () => this.moveTo(0),
      last: () => this.moveTo(this.tiles.length - 1),
      press: () => this.press(here, key.mark),
      set: () => (this.model.put(here, key.mark), this.moveTo(here + 1)),
      keep: () => this.model.info.has_old_best && this.model.toggleKeep(),
      zoom: () => this.zoom(here),
    }[key.does];
  }

  // -- sizes ----------------------------------------------------------------------------------------------------

  columns() {
    const top = this.tiles[0]?.element.offsetTop;
    const next = this.tiles.findIndex((tile) => tile.element.offsetTop !== top);
    return next < 0 ? Math.max(1, this.tiles.length) : next;
  }

  /** The person's size of tiles, kept for this grid until it is closed. */
  resize(pixels) {
    this.tileSize = pixels;
    this.fit();
  }

  /** Tiles as large as lets the whole round be seen at once, if that is large enough to judge them. */
  fit() {
    const info = this.model?.info;
    if (!info) return;
    const fitting = this.tileSize ?? fittingTile(this.scroller.clientWidth, this.scroller.clientHeight, info);
    this.list.style.setProperty("--hero-tile", `${fitting}px`);
    this.size.value = fitting;
    this.element.classList.toggle("is-small", fitting < 88);
  }
}

/** The wheel scrolls the pictures where they can scroll; pinching and Ctrl still zoom the canvas. */
function keepWheel(event, scroller) {
  if (!event.ctrlKey && scroller.scrollHeight > scroller.clientHeight) event.stopPropagation();
}
