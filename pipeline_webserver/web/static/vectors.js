/* Vectors of numbers: their shape, their length, and a strip of their values. It must never know the server. */

import { element } from "./dom.js";

const HEIGHT = 28;

/** The sizes of nested lists. */
export function shapeOf(nested) {
  return Array.isArray(nested) ? [nested.length, ...shapeOf(nested[0])] : [];
}

/** The rows of numbers in nested lists. */
export function rowsOf(nested) {
  return Array.isArray(nested[0]) ? nested.flatMap(rowsOf) : [nested];
}

/** The Euclidean length. */
export const norm = (row) => Math.hypot(...row);

/** Blue for less than nothing, orange for more; `share` is from -1 to 1. */
export function colorOf(share) {
  const strength = Math.round(255 * (1 - Math.min(1, Math.abs(share))));
  return share < 0
    ? [strength, Math.round(110 + 0.57 * strength), 255]
    : [255, Math.round(130 + 0.49 * strength), strength];
}

/** A stripe for each number. */
function strip(row) {
  const most = row.reduce((largest, number) => Math.max(largest, Math.abs(number)), 0) || 1;
  const words = `The ${row.length} values as colors, from ${-most.toPrecision(3)} in blue to ${most.toPrecision(3)} in orange`;
  const canvas = element("canvas", {
    width: String(row.length),
    height: "1",
    class: "strip",
    role: "img",
    "aria-label": words,
  });
  canvas.style.height = `${HEIGHT}px`;
  const pen = canvas.getContext("2d");
  const picture = pen.createImageData(row.length, 1);
  for (const [x, number] of row.entries()) picture.data.set([...colorOf(number / most), 255], 4 * x);
  pen.putImageData(picture, 0, 0);
  return canvas;
}

const MOST_ROWS = 12;

export function vectors(answer) {
  const shape = shapeOf(answer).join(" × ");
  const rows = rowsOf(answer);
  const shown = rows
    .slice(0, MOST_ROWS)
    .map((row, index) =>
      element("li", {}, [
        element(
          "span",
          { class: "hint" },
          rows.length > 1 ? `${index}, norm ${norm(row).toFixed(3)}` : `norm ${norm(row).toFixed(3)}`,
        ),
        strip(row),
      ]),
    );
  const left =
    rows.length > MOST_ROWS ? [element("p", { class: "hint" }, `and ${rows.length - MOST_ROWS} more rows`)] : [];
  const node = element("div", {}, [
    element("p", {}, `Shape: ${shape}`),
    element("ol", { class: "vectors" }, shown),
    ...left,
  ]);
  return { node, summary: `Numbers of shape ${shape}` };
}
