// SPDX-License-Identifier: Apache-2.0
// The extension's entry: ComfyUI imports every .js below this folder, so this is the only one.
//
// The modules come from /api/hero/static, which always revalidates: after an update of the pack no browser mixes old
// modules with new ones. Where that route is missing they come from beside this file. Behind a proxy's prefix the two
// lie at different depths, so this file alone imports the frontend, and hands it on.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

async function load() {
  try {
    return await import(new URL(api.apiURL("/hero/static/comfy_adapter.mjs"), location.href).href);
  } catch (error) {
    console.warn("HERO: loading the modules from beside hero.js instead.", error);
    return import(new URL("comfy_adapter.mjs", import.meta.url).href);
  }
}

// Awaited, so that ComfyUI knows the extension before it makes the first node.
(await load()).register(app, api);
