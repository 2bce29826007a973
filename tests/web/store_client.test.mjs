// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { browser, json, page, Server, settled } from "./server.mjs";

let kept;
beforeEach(async () => {
  await settled(); // what the test before left to be sent goes where it belongs
  kept = browser();
});

test("a mark is sent at the revision that the server is at, one request at a time", async () => {
  const server = new Server();
  const model = await server.model();
  model.press(0, "bad");
  model.press(1, "bad");
  model.press(2, "best");
  assert.equal(model.unsaved, 3);
  await model.flush();
  assert.deepEqual(server.puts, [
    { rev: 0, labels: { 0: "bad" }, best: null },
    { rev: 1, labels: { 0: "bad", 1: "bad", 2: "good" }, best: 2 },
  ], "what was marked meanwhile travels together");
  assert.deepEqual([model.unsaved, model.info.rev, server.round.best], [0, 2, 2]);
});

test("another tab was faster: both tabs' marks stand, and the person is told", async () => {
  const server = new Server();
  const model = await server.model();
  server.mark({ 5: "bad" });
  model.press(0, "bad");
  await model.flush();
  assert.deepEqual(server.puts.map(({ rev }) => rev), [0, 1]);
  assert.deepEqual(server.round.labels, { 0: "bad", 5: "bad" });
  assert.match(model.notice, /another tab as well; both are kept/);
});

test("undo takes back this tab's last change, and never another tab's", async () => {
  const server = new Server();
  const model = await server.model();
  model.press(1, "good");
  model.press(2, "best");
  await model.flush();
  server.mark({ ...server.round.labels, 5: "bad" }, 2);
  await model.refresh();
  assert.equal(model.undo(), 2);
  await model.flush();
  assert.deepEqual([server.round.labels, server.round.best], [{ 1: "good", 5: "bad" }, null]);
  assert.equal(model.undo(), 1);
  await model.flush();
  assert.deepEqual(server.round.labels, { 5: "bad" });
  assert.deepEqual([model.canUndo, model.undo()], [false, null]);
});

test("undo of a new best leads to the picture that had been chosen", async () => {
  const model = await new Server(6, { labels: { 1: "good", 4: "good" }, best: 1 }).model();
  model.press(4, "best");
  assert.equal(model.undo(), 4);
  assert.equal(model.marks.best, 1);
});

test("put sets a mark and never takes it off", async () => {
  const model = await new Server().model();
  model.put(0, "good");
  model.put(0, "good");
  assert.deepEqual(model.marks.labels, { 0: "good" });
  model.put(0, "bad");
  assert.deepEqual(model.marks.labels, { 0: "bad" });
  assert.equal(model.undone.length, 2);
});

test("without a server marks wait, are tried again with growing pauses, and come through", async () => {
  const pauses = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = (run, milliseconds) => (pauses.push(milliseconds / 1000), setImmediate(run));
  try {
    const server = new Server();
    const model = await server.model();
    server.faults = Array.from({ length: 6 }, () => new TypeError("failed to fetch"));
    model.press(0, "bad");
    await settled();
    assert.deepEqual(pauses, [1, 2, 4, 8, 15, 15]);
    assert.deepEqual([model.offline, model.unsaved, server.round.labels], [false, 0, { 0: "bad" }]);
    server.faults = [new TypeError("failed to fetch")];
    model.press(1, "bad");
    await settled();
    assert.equal(pauses.at(-1), 1, "the next trouble begins small again");
  } finally {
    globalThis.setTimeout = real;
  }
});

test("back online they are tried at once", async () => {
  const server = new Server();
  const model = await server.model();
  server.faults = [new TypeError("failed to fetch")];
  model.press(0, "bad");
  await settled();
  assert.deepEqual([model.offline, model.trouble], [true, null]);
  dispatchEvent(new Event("online"));
  await model.flush();
  assert.deepEqual([model.offline, server.round.labels], [false, { 0: "bad" }]);
});

test("a full disk, a proxy's refusal and a log-in are told in words, and keep the marks", async () => {
  for (const [fault, words] of [
    [json(500, { error: "The disk refused (No space left on device)." }), "The disk refused (No space left on device)."],
    [json(403, { error: "Requests from other web pages are refused." }), "Requests from other web pages are refused."],
    [page(403), /proxy_set_header Host/],
    [page(401), /log in/],
    [page(502), "The server answered with status 502."],
    [page(200), null],
  ]) {
    const server = new Server();
    const model = await server.model();
    server.faults = [fault];
    model.press(3, "bad");
    await settled();
    if (words instanceof RegExp) assert.match(model.trouble, words);
    else assert.equal(model.trouble, words);
    assert.deepEqual([model.offline, model.unsaved, model.marks.labels], [true, 1, { 3: "bad" }]);
    model.wake();
    await model.flush();
    assert.deepEqual([model.trouble, server.round.labels], [null, { 3: "bad" }]);
  }
});

test("marks that the server will never take are taken off, with its sentence", async () => {
  const server = new Server();
  const model = await server.model();
  server.faults = [json(400, { error: "There are 6 pictures." })];
  model.press(3, "bad");
  await model.flush();
  assert.deepEqual([model.notice, model.marks.labels, model.unsaved], ["Not saved: There are 6 pictures.", {}, 0]);
});

test("marks that were not saved come back after a reload, on top of what others marked", async () => {
  const server = new Server();
  const model = await server.model();
  server.faults = [new TypeError("failed to fetch")];
  model.press(2, "best");
  await settled();
  assert.equal(kept.size, 1);
  server.mark({ 5: "bad" });
  const again = await server.model(); // another page: a client of its own
  assert.deepEqual(again.marks, { labels: { 2: "good", 5: "bad" }, best: 2 });
  await again.flush();
  assert.deepEqual([server.round.labels, server.round.best, kept.size], [{ 2: "good", 5: "bad" }, 2, 0]);
  model.wake();
  await model.flush();
  assert.deepEqual(server.round.labels, { 2: "good", 5: "bad" }, "and the page that hung says nothing else");
});

test("marks of pictures that are drawn anew do not come back", async () => {
  const server = new Server();
  const model = await server.model();
  server.faults = [new TypeError("failed to fetch")];
  model.press(2, "best");
  await settled();
  server.round.stamp = "b";
  assert.deepEqual((await server.model()).marks, { labels: {}, best: null });
  model.wake();
});

test("Submit waits for the marks, and a second time is no request", async () => {
  const server = new Server();
  const model = await server.model();
  model.press(0, "bad");
  assert.equal(await model.submit(), true);
  assert.deepEqual(server.asked.map(([method]) => method), ["GET", "PUT", "POST"]);
  assert.deepEqual(server.asked.at(-1)[2], { rev: 1 });
  assert.equal(await model.submit(), true);
  assert.equal(server.asked.length, 3);
  model.press(1, "bad");
  assert.deepEqual([model.unsaved, model.canUndo], [0, false], "closed for marks");
});

test("Submit with nothing rated asks nothing", async () => {
  const server = new Server();
  const model = await server.model();
  assert.equal(await model.submit(), false);
  assert.equal(server.asked.length, 1);
});

test("Submit after another tab's marks shows them first", async () => {
  const server = new Server(6, { labels: { 0: "bad" } });
  const model = await server.model();
  server.mark({ 0: "bad", 1: "bad" });
  assert.equal(await model.submit(), false);
  assert.deepEqual([model.notice, model.marks.labels], ["Not submitted: Others were faster.", { 0: "bad", 1: "bad" }]);
  assert.equal(await model.submit(), true);
});

test("Submit on unsaved marks that another tab's changed asks the person to look again", async () => {
  const server = new Server();
  const model = await server.model();
  server.mark({ 1: "bad" });
  model.press(0, "bad");
  assert.equal(await model.submit(), false);
  assert.deepEqual([server.round.submitted, model.marks.labels], [false, { 0: "bad", 1: "bad" }]);
});

test("Submit that fails says so, and the marks are safe", async () => {
  const server = new Server(6, { labels: { 0: "bad" } });
  const model = await server.model();
  server.faults = [json(500, { error: "The disk refused." })];
  assert.equal(await model.submit(), false);
  assert.equal(model.notice, "Not submitted: The disk refused. Your marks are safe: submit again.");
  assert.equal(await model.submit(), true);
});

test("submitted in another tab: what came too late is counted", async () => {
  const server = new Server(6, { labels: { 0: "bad" } });
  const model = await server.model();
  Object.assign(server.round, { submitted: true, rev: 1 });
  model.press(1, "bad");
  model.press(2, "bad");
  await model.flush();
  assert.deepEqual([model.submitted, model.marks.labels, kept.size], [true, { 0: "bad" }, 0]);
  assert.equal(model.notice, "Submitted in another tab: your last 2 marks came too late.");
});

test("old news changes nothing, and news that comes while sending is asked for afterwards", async () => {
  const server = new Server();
  const model = await server.model();
  const old = structuredClone(server.round);
  model.press(0, "bad");
  model.hear({ ...server.round, rev: 9, labels: { 5: "bad" } });
  assert.deepEqual(model.marks.labels, { 0: "bad" }, "not while its own marks are on the way");
  await model.flush();
  assert.equal(server.asked.at(-1)[0], "GET");
  await settled();
  model.hear(old);
  assert.deepEqual([model.info.rev, model.marks.labels], [1, { 0: "bad" }]);
});

test("what a run says of a round is heard without a new revision", async () => {
  const server = new Server();
  const client = server.client();
  const model = await client.round("rose.0001");
  let heard = 0;
  model.subscribe(() => heard++);
  model.hear(structuredClone(server.round));
  assert.equal(heard, 0, "no news");
  model.hear({ ...server.round, running: true, notes: ["No LoRA."] });
  assert.deepEqual([heard, model.info.running, model.info.notes], [1, true, ["No LoRA."]]);
  await client.announced({ ...server.round, running: undefined, stamp: undefined, rev: 0 });
  assert.equal(model.info.stamp, "a");
  assert.equal(await client.round("rose.0001"), model, "one model a round");
});

test("rounds that wait come newest first", async () => {
  const server = new Server();
  const client = server.client();
  const rounds = ["a", "c", "b"].map((stamp, i) => ({ ...server.round, id: `s${i}.0001`, stamp }));
  server.faults = [json(200, { rounds })];
  assert.deepEqual((await client.pending()).map(({ id }) => id), ["s1.0001", "s2.0001", "s0.0001"]);
});

test("pictures are asked for under the round's stamp", async () => {
  const model = await new Server().model();
  assert.equal(model.picture(3, "thumb"), "/hero/rounds/rose.0001/pictures/3?size=thumb&v=a");
});
