/* Vectors of numbers: their shape, their norms, and a strip of their values. It must never know the server. */

import { element } from "./dom.js";

const HEIGHT = 28;
const MAX_ROWS = 12;

/** The sizes of nested lists. */
export function shapeOf(nested) {
  return Array.isArray(nested) ? [nested.length, ...shapeOf(nested[0])] : [];
}

/** The rows of numbers in nested lists. */
export function rowsOf(nested) {
  return Array.isArray(nested[0]) ? nested.flatMap(rowsOf) : [nested];
}

/** The Euclidean norm. */
export const norm = (row) => Math.hypot(...row);

/** Red, green and blue: blue for negative numbers, orange for positive ones; `share` is from -1 to 1. */
export function colorOf(share) {
  const lightness = Math.round(255 * (1 - Math.min(1, Math.abs(share))));
  return share < 0
    ? [lightness, Math.round(110 + 0.57 * lightness), 255]
    : [255, Math.round(130 + 0.49 * lightness), lightness];
}

/** A stripe for each number. */
export function strip(row) {
  const max = row.reduce((largest, number) => Math.max(largest, Math.abs(number)), 0) || 1;
  const label = `The ${row.length} values as colors, from ${-max.toPrecision(3)} in blue to ${max.toPrecision(3)} in orange`;
  const attributes = { width: row.length, height: 1, class: "strip", role: "img", "aria-label": label };
  const canvas = element("canvas", attributes);
  canvas.style.height = `${HEIGHT}px`;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(row.length, 1);
  for (const [x, number] of row.entries()) pixels.data.set([...colorOf(number / max), 255], 4 * x);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** What a strip's colors are. */
export const stripLegend = () =>
  element("p", { class: "hint" }, "A stripe for each number: blue below zero, orange above, the stronger the larger.");

export function vectors(answer) {
  const shape = shapeOf(answer).join(" × ");
  const rows = rowsOf(answer);
  const shown = rows.slice(0, MAX_ROWS).map((row, index) => {
    const caption = `norm ${norm(row).toFixed(3)}`;
    return element("li", {}, [
      element("span", { class: "hint" }, rows.length > 1 ? `${index}, ${caption}` : caption),
      strip(row),
    ]);
  });
  const more = rows.length - MAX_ROWS;
  const node = element("div", {}, [
    element("p", {}, `Shape: ${shape}`),
    stripLegend(),
    element("ol", { class: "vectors" }, shown),
    ...(more > 0 ? [element("p", { class: "hint" }, `and ${more} more rows`)] : []),
  ]);
  return { node, summary: `Numbers of shape ${shape}` };
}
