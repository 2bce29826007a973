// SPDX-License-Identifier: Apache-2.0
// Run (Instant) queues again whenever a run ends. With `resume` a run ends as soon as its round waits, so it would queue
// several runs a second that do nothing: it is held until the round is submitted.

/** What each way of being on becomes while it is held. Newer frontends keep it chosen, and call it idle. */
const HELD = { instant: "disabled", "instant-running": "instant-idle" };

export class InstantHold {
  /** @param {() => ({mode: string} | null | undefined)[]} switches where the frontend keeps the mode of its Run button */
  constructor(switches) {
    this.switches = switches;
    this.held = [];
    this.round = null;
  }

  /** Hold for the round of this id, which waits. Gives whether it is held for this one now. */
  hold(round) {
    for (const one of this.switches()) {
      if (!one || !Object.hasOwn(HELD, one.mode)) continue;
      this.held.push({ one, from: one.mode, to: HELD[one.mode] });
      one.mode = HELD[one.mode];
      this.round = round;
    }
    return this.round === round;
  }

  /** Switch on again what is still as it was held; what the person switched meanwhile stays. Gives whether any is on. */
  release() {
    const on = this.held.filter(({ one, to }) => one.mode === to);
    for (const { one, from } of on) one.mode = from;
    this.held = [];
    this.round = null;
    return on.length > 0;
  }
}
