// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import * as rules from "../../web/rules.mjs";

const marks = (labels = {}, best = null) => ({ labels, best });

test("a mark that is pressed again comes off", () => {
  assert.deepEqual(rules.pressed(marks(), 2, "bad"), marks({ 2: "bad" }));
  assert.deepEqual(rules.pressed(marks({ 2: "bad" }), 2, "bad"), marks());
  assert.deepEqual(rules.pressed(marks({ 2: "bad" }), 2, "good"), marks({ 2: "good" }));
});

test("the best is good, and one alone", () => {
  assert.deepEqual(rules.pressed(marks({ 1: "bad" }), 1, "best"), marks({ 1: "good" }, 1));
  assert.deepEqual(rules.pressed(marks({ 1: "good" }, 1), 3, "best"), marks({ 1: "good", 3: "good" }, 3));
  assert.deepEqual(rules.pressed(marks({ 1: "good" }, 1), 1, "best"), marks({ 1: "good" }));
  assert.deepEqual(rules.pressed(marks({ 1: "good" }, "keep"), 1, "best"), marks({ 1: "good" }, 1));
});

test("a best that is pressed good stays good, one that is marked bad or taken off is no best", () => {
  assert.deepEqual(rules.pressed(marks({ 1: "good" }, 1), 1, "good"), marks({ 1: "good" }));
  assert.deepEqual(rules.withLabel(marks({ 1: "good" }, 1), 1, "bad"), marks({ 1: "bad" }));
  assert.deepEqual(rules.withLabel(marks({ 1: "good" }, 1), 1, null), marks());
  assert.deepEqual(rules.withLabel(marks({ 1: "good" }, 1), 2, null), marks({ 1: "good" }, 1));
});

test("marks are never changed in place", () => {
  const before = Object.freeze(marks(Object.freeze({ 1: "good" }), 1));
  rules.pressed(before, 1, "bad");
  rules.withRestBad(before, 3);
  assert.deepEqual(rules.withRestBad(before, 3), marks({ 0: "bad", 1: "good", 2: "bad" }, 1));
});

test("counts", () => {
  assert.deepEqual(rules.counts(marks({ 0: "good", 1: "bad", 5: "bad" }), 6), { good: 1, bad: 2, unrated: 3 });
});

test("what is missing before Submit", () => {
  assert.deepEqual(rules.problems(marks({ 0: "bad" }), false), []);
  assert.deepEqual(rules.problems(marks({ 0: "good" }, 0), false), []);
  assert.match(rules.problems(marks(), false)[0], /^Nothing is rated yet/);
  assert.equal(rules.problems(marks({ 0: "good" }), true)[0], "Pick the best of the good pictures, or keep the old best.");
  assert.match(rules.problems(marks({ 0: "bad" }, "keep"), false)[0], /^There is no old best to keep/);
});

test("a changed best is one difference, and counts where the new one is", () => {
  assert.deepEqual(rules.differences(marks({ 1: "good" }, 1), marks({ 1: "good", 4: "good" }, 4)), [4]);
  assert.deepEqual(rules.differences(marks({ 1: "good" }, 1), marks({ 1: "good" })), [1]);
  assert.deepEqual(rules.differences(marks({ 1: "good" }), marks({ 1: "good" }, "keep")), ["keep"]);
  assert.ok(rules.same(marks({ 1: "good" }, 1), { best: 1, labels: { 1: "good" } }));
});

test("of two tabs' marks each keeps what it changed, and mine win on one picture", () => {
  const base = marks({ 5: "bad" });
  const both = (mine, theirs) => rules.merged(base, mine, theirs);
  assert.deepEqual(both(marks({ 0: "good", 5: "bad" }), marks({ 1: "bad" })), marks({ 0: "good", 1: "bad" }));
  assert.deepEqual(both(marks(), marks({ 5: "bad", 7: "good" }, 7)), marks({ 7: "good" }, 7));
  assert.deepEqual(both(marks({ 2: "good", 5: "bad" }, 2), marks({ 5: "bad", 7: "good" }, 7)), marks({ 2: "good", 5: "bad", 7: "good" }, 2));
  assert.deepEqual(both(marks({ 5: "bad" }, "keep"), marks({ 5: "good" }, 5)), marks({ 5: "good" }, "keep"));
  assert.deepEqual(both(marks({ 5: "good" }, 5), marks({ 5: "bad" })), marks({ 5: "good" }, 5));
  assert.deepEqual(both(marks({ 5: "bad", 7: "bad" }), marks({ 5: "bad", 7: "good" }, 7)), marks({ 5: "bad", 7: "bad" }));
});
