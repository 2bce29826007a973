// SPDX-License-Identifier: Apache-2.0
// What the tests use of node:test, for a browser: they run one after the other, and `finished` tells how they ended.

const tests = [];
let before = () => {};

export function test(name, run) {
  tests.push({ name, run });
}

export function beforeEach(run) {
  before = run;
}

globalThis.setImmediate ??= (run) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => (port1.close(), run());
  port2.postMessage(null);
};

/** Import a file of tests and run them; gives how many there were, and what failed. */
export async function finished(file) {
  await import(file);
  const failed = [];
  for (const { name, run } of tests) {
    try {
      await before();
      await run();
    } catch (error) {
      failed.push(`${name}: ${error.stack ?? error}`);
    }
  }
  return { count: tests.length, failed };
}
