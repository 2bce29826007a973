// SPDX-License-Identifier: Apache-2.0
// What keys mean in the grid, as pure functions: the grid does what they say.

const PRESSES = new Map([["g", "good"], ["b", "bad"], ["s", "best"], ["x", null], ["delete", null], ["backspace", null]]);
const OTHERS = new Map([["k", "keep"], ["u", "undo"], ["z", "zoom"], ["home", "first"], ["end", "last"]]);
const STEPS = new Map([["arrowleft", "left"], ["arrowright", "right"], ["arrowup", "up"], ["arrowdown", "down"]]);
const CHORDS = new Map([["enter", "submit"], ["z", "undo"]]);

/**
 * What a key means: {does, …}, or null where it means nothing here.
 * `does` is submit, undo, escape, step (`to`), first, last, press (`mark`), set (`mark`; then one on), keep or zoom.
 */
export function meaning({ key, ctrlKey = false, metaKey = false, altKey = false, shiftKey = false }) {
  const name = key.toLowerCase();
  if (altKey) return null;
  if (ctrlKey || metaKey) return !shiftKey && CHORDS.has(name) ? { does: CHORDS.get(name) } : null;
  if (name === "escape") return { does: "escape" };
  if (STEPS.has(name)) return { does: "step", to: STEPS.get(name) };
  if (shiftKey) return name === "g" || name === "b" ? { does: "set", mark: PRESSES.get(name) } : null;
  if (PRESSES.has(name)) return { does: "press", mark: PRESSES.get(name) };
  return OTHERS.has(name) ? { does: OTHERS.get(name) } : null;
}

/** The picture that a step leads to, of `count` in rows of `columns`: up and down stay in their column, at the edges too. */
export function stepped(current, to, columns, count) {
  const by = { left: -1, right: 1, up: -columns, down: columns }[to];
  const next = current + by;
  if (to === "left" || to === "right") return Math.min(Math.max(next, 0), count - 1);
  return next < 0 || next >= count ? current : next;
}
