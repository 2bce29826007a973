// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { read, Refused, Unreachable } from "../../web/answers.mjs";

test("a good answer is its JSON", () => {
  assert.deepEqual(read(200, { rev: 1 }), { rev: 1 });
});

test("our refusals stand: the same request would be refused again", () => {
  for (const status of [400, 404, 405, 409, 413, 415]) {
    const caught = (() => { try { read(status, { error: "So not.", current: { rev: 3 } }); } catch (error) { return error; } })();
    assert.ok(caught instanceof Refused, status);
    assert.deepEqual([caught.message, caught.status, caught.current], ["So not.", status, { rev: 3 }]);
  }
});

test("all else is tried again, with the server's sentence, or with ours where a proxy gave none", () => {
  const sentence = (status, data) => {
    try { read(status, data); } catch (error) { assert.ok(error instanceof Unreachable, status); return error.sentence; }
    return assert.fail("no error");
  };
  assert.equal(sentence(500, { error: "The disk refused." }), "The disk refused.");
  assert.equal(sentence(408, { error: "Too slow." }), "Too slow.");
  assert.equal(sentence(403, { error: "Requests from other web pages are refused." }), "Requests from other web pages are refused.");
  assert.match(sentence(403, undefined), /proxy_set_header Host \$http_host/);
  assert.match(sentence(401, undefined), /log in/);
  assert.match(sentence(413, undefined), /client_max_body_size/);
  assert.equal(sentence(502, undefined), "The server answered with status 502.");
  assert.equal(sentence(404, undefined), "The server answered with status 404.");
  assert.equal(sentence(200, undefined), null, "a page of a log-in in place of JSON");
  assert.equal(new Unreachable().message, "The server cannot be reached.");
});
