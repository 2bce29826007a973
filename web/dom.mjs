// SPDX-License-Identifier: Apache-2.0
// Making elements without markup strings: text can only ever be text.

const SVG = "http://www.w3.org/2000/svg";

// 24 × 24 strokes, drawn for this project.
const ICONS = {
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  cross: ["M6.5 6.5l11 11", "M17.5 6.5l-11 11"],
  star: ["M12 3.6l2.6 5.3 5.8.8-4.2 4.1 1 5.8-5.2-2.8-5.2 2.8 1-5.8-4.2-4.1 5.8-.8z"],
  circle: ["M12 5a7 7 0 1 0 0 14 7 7 0 1 0 0-14"],
  undo: ["M8 5L4 9l4 4", "M4 9h9.5a5.5 5.5 0 0 1 0 11H9"],
  rest: ["M4 6h16", "M4 12h8", "M4 18h6", "M15.5 13.5l5 5", "M20.5 13.5l-5 5"],
  keyboard: ["M3 7h18v10H3z", "M7 10.5h.01", "M11 10.5h.01", "M15 10.5h.01", "M8 14h8"],
  zoom: ["M10.5 4.5a6 6 0 1 0 0 12 6 6 0 1 0 0-12", "M15 15l5 5"],
  expand: ["M4 9V4h5", "M20 9V4h-5", "M4 15v5h5", "M20 15v5h-5"],
  minimise: ["M5 19h14"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  send: ["M5 12h13", "M12.5 6l6 6-6 6"],
  left: ["M15 5l-7 7 7 7"],
  right: ["M9 5l7 7-7 7"],
  grid: ["M4 4h7v7H4z", "M13 4h7v7h-7z", "M4 13h7v7H4z", "M13 13h7v7h-7z"],
};

/** An element with attributes (true sets, false and null leave out) and text. */
export function el(name, attributes = {}, text = null) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(key, value === true ? "" : String(value));
  }
  if (text !== null) element.textContent = text;
  return element;
}

/** One of our icons as an inline drawing; decoration only, so hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `hero-icon is-${name}`);
  svg.setAttribute("aria-hidden", "true");
  for (const d of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** Load hero.css once, from beside this module. */
export function loadStyle() {
  const href = new URL("hero.css", import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return;
  if (document.querySelector("link[data-hero-style]")) return;
  document.head.append(el("link", { rel: "stylesheet", href, "data-hero-style": true }));
}
