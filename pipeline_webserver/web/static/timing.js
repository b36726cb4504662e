/* Where the time of a request went, as a bar with its legend and in words. It must never know the answer. */

import { element } from "./dom.js";
import { duration } from "./format.js";

/** The parts of the time in the server. What is neither the queue nor the model is reading, checking and writing. */
export function partsOf({ queue = 0, model = 0, total = 0 }) {
  return { queue, model, other: Math.max(0, total - queue - model) };
}

function part([name, ms]) {
  const node = element("span", { class: `part ${name}` });
  node.style.flexGrow = String(ms);
  return node;
}

function legendItem([name, ms]) {
  const swatch = element("span", { class: `swatch part ${name}`, "aria-hidden": "true" });
  return element("li", {}, [swatch, `${name} ${duration(ms)}`]);
}

/**
 * @param {import("./api.js").Timing} timing
 * @param {number} elapsedMs  measured in the browser
 */
export function timingParts(timing, elapsedMs) {
  const parts = Object.entries(partsOf(timing));
  const words = `${duration(timing.total ?? 0)} in the server, in a batch of ${timing.batch ?? 1}`;
  return [
    element("p", { class: "hint" }, `${words}; ${duration(elapsedMs)} measured in the browser.`),
    element("div", { class: "stack", "aria-hidden": "true" }, parts.map(part)),
    element("ul", { class: "legend hint", "aria-label": "Time in the server" }, parts.map(legendItem)),
  ];
}
