/* Scores as bars, and how numbers are written. It must never know tasks. */

import { element } from "./dom.js";

/** A share of one as people read it: "25.3 %"; what is not nothing is never "0 %". */
export function percent(share) {
  const hundredths = 100 * share;
  if (hundredths > 0 && hundredths < 0.1) return "< 0.1 %";
  return `${hundredths.toFixed(1)} %`;
}

/** Milliseconds with so many digits: "0.42 ms", "12.3 ms", "1.25 s". */
export function duration(ms, digits = 3) {
  const [number, unit] = ms >= 999.5 ? [ms / 1000, "s"] : [ms, "ms"];
  return `${Number(number.toPrecision(digits))} ${unit}`;
}

/** The track of a bar, filled so far. */
export function track(share) {
  const filled = element("span", { class: "filled" });
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return element("span", { class: "track", "aria-hidden": "true" }, filled);
}

/** A bar's name, track and number. */
export function barParts(name, score) {
  return [element("span", { class: "name" }, name), track(score), element("span", { class: "number" }, percent(score))];
}

/**
 * A list of labels with their scores.
 * @param {{label: string, score: number}[]} items
 */
export function bars(items) {
  const rows = items.map(({ label, score }) => element("li", { class: "bar" }, barParts(label, score)));
  return element("ol", { class: "bars" }, rows);
}
