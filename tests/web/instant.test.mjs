// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { InstantHold } from "../../web/instant.mjs";

test("Run (Instant) is off while a round waits and on again afterwards, by each frontend's word for it", () => {
  for (const [on, held] of [["instant", "disabled"], ["instant-running", "instant-idle"]]) {
    const menu = { mode: on };
    const hold = new InstantHold(() => [menu, null, undefined]);
    assert.equal(hold.hold("rose.0001"), true);
    assert.equal(menu.mode, held);
    assert.equal(hold.round, "rose.0001");
    assert.equal(hold.release(), true);
    assert.equal(menu.mode, on);
    assert.equal(hold.round, null);
  }
});

test("other modes are left alone", () => {
  for (const mode of ["disabled", "change", "instant-idle", "toString"]) {
    const menu = { mode };
    const hold = new InstantHold(() => [menu]);
    assert.equal(hold.hold("rose.0001"), false);
    assert.equal(hold.release(), false);
    assert.equal(menu.mode, mode);
  }
});

test("what the person switched meanwhile stays", () => {
  const menu = { mode: "instant" };
  const hold = new InstantHold(() => [menu]);
  hold.hold("rose.0001");
  menu.mode = "change";
  assert.equal(hold.release(), false);
  assert.equal(menu.mode, "change");
});

test("switched on again by hand, it is held again, and comes back once", () => {
  const menu = { mode: "instant" };
  const hold = new InstantHold(() => [menu]);
  hold.hold("rose.0001");
  menu.mode = "instant";
  hold.hold("rose.0001");
  assert.equal(menu.mode, "disabled");
  assert.equal(hold.release(), true);
  assert.equal(menu.mode, "instant");
});
