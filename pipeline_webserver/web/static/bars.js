/* Scores as bars, each with its label and its number. It must never know tasks. */

import { element } from "./dom.js";
import { percent } from "./format.js";

/** The track of a bar, filled up to this share. */
export function track(share) {
  const bar = element("span", { class: "filled" });
  bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return element("span", { class: "track", "aria-hidden": "true" }, bar);
}

/** A bar's name, track and number. */
export function barParts(name, score) {
  return [element("span", { class: "name" }, name), track(score), element("span", { class: "number" }, percent(score))];
}

/** What the numbers of a list of bars are. */
export const barsLegend = (what) => element("p", { class: "hint" }, `${what}; a full bar is 100 %.`);

/**
 * A list of labels with their scores.
 * @param {{label: string, score: number}[]} items
 */
export function bars(items) {
  const rows = items.map(({ label, score }) => element("li", { class: "bar" }, barParts(label, score)));
  return element("div", {}, [
    barsLegend("The score of each label"),
    element("ol", { class: "bars", "aria-label": "Labels with their scores" }, rows),
  ]);
}
