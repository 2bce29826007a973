// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";

import { footWords, notesOf, savedState, submitText } from "../../web/words.mjs";

function model({ info = {}, ...rest } = {}) {
  return {
    info: { mode: "resume", status: "sampled", running: false, notes: [], ...info },
    unsaved: 0, submitted: false, offline: false, trouble: null, notice: null, problems: [], told: [], ...rest,
  };
}
const after = (info, rest = {}) => footWords(model({ info: { status: "rated", ...info }, submitted: true, ...rest })).text;

test("the workflow goes on only where a run waited or was queued", () => {
  const goesOn = "Thank you. The workflow goes on.";
  const queueIt = "Thank you. Queue the workflow to go on.";
  assert.equal(after({ mode: "wait", running: true }), goesOn);
  assert.equal(after({ mode: "wait", running: false }), queueIt, "cancelled, or the server was started again");
  assert.equal(after({ mode: "resume" }), queueIt);
  assert.equal(after({ mode: "resume" }, { queueing: true }), "Thank you. Queueing the workflow …");
  assert.equal(after({ mode: "resume" }, { goesOn: true }), goesOn);
  assert.equal(after({ mode: "wait", status: "saved" }), "This round is saved. Queue the workflow for the next one.");
  assert.equal(after({ mode: "standalone" }), "Thank you. The next round appears here.");
});

test("the server's own sentence is what stands there, and not that one is offline", () => {
  const full = "The disk refused (No space left on device). Free space or mend its rights, then try again.";
  const stuck = model({ offline: true, trouble: full, unsaved: 2, problems: ["Pick the best."] });
  assert.deepEqual(footWords(stuck), { text: full, urgent: true });
  assert.deepEqual(savedState(stuck), { state: "offline", text: "2 marks not saved yet: trying again" });
  const alone = model({ offline: true, unsaved: 1, problems: ["Pick the best."] });
  assert.deepEqual(footWords(alone), { text: "Pick the best.", urgent: false });
  assert.equal(savedState(alone).text, "Offline, 1 mark not saved yet: retrying");
});

test("saved, saving, submitted", () => {
  assert.deepEqual(savedState(model()), { state: "saved", text: "Saved" });
  assert.deepEqual(savedState(model({ sending: Promise.resolve() })), { state: "saving", text: "Saving …" });
  assert.deepEqual(savedState(model({ submitted: true, offline: true })), { state: "saved", text: "Submitted" });
  assert.equal(footWords(model({ notice: "Updated.", problems: ["No."] })).text, "Updated.");
  assert.deepEqual([{}, { submitting: true }, { submitted: true }].map((one) => submitText(model(one))), ["Submit marks", "Submitting …", "Submitted"]);
});

test("notes of the server and of the run are shown once each, until the round is saved", () => {
  const noted = { info: { notes: ["No LoRA."] }, told: ["No LoRA.", "No mixture."] };
  assert.deepEqual(notesOf(model(noted)), ["No LoRA.", "No mixture."]);
  assert.deepEqual(notesOf(model({ ...noted, info: { ...noted.info, status: "saved" } })), []);
  assert.match(notesOf(model({ held: true }))[0], /^Run \(Instant\) is held/);
  assert.deepEqual(notesOf(model({ held: true, submitted: true })), []);
});
