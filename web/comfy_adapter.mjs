// SPDX-License-Identifier: Apache-2.0
// Everything that touches ComfyUI's frontend is in this file.
//
// A round is known by its id, never by a node's: nodes are copied, moved into subgraphs and loaded again. A Feedback
// Grid node shows the round that its own run announced; after a reload, the waiting round of its session.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { loadStyle } from "./dom.mjs";
import { Grid } from "./grid.mjs";
import { Overlay } from "./overlay.mjs";
import { StoreClient } from "./store_client.mjs";

const GRID_NODE = "HERO_FeedbackGrid";
const SESSION_NODE = "HERO_Session";
const OPEN_SETTING = "Hero.OpenAutomatically";
const NODE_SIZE = [620, 760];
const GRID_MIN_HEIGHT = 340;

/** Tell ComfyUI of the extension. Called once, by hero.js. */
export function register() {
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
    const maker = this.running === null ? null : nodeAt(this.running);
    const model = await this.client.announced(info);
    const view = [...this.views].find((one) => one.node === maker);
    view?.attach(model);
    const fresh = !model.submitted && !this.waiting.includes(model);
    const over = model.submitted && this.waiting.includes(model);
    if (fresh || over) await this.refresh(); // a mark alone is known by now: no need to ask for every round
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

  /** After Submit: in `resume` the rest of the workflow is queued; in `wait` the run goes on by itself. */
  goOn(model) {
    this.refresh();
    if (model.info.mode !== "resume") return;
    const sessions = [...this.views].map((view) => sessionOf(view.node));
    if (sessions.some((name) => name === null || name === model.info.session)) {
      model.goesOn = true;
      model.emit();
      return void app.queuePrompt(0, 1);
    }
    this.tell(`Round ${model.info.round} of ${model.info.session} is submitted. Open its workflow and queue it to go on.`);
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

  /** The run of this node says which round it showed. */
  async executed(output) {
    const id = output?.hero_round?.[0];
    if (typeof id === "string") this.attach(await this.extension.client.round(id));
  }

  attach(model) {
    this.grid.show(model);
  }

  /** Without a round of its own, or done with it, the node shows what waits for its session. */
  follow(waiting) {
    const session = sessionOf(this.node);
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

/** The node that an execution id such as "12:0:5" names, from the workflow's root down through subgraphs. */
function nodeAt(executionId) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(executionId).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The session that a grid node belongs to: that of the HERO Session above it, else the workflow's only one, else null. */
function sessionOf(node) {
  const above = [...upstream(node)].find((one) => one.comfyClass === SESSION_NODE);
  if (above) return sessionName(above);
  const names = new Set([...everyNode(app.rootGraph ?? app.graph)].filter((one) => one.comfyClass === SESSION_NODE).map(sessionName));
  return names.size === 1 ? [...names][0] : null;
}

function sessionName(node) {
  return node.widgets?.find((widget) => widget.name === "name")?.value ?? null;
}

function* upstream(node, seen = new Set()) {
  for (const input of node.inputs ?? []) {
    const link = input.link == null ? null : (node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link]);
    const origin = link && node.graph.getNodeById(link.origin_id);
    if (!origin || seen.has(origin)) continue;
    seen.add(origin);
    yield origin;
    yield* upstream(origin, seen);
  }
}

function* everyNode(graph, seen = new Set()) {
  if (!graph || seen.has(graph)) return;
  seen.add(graph);
  for (const node of graph.nodes ?? graph._nodes ?? []) {
    yield node;
    yield* everyNode(node.subgraph, seen);
  }
}
