// SPDX-License-Identifier: Apache-2.0
// What the grid is put together from.

import { el, icon } from "./dom.mjs";

const KEYS = [
  ["← ↑ → ↓", "move"],
  ["G", "good"],
  ["B", "bad"],
  ["S", "best"],
  ["Shift + G, B", "mark and go on"],
  ["Del, X", "unrated"],
  ["K", "keep the old best"],
  ["U", "undo"],
  ["Z", "zoom"],
  ["Ctrl + Enter", "submit"],
  ["Esc", "minimise, close"],
];

/** One of the counts in the bar: `element`, and `value` for the number. */
export function counter(name, word) {
  const value = el("b", {}, "0");
  const element = el("span", { class: `hero-count is-${word}` });
  element.append(icon(name), value, el("span", { class: "hero-word" }, word));
  return { element, value };
}

/** A button with an icon and perhaps words; `title` is also what a screen reader says. */
export function button({ icon: name, label, title, run }) {
  const element = el("button", { type: "button", class: "hero-button", title, "aria-label": title });
  element.append(icon(name));
  if (label) element.append(el("span", {}, label));
  element.addEventListener("click", (event) => {
    event.stopPropagation();
    run();
  });
  element.addEventListener("dblclick", (event) => event.stopPropagation());
  return element;
}

/** The list of keys, hidden until it is asked for. */
export function helpPanel() {
  const list = el("dl", { class: "hero-keys", hidden: true });
  for (const [keys, does] of KEYS) {
    const pair = el("div", {});
    pair.append(el("dt", {}, keys), el("dd", {}, does));
    list.append(pair);
  }
  return list;
}
