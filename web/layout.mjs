// SPDX-License-Identifier: Apache-2.0
// How large the pictures are shown, in CSS pixels.

export const TILE_MIN = 64;
export const TILE_MAX = 420;
const GAP = 8;
const ACTIONS = 34; // the row of buttons below a picture

/** The largest tile with which all of a round's pictures fit, within what can still be judged by eye. */
export function fittingTile(width, height, { n, width: w, height: h }) {
  const ratio = (h ?? 1) / (w ?? 1);
  let tile = TILE_MIN;
  for (let columns = 1; columns <= n; columns++) {
    const wide = (width - 2 * GAP - (columns - 1) * GAP) / columns;
    const high = ((height - GAP) / Math.ceil(n / columns) - ACTIONS - GAP) / ratio;
    tile = Math.max(tile, Math.floor(Math.min(wide, high)));
  }
  const smallest = width < 700 ? 80 : 96;
  return Math.min(Math.max(tile, smallest), 320, Math.max(smallest, 2.5 * (w ?? 128)));
}
