// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { nodeAt, placeOf, SessionMemory, typedSession } from "../../web/workflow.mjs";

/** A graph of nodes given as {id: {kind, from: [ids], …}}; links are numbered by their origin's id. */
function graph(nodes, id = "root") {
  const made = { id, nodes: [], getNodeById: (key) => made.nodes.find((node) => node.id === key) };
  made.getLink = (link) => ({ origin_id: link });
  for (const [key, { kind, from = [], name, named = null, subgraph }] of Object.entries(nodes)) {
    const inputs = from.map((origin) => ({ name: "x", link: Number(origin) }));
    if (kind === "HERO_Session") inputs.push({ name: "name", link: named });
    const widgets = name === undefined ? [] : [{ name: "name", value: name }];
    made.nodes.push({ id: Number(key), comfyClass: kind, inputs, widgets, graph: made, subgraph });
  }
  return made;
}
const sessionOf = (root, id) => typedSession(root.getNodeById(id), root);

test("a grid belongs to the session above it, over any nodes between", () => {
  const root = graph({
    1: { kind: "HERO_Session", name: "a" }, 2: { kind: "HERO_Session", name: "b" },
    3: { kind: "HERO_Sampler", from: [1] }, 4: { kind: "HERO_FeedbackGrid", from: [9, 3] }, 5: { kind: "HERO_FeedbackGrid", from: [2] },
  });
  assert.deepEqual([sessionOf(root, 4), sessionOf(root, 5)], ["a", "b"]);
});

test("where none is above, the only one counts, and of several none", () => {
  assert.equal(sessionOf(graph({ 1: { kind: "HERO_Session", name: "a" }, 2: { kind: "HERO_FeedbackGrid" } }), 2), "a");
  const several = { 1: { kind: "HERO_Session", name: "a" }, 3: { kind: "HERO_Session", name: "b" }, 2: { kind: "HERO_FeedbackGrid" } };
  assert.equal(sessionOf(graph(several), 2), null);
});

test("a name that comes over a link is not the one in the widget", () => {
  assert.equal(sessionOf(graph({ 1: { kind: "HERO_Session", name: "stale", named: 7 }, 2: { kind: "HERO_FeedbackGrid", from: [1] } }), 2), null);
});

test("a name in a subgraph may be promoted, and its own widget stale", () => {
  const inner = graph({ 1: { kind: "HERO_Session", name: "stale" }, 4: { kind: "HERO_FeedbackGrid", from: [1] } }, "inner");
  const root = graph({ 8: { kind: "inner", subgraph: inner }, 2: { kind: "HERO_FeedbackGrid" } });
  assert.equal(sessionOf(root, 2), null);
  assert.equal(typedSession(inner.getNodeById(4), root), null);
});

test("rings of links and of subgraphs end", () => {
  const root = graph({ 1: { kind: "a", from: [2] }, 2: { kind: "HERO_FeedbackGrid", from: [1] } });
  root.nodes[0].subgraph = root;
  assert.equal(sessionOf(root, 2), null);
});

test("an execution id leads down through subgraphs", () => {
  const inner = graph({ 5: { kind: "HERO_FeedbackGrid" } }, "inner");
  const root = graph({ 12: { kind: "inner", subgraph: inner } });
  assert.equal(nodeAt(root, "12:5"), inner.nodes[0]);
  assert.equal(nodeAt(root, 12), root.nodes[0]);
  assert.equal(nodeAt(root, "12:6"), null);
  assert.equal(nodeAt(root, "3:5:1"), null);
});

test("a place is the same after a reload, in which ids of workflows may change", () => {
  const inner = graph({ 5: { kind: "HERO_FeedbackGrid" } }, "inner");
  const root = graph({ 5: { kind: "HERO_FeedbackGrid" } });
  assert.equal(placeOf(root.nodes[0], root, "workflows/rose.json"), "workflows/rose.json  5");
  assert.equal(placeOf(inner.nodes[0], root, "workflows/rose.json"), "workflows/rose.json inner 5");
  assert.equal(placeOf(root.nodes[0], root, undefined), "root  5");
  assert.equal(placeOf(root.nodes[0], { nodes: [] }, undefined), null);
});

function storage(kept = null) {
  return { kept, getItem() { return this.kept; }, setItem(key, value) { this.kept = value; } };
}

test("what the server told of a place is remembered, the newest of 200", () => {
  const memory = new SessionMemory(storage());
  for (let i = 0; i < 205; i++) memory.set(`place ${i}`, `session_${i}`);
  memory.set("place 100", "another");
  memory.set(null, "nowhere");
  assert.deepEqual([memory.get("place 4"), memory.get("place 204"), memory.get("place 100")], [null, "session_204", "another"]);
  assert.equal(new SessionMemory(memory.storage).get("place 204"), "session_204", "by the next page too");
});

test("a storage that is damaged, full or forbidden loses the memory and nothing else", () => {
  for (const kept of ["{", "7", '[["a"], 3, ["place", 4], null]', "null"]) {
    const memory = new SessionMemory(storage(kept));
    assert.equal(memory.get("place"), null, kept);
    memory.set("place", "rose");
    assert.equal(memory.get("place"), "rose", kept);
  }
  const refuses = () => { throw new Error("QuotaExceededError"); };
  const memory = new SessionMemory({ getItem: refuses, setItem: refuses });
  memory.set("place", "rose");
  assert.equal(memory.get("place"), null);
});
