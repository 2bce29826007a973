// SPDX-License-Identifier: Apache-2.0
// What the tests use of node:assert/strict, for a browser.

class AssertionError extends Error {}

function assertThat(holds, ...shown) {
  if (!holds) throw new AssertionError(shown.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join(" | "));
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value === undefined ? "undefined" : value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, plain(value[key])]));
}

export default {
  ok: (value, message = "not true") => assertThat(value, message),
  equal: (actual, expected, message = "") => assertThat(Object.is(actual, expected), message, actual, expected),
  deepEqual: (actual, expected, message = "") =>
    assertThat(JSON.stringify(plain(actual)) === JSON.stringify(plain(expected)), message, actual, expected),
  match: (actual, pattern, message = "") => assertThat(pattern.test(actual), message, actual, String(pattern)),
  fail: (message) => assertThat(false, message),
};
