// SPDX-License-Identifier: Apache-2.0
// Everything that touches ComfyUI's frontend is in this file.
//
// A round is known by its id, never by a node's: nodes are copied, moved into subgraphs and loaded again. A Feedback
// Grid node shows the round that its own run announced; after a reload, the waiting round of its session.

import { loadStyle } from "./dom.mjs";
import { Grid } from "./grid.mjs";
import { InstantHold } from "./instant.mjs";
import { Overlay } from "./overlay.mjs";
import { StoreClient } from "./store_client.mjs";
import { nodeAt, placeOf, SessionMemory, typedSession } from "./workflow.mjs";

const GRID_NODE = "HERO_FeedbackGrid";
const OPEN_SETTING = "Hero.OpenAutomatically";
const NODE_SIZE = [620, 760];
const GRID_MIN_HEIGHT = 340;

let app, api; // the frontend's own, which only hero.js can import: its address is known relative to that file alone

/** Tell ComfyUI of the extension. Called once, by hero.js. */
export function register(comfyApp, comfyApi) {
  [app, api] = [comfyApp, comfyApi];
  loadStyle();
  const extension = new Extension();
  app.registerExtension({
    name: "hero.feedback",
    commands: extension.commands(),
    keybindings: [{ commandId: "Hero.ToggleGrid", combo: { key: "h", shift: true } }],
    menuCommands: [{ path: ["Extensions", "HERO"], commands: ["Hero.ToggleGrid", "Hero.OpenRatingPage"] }],
    settings: [
      {
        id: OPEN_SETTING,
        category: ["HERO", "Feedback Grid", "Open"],
        name: "Open the Feedback Grid full screen when a round waits",
        type: "boolean",
        defaultValue: false,
      },
    ],
    setup: () => extension.start(),
    nodeCreated: (node) => node.comfyClass === GRID_NODE && extension.adopt(node),
  });
}

class Extension {
  constructor() {
    this.client = new StoreClient(
      (path, init) => api.fetchApi(path, init),
      (path) => api.apiURL(path),
    );
    this.views = new Set();
    this.waiting = [];
    this.running = null;
    this.instant = new InstantHold(runModes);
    this.memory = new SessionMemory(localStorage);
    this.overlay = new Overlay({ submitted: (model) => this.goOn(model), picked: (id) => this.pick(id) });
  }

  commands() {
    return [
      { id: "Hero.ToggleGrid", label: "HERO: show or minimise the Feedback Grid", icon: "pi pi-th-large", function: () => this.overlay.toggle() },
      { id: "Hero.Submit", label: "HERO: submit the marks", icon: "pi pi-send", function: () => this.overlay.grid.submit() },
      { id: "Hero.Undo", label: "HERO: undo the last mark", icon: "pi pi-undo", function: () => this.overlay.grid.undo() },
      { id: "Hero.OpenRatingPage", label: "HERO: open the rating page in a tab", icon: "pi pi-external-link", function: () => globalThis.open(api.apiURL("/hero/"), "_blank", "noopener") },
    ];
  }

  start() {
    api.addEventListener("executing", (event) => (this.running = event.detail ?? null));
    api.addEventListener("hero.round", (event) => this.announced(event.detail));
    api.addEventListener("reconnected", () => this.refresh());
    api.addEventListener("status", (event) => event.detail?.exec_info?.queue_remaining === 0 && this.ended());
    globalThis.addEventListener("focus", () => this.refresh());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    this.refresh();
  }

  /** Ask which rounds wait, and show them. A second call while one runs asks once more afterwards. */
  async refresh() {
    if (this.asking) return void (this.askAgain = true);
    this.asking = true;
    try {
      do {
        this.askAgain = false;
        this.waiting = await this.client.pending();
        await Promise.all([...this.shownModels()].filter((model) => !this.waiting.includes(model)).map((model) => model.refresh()));
        this.spread();
      } while (this.askAgain);
    } catch (error) {
      console.warn("HERO: the waiting rounds could not be asked for.", error);
    } finally {
      this.asking = false;
    }
  }

  /** The server says that a round waits or changed; the grid node that runs just now is the one that made it. */
  async announced(info) {
    const maker = this.running === null ? null : nodeAt(root(), this.running);
    const view = [...this.views].find((one) => one.node === maker);
    if (view && endsHere(info)) this.instant.hold(info.id); // at once: the run is over in a moment
    const model = await this.client.announced(info);
    view?.attach(model);
    const fresh = !model.submitted && !this.waiting.includes(model);
    const over = model.submitted && this.waiting.includes(model);
    if (fresh || over) await this.refresh(); // a mark alone is known by now: no need to ask for every round
    if (model.submitted && this.instant.round === model.id) this.goOn(model); // submitted elsewhere, as on a phone
    if (fresh && !this.overlay.isOpen && app.extensionManager?.setting?.get(OPEN_SETTING)) this.overlay.open(model);
  }

  /** Give a Feedback Grid node its grid. */
  adopt(node) {
    const view = new NodeView(node, this);
    this.views.add(view);
    clearTimeout(this.adopting);
    this.adopting = setTimeout(() => this.refresh(), 50); // once the workflow's links are there
  }

  release(view) {
    this.views.delete(view);
  }

  spread() {
    for (const view of this.views) view.follow(this.waiting);
    this.overlay.follow(this.waiting);
  }

  *shownModels() {
    for (const view of this.views) if (view.grid.model) yield view.grid.model;
    if (this.overlay.model) yield this.overlay.model;
  }

  async pick(id) {
    this.overlay.open(await this.client.round(id));
    this.overlay.grid.offer(this.waiting);
  }

  /** No run is left: what one was to go on with is done, or is not done. */
  ended() {
    for (const model of this.shownModels()) if (model.goesOn) model.hostSays({ goesOn: false });
    this.refresh();
  }

  /** A round waits whose run ends there: Run (Instant) would only come back to it again and again. */
  hold(model) {
    if (endsHere(model.info) && this.instant.hold(model.id)) model.hostSays({ held: true });
  }

  /** After Submit: where no run waits for the marks, the workflow of the round is queued, if it is the open one. */
  async goOn(model) {
    if (model.queueing || model.goesOn) return;
    if (this.instant.round === model.id) this.instant.release();
    model.held = false;
    if (model.info.running || model.info.mode === "standalone") return void this.refresh();
    if (![...this.views].some((view) => view.session === model.info.session)) {
      this.tell(`Round ${model.info.round} of ${model.info.session} is submitted. Open its workflow and queue it to go on.`);
      return void this.refresh();
    }
    model.hostSays({ queueing: true });
    model.hostSays({ goesOn: await queued(), queueing: false });
    this.refresh();
  }

  tell(detail) {
    app.extensionManager?.toast?.add({ severity: "info", summary: "HERO", detail, life: 8000 });
  }
}

/** The grid inside one node. */
class NodeView {
  constructor(node, extension) {
    this.node = node;
    this.extension = extension;
    this.grid = new Grid({
      place: "node",
      tools: [{ icon: "expand", title: "Full screen (Shift + H)", run: () => extension.overlay.open(this.grid.model ?? undefined) }],
      escape: () => document.activeElement?.blur(),
      submitted: (model) => extension.goOn(model),
      picked: (id) => this.pick(id),
    });
    const widget = node.addDOMWidget("hero_grid", "HERO_GRID", this.grid.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => GRID_MIN_HEIGHT,
      getValue: () => "",
      setValue: () => {},
    });
    widget.serialize = false;
    node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])]);
    chain(node, "onExecuted", (output) => this.executed(output));
    chain(node, "onRemoved", () => this.remove());
  }

  get place() {
    return placeOf(this.node, root(), app.extensionManager?.workflow?.activeWorkflow?.path);
  }

  /** The session that this grid belongs to; null where neither the workflow nor the server has told. */
  get session() {
    return typedSession(this.node, root()) ?? this.told ?? this.extension.memory.get(this.place);
  }

  /** The run of this node says which round it showed, and what the rater should know of it. */
  async executed(output) {
    const id = output?.hero_round?.[0];
    if (typeof id !== "string") return;
    const { client } = this.extension;
    const model = client.models.get(id) ?? (await client.round(id));
    const notes = output.hero_note ?? [];
    if (String(notes) !== String(model.told)) model.hostSays({ told: notes.map(String) });
    this.attach(model);
    this.extension.hold(model);
  }

  attach(model) {
    this.told = model.info.session;
    this.extension.memory.set(this.place, this.told);
    this.grid.show(model);
  }

  /** Without a round of its own, or done with it, the node shows what waits for its session. */
  follow(waiting) {
    const { session } = this;
    const ours = waiting.filter((model) => session === null || model.info.session === session);
    const { model } = this.grid;
    if (!model || model.submitted) {
      const next = ours.find((one) => one !== model);
      if (next) this.grid.show(next);
    }
    this.grid.offer(waiting);
  }

  async pick(id) {
    this.grid.show(await this.extension.client.round(id));
    this.grid.offer(this.extension.waiting);
  }

  remove() {
    this.extension.release(this);
    this.grid.destroy();
  }
}

/** Run `after` whenever a node's own callback has run; only this one node changes. */
function chain(node, name, after) {
  const before = node[name];
  node[name] = function (...values) {
    const result = before?.apply(this, values);
    after(...values);
    return result;
  };
}

/** Whether a run that comes to this round ends at its grid. */
function endsHere({ mode, submitted }) {
  return mode === "resume" && !submitted;
}

function root() {
  return app.rootGraph ?? app.graph;
}

/** Queue the open workflow. Resolves to whether the server has taken it, which is not what `queuePrompt` gives. */
async function queued() {
  let told = null;
  const listen = (event) => (told = event.detail ?? {});
  api.addEventListener("promptQueued", listen);
  try {
    await app.queuePrompt(0, 1);
  } catch (error) {
    console.warn("HERO: the workflow could not be queued.", error);
    return false;
  } finally {
    api.removeEventListener("promptQueued", listen);
  }
  if (told === null || "requestId" in told) return told !== null; // newer frontends tell only of what was taken
  const faults = app.lastNodeErrors; // older ones tell in any case, and have an empty object here where it was
  return faults != null && Object.keys(faults).length === 0;
}

/** Where the frontend keeps what its Run button does: in the menu of today, and in the one before it. */
function runModes() {
  return [app.extensionManager?.queueSettings, app.ui?.autoQueueEnabled === undefined ? null : LEGACY_MENU];
}

const LEGACY_MENU = {
  get mode() {
    return app.ui.autoQueueEnabled ? app.ui.autoQueueMode : "disabled";
  },
  set mode(mode) {
    app.ui.autoQueueEnabled = mode !== "disabled";
    const box = document.getElementById("autoQueueCheckbox");
    if (box) box.checked = app.ui.autoQueueEnabled;
  },
};
