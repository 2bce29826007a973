// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { meaning, stepped } from "../../web/keys.mjs";

const key = (name, held = {}) => meaning({ key: name, ...held });
const shift = { shiftKey: true };

test("letters mark, in both cases", () => {
  for (const [name, mark] of [["g", "good"], ["b", "bad"], ["s", "best"], ["x", null], ["Delete", null], ["Backspace", null]]) {
    assert.deepEqual(key(name), { does: "press", mark }, name);
  }
  assert.deepEqual(key("G"), { does: "press", mark: "good" }, "with Caps Lock");
});

test("with Shift a mark is set and the next picture comes; no other letter does anything", () => {
  assert.deepEqual(key("G", shift), { does: "set", mark: "good" });
  assert.deepEqual(key("b", shift), { does: "set", mark: "bad" });
  for (const name of ["S", "X", "K", "U", "Z", "Delete", "Home"]) assert.equal(key(name, shift), null, name);
});

test("chords: only Ctrl or Cmd with Enter and Z; with Alt, and for the host's own, nothing", () => {
  for (const held of [{ ctrlKey: true }, { metaKey: true }]) {
    assert.deepEqual(key("Enter", held), { does: "submit" });
    assert.deepEqual(key("z", held), { does: "undo" });
    for (const name of ["g", "b", "s", "Delete", "ArrowLeft", "Escape"]) assert.equal(key(name, held), null, name);
    assert.equal(key("Enter", { ...held, shiftKey: true }), null, "queues at the front, in ComfyUI");
    assert.equal(key("z", { ...held, ...shift }), null);
  }
  assert.equal(key("g", { altKey: true }), null);
  assert.equal(key("Enter"), null);
});

test("the rest", () => {
  assert.deepEqual(["Escape", "Home", "End", "k", "u", "z"].map((name) => key(name).does), ["escape", "first", "last", "keep", "undo", "zoom"]);
  assert.deepEqual(key("ArrowUp"), { does: "step", to: "up" });
  assert.deepEqual(key("ArrowUp", shift), { does: "step", to: "up" });
  for (const name of ["constructor", "toString", "h", "r", "Tab", " ", "F1"]) assert.equal(key(name), null, name);
});

test("steps: left and right stop at the ends, up and down stay in their column", () => {
  const step = (from, to) => stepped(from, to, 4, 10); // rows of 4, 4 and 2
  assert.deepEqual([step(0, "left"), step(9, "right"), step(3, "right"), step(4, "left")], [0, 9, 4, 3]);
  assert.deepEqual([step(1, "up"), step(5, "up"), step(5, "down"), step(6, "down"), step(9, "down")], [1, 1, 9, 6, 9]);
});
