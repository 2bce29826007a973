// SPDX-License-Identifier: Apache-2.0
// One picture at full size over everything, with the same marks and keys as the grid beneath it.

import { el, icon } from "./dom.mjs";

/**
 * Open the zoom on a picture of a round (or on "best", the old best).
 * `moved(index)` is told of each step to another picture, `closed()` of the end.
 */
export function openZoom({ model, index, marks, moved = () => {}, closed = () => {} }) {
  const view = buildView(marks);
  const state = { index };

  function show(to) {
    state.index = to === "best" ? to : (to + model.info.n) % model.info.n;
    view.picture.src = model.picture(state.index, "full");
    view.picture.style.setProperty("--hero-natural", `${model.info.width ?? 512}px`);
    if (state.index !== "best") moved(state.index);
    update();
  }

  function update() {
    const { labels, best } = model.marks;
    const old = state.index === "best";
    const mark = old ? (best === "keep" ? "best" : "unrated") : best === state.index ? "best" : (labels[state.index] ?? "unrated");
    view.caption.textContent = old ? "The old best" : `Picture ${state.index + 1} of ${model.info.n}`;
    view.layer.dataset.state = mark;
    view.picture.alt = `${view.caption.textContent}: ${mark}`;
    view.buttons.forEach((one, i) => {
      one.setAttribute("aria-pressed", String(marks[i].mark === mark));
      one.hidden = old;
      one.disabled = model.submitted;
    });
    view.old.hidden = !model.info.has_old_best;
    view.old.setAttribute("aria-pressed", String(old));
  }

  function step(by) {
    show(state.index === "best" ? (state.before ?? 0) : state.index + by);
  }

  function compare() {
    if (!model.info.has_old_best) return;
    if (state.index === "best") return show(state.before ?? 0);
    state.before = state.index;
    show("best");
  }

  function press(mark) {
    if (state.index !== "best") model.press(state.index, mark);
    else if (mark === "best") model.toggleKeep();
  }

  function close() {
    stop();
    view.layer.remove();
    closed();
  }

  const keys = {
    escape: close, z: close, arrowleft: () => step(-1), arrowup: () => step(-1), arrowright: () => step(1), arrowdown: () => step(1),
    g: () => press("good"), b: () => press("bad"), s: () => press("best"), x: () => press(null), delete: () => press(null),
    u: () => model.undo(), c: compare,
    k: () => model.info.has_old_best && model.toggleKeep(),
  };

  view.layer.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keys[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
  view.layer.addEventListener("click", (event) => event.target === view.layer && close());
  view.close.addEventListener("click", close);
  view.left.addEventListener("click", () => step(-1));
  view.right.addEventListener("click", () => step(1));
  view.old.addEventListener("click", compare);
  view.buttons.forEach((one, i) => one.addEventListener("click", () => press(marks[i].mark)));
  const stop = model.subscribe(update);
  document.body.append(view.layer);
  show(index);
  view.layer.focus();
  return close;
}

function buildView(marks) {
  const layer = el("div", { class: "hero-zoom", role: "dialog", "aria-label": "Picture at full size", tabindex: -1 });
  const picture = el("img", { class: "hero-zoom-picture", draggable: "false" });
  const caption = el("strong", { class: "hero-zoom-caption" });
  const tool = (name, title, label) => {
    const one = el("button", { type: "button", class: "hero-button", title, "aria-label": title });
    one.append(icon(name));
    if (label) one.append(el("span", {}, label));
    return one;
  };
  const left = tool("left", "Previous (←)");
  const right = tool("right", "Next (→)");
  const close = tool("close", "Close (Esc)");
  const old = tool("star", "Compare with the old best (C)", "Old best");
  left.classList.add("hero-zoom-left");
  right.classList.add("hero-zoom-right");
  const buttons = marks.map(({ mark, icon: name, key, title }) => {
    const one = tool(name, `${title} (${key})`, title);
    one.classList.add("hero-mark", `is-${mark}`);
    return one;
  });
  const bar = el("div", { class: "hero-zoom-bar" });
  bar.append(caption, ...buttons, old, close);
  layer.append(picture, left, right, bar);
  return { layer, picture, caption, left, right, close, old, buttons };
}
