// SPDX-License-Identifier: Apache-2.0
// The words below the pictures: whether marks are saved, what is missing, and what happens after Submit.

/** Whether the marks are on the server: `state` saved, saving or offline, and `text`. */
export function savedState(model) {
  const { unsaved } = model;
  if (model.submitted) return { state: "saved", text: "Submitted" };
  if (model.offline) {
    const marks = unsaved === 1 ? "1 mark" : `${unsaved} marks`;
    const text = model.trouble ? `${marks} not saved yet: trying again` : `Offline, ${marks} not saved yet: retrying`;
    return { state: "offline", text };
  }
  return unsaved || model.sending ? { state: "saving", text: "Saving …" } : { state: "saved", text: "Saved" };
}

/** The sentence beside Submit, and whether it asks for attention. */
export function footWords(model) {
  if (model.offline && model.trouble) return { text: model.trouble, urgent: true };
  if (model.notice) return { text: model.notice, urgent: true };
  return { text: model.submitted ? thanks(model) : (model.problems[0] ?? ""), urgent: false };
}

/** What happens after Submit: only what the server, or the host that queued, says of the run. */
function thanks({ info, queueing, goesOn }) {
  if (info.mode === "standalone") return "Thank you. The next round appears here.";
  if (info.status === "saved") return "This round is saved. Queue the workflow for the next one.";
  if (queueing) return "Thank you. Queueing the workflow …";
  return info.running || goesOn ? "Thank you. The workflow goes on." : "Thank you. Queue the workflow to go on.";
}

/** What stands on the Submit button. */
export function submitText(model) {
  if (model.submitted) return "Submitted";
  return model.submitting ? "Submitting …" : "Submit marks";
}

/** What the rater should know of a round that is not saved, a sentence each. */
export function notesOf(model) {
  if (model.info.status === "saved") return [];
  const held = model.held && !model.submitted ? ["Run (Instant) is held while this round waits. Submit goes on with it."] : [];
  return [...new Set([...(model.info.notes ?? []), ...model.told, ...held])];
}
