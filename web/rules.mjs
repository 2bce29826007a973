// SPDX-License-Identifier: Apache-2.0
// The rules of marks, as pure functions: what hero_core/feedback.py checks, said while the person clicks.
//
// Marks are {labels: {"0": "good", "5": "bad"}, best: 0 | "keep" | null}; a picture without a label is unrated.
// The best is always good.

export const KEEP = "keep";

/** Marks as they stand in a round's JSON. */
export function marksOf(round) {
  return { labels: { ...round.labels }, best: round.best ?? null };
}

/** Marks with picture `index` labelled "good", "bad" or null (unrated); a best that stops being good is no best. */
export function withLabel(marks, index, label) {
  const labels = { ...marks.labels };
  if (label) labels[index] = label;
  else delete labels[index];
  const best = marks.best === index && label !== "good" ? null : marks.best;
  return { labels, best };
}

/** Marks with `best` a picture (which becomes good), "keep" or null. */
export function withBest(marks, best) {
  const labels = { ...marks.labels };
  if (typeof best === "number") labels[best] = "good";
  return { labels, best };
}

/** What pressing a mark on a picture does: set it, or take it off where it is set already. */
export function pressed(marks, index, mark) {
  if (mark === "best") return withBest(marks, marks.best === index ? null : index);
  if (mark === "good" && marks.best === index) return withBest(marks, null);
  return withLabel(marks, index, marks.labels[index] === mark ? null : mark);
}

/** Marks with every unrated picture of `n` labelled bad. */
export function withRestBad(marks, n) {
  const labels = { ...marks.labels };
  for (let i = 0; i < n; i++) labels[i] ??= "bad";
  return { labels, best: marks.best };
}

/** How many pictures of `n` are good, bad and unrated. */
export function counts(marks, n) {
  const values = Object.values(marks.labels);
  const good = values.filter((label) => label === "good").length;
  return { good, bad: values.length - good, unrated: n - values.length };
}

/** Why the marks cannot be submitted yet, one sentence each; empty when they can. */
export function problems(marks, hasOldBest) {
  const { good, bad } = counts(marks, 0);
  const found = [];
  if (good + bad === 0) found.push("Nothing is rated yet: mark at least one picture good or bad.");
  if (good > 0 && marks.best === null) {
    found.push(`Pick the best of the good pictures${hasOldBest ? ", or keep the old best" : ""}.`);
  }
  if (marks.best === KEEP && !hasOldBest) {
    found.push("There is no old best to keep in the first round: pick the best of the good pictures.");
  }
  return found;
}

/** The pictures on which two sets of marks differ, "best" and label alike; "keep" counts as one. */
export function differences(a, b) {
  const indices = new Set([...Object.keys(a.labels), ...Object.keys(b.labels)].map(Number));
  const differing = new Set([...indices].filter((i) => a.labels[i] !== b.labels[i]));
  if (a.best !== b.best) {
    // The old and the new best are one change: count the picture that the person chose.
    differing.add(b.best === null ? a.best : b.best);
  }
  return [...differing];
}

/** Three-way merge: where `mine` changed `base` it wins, elsewhere `theirs` stands. */
export function merged(base, mine, theirs) {
  let result = marksOf(theirs);
  for (const index of differences({ ...base, best: null }, { ...mine, best: null })) {
    result = withLabel(result, index, mine.labels[index] ?? null);
  }
  return withBest(result, mine.best !== base.best ? mine.best : result.best);
}

/** True when two sets of marks say the same. */
export function same(a, b) {
  return differences(a, b).length === 0;
}
