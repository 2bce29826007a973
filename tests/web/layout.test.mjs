// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { fittingTile } from "../../web/layout.mjs";

const tile = (width, height, n, w = 512, h = 512) => fittingTile(width, height, { n, width: w, height: h });

test("a round is seen at once where its pictures are then large enough to judge", () => {
  const shown = tile(1400, 800, 16);
  const columns = Math.floor((1400 - 8) / (shown + 8));
  assert.ok(Math.ceil(16 / columns) * (shown + 34 + 8) + 8 <= 800, `${shown} px`);
  assert.ok(shown > 140);
});

test("never smaller than can be judged, nor larger than the picture bears", () => {
  assert.equal(tile(1400, 800, 256), 96);
  assert.equal(tile(600, 400, 64), 80);
  assert.equal(tile(3000, 2000, 1), 320);
  assert.equal(tile(3000, 2000, 1, 64, 64), 160, "two and a half times its own size");
  assert.ok(tile(1400, 800, 6, 512, 1024) < tile(1400, 800, 6, 1024, 512), "tall ones are narrower");
});
