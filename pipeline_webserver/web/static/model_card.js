/* The model card: what the server's /info says of the model and of its optimizations. It must never know the form. */

import { element } from "./dom.js";

const MEANINGS = {
  masked_head: "scores the vocabulary at masks only",
  unpadding: "computes no padding in the encoder",
  last_layer: "computes only the positions of the last layer that the task reads",
  prepacked_weights: "lays out the weights for the CPU once",
};

/** How long an input may be, or how much of it counts; null where inputs have no such limit. */
export function maxInput({ max_tokens: limit, embedding, limits }) {
  const known = [limit, embedding?.max_tokens].filter(Boolean);
  if (!known.length) return null;
  return `${Math.min(...known)} tokens${embedding || limits?.truncate ? ", then cut" : ""}`;
}

/** Pairs of a term and its value. */
export function modelCard(info) {
  const facts = {
    Task: info.task,
    "Loaded from": info.model === info.name ? null : info.model,
    Device: info.device,
    "Data type": info.dtype,
    Threads: info.threads,
    "Max. input": maxInput(info),
    "Max. batch size": info.limits?.max_batch_size,
    Version: info.version,
  };
  const known = Object.entries(facts).filter(([, fact]) => fact !== null && fact !== undefined);
  return known.map(([term, fact]) => element("div", {}, [element("dt", {}, term), element("dd", {}, String(fact))]));
}

/** The speed for one kind of input, as it was measured; a loss is called one. */
export function gain(probe, factor) {
  const speed = factor.toFixed(2);
  const slower = Number(speed) < 1 ? [": ", element("strong", { class: "loss" }, "slower")] : [];
  return element("span", { class: "gain" }, [element("strong", {}, `${speed} ×`), ` ${probe}`, ...slower]);
}

function explained(applied, measured, reason) {
  if (!applied) return element("p", { class: "hint" }, `Not applied: ${reason}.`);
  return reason ? element("p", { class: "hint" }, `Applied: ${reason}.`) : element("p", { class: "gains" }, measured);
}

/** One optimization: whether it is applied, with what it gains, or why it is not applied or not timed. */
function optimization({ name, applied, gains, reason }) {
  const measured = Object.entries(gains ?? {}).map(([probe, factor]) => gain(probe, factor));
  return element("li", {}, [
    element("span", { class: applied ? "state on" : "state" }, applied ? "on" : "off"),
    element("div", {}, [
      element("p", {}, [element("code", {}, name), MEANINGS[name] ? `: ${MEANINGS[name]}` : ""]),
      explained(applied, measured, reason),
    ]),
  ]);
}

export function optimizationList(info) {
  if (!info.optimizations?.length)
    return element("p", { class: "hint" }, "None was tried: the model runs as it was loaded.");
  const hint =
    "The speed with each optimization, as a multiple of the speed without it, for a batch and for one input alone; " +
    "measured at the start.";
  return element("div", {}, [
    element("p", { class: "hint" }, hint),
    element("ul", { class: "optimizations" }, info.optimizations.map(optimization)),
  ]);
}
