// SPDX-License-Identifier: Apache-2.0
// Which session each Feedback Grid of the open workflow belongs to: nodes by their shape alone, no frontend.
//
// A session's name can be typed, but it can also come over a link or through a subgraph, where only a run knows it. So a
// name counts as typed only where nothing else can give it; for the rest the server's word stands: the session of the
// round that a grid's own run announced, kept across reloads.

const SESSION_NODE = "HERO_Session";
const KEPT = 200;

/** The node that an execution id such as "12:0:5" names, from the workflow's root down through subgraphs. */
export function nodeAt(root, executionId) {
  let graph = root;
  let node = null;
  for (const part of String(executionId).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The name that is typed into the HERO Session above a node, else into the only one there is; null where it is not. */
export function typedSession(node, root) {
  const above = [...upstream(node)].find((one) => one.comfyClass === SESSION_NODE);
  const sessions = above ? [above] : [...everyNode(root)].filter((one) => one.comfyClass === SESSION_NODE);
  const names = new Set(sessions.map((one) => typedName(one, root)));
  return names.size === 1 ? [...names][0] : null;
}

/** A node's place, the same after a reload: the workflow's `path` in the frontend (or its id), the subgraph and the node. */
export function placeOf(node, root, path) {
  const workflow = path ?? root?.id;
  return workflow ? `${workflow} ${node.graph === root ? "" : (node.graph?.id ?? "")} ${node.id}` : null;
}

/** Which session the server named for a grid at a place of a workflow, kept in the browser's storage. */
export class SessionMemory {
  constructor(storage, key = "hero.sessions") {
    this.storage = storage;
    this.key = key;
  }

  get(place) {
    return new Map(this.read()).get(place) ?? null;
  }

  set(place, session) {
    if (place === null || this.get(place) === session) return;
    const others = this.read().filter(([other]) => other !== place);
    try {
      this.storage.setItem(this.key, JSON.stringify([...others, [place, session]].slice(-KEPT)));
    } catch {
      // Without storage a reload forgets, and Submit asks the person to queue.
    }
  }

  read() {
    try {
      const kept = JSON.parse(this.storage.getItem(this.key) ?? "[]");
      return Array.isArray(kept) ? kept.filter((pair) => Array.isArray(pair) && pair.every((one) => typeof one === "string")) : [];
    } catch {
      return [];
    }
  }
}

function typedName(node, root) {
  const input = node.inputs?.find((one) => one.name === "name");
  if (node.graph !== root || input?.link != null) return null; // in a subgraph the widget may be promoted, and stale
  const value = node.widgets?.find((widget) => widget.name === "name")?.value;
  return typeof value === "string" ? value : null;
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
