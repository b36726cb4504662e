/* What the server says of itself: the model in a line, and its speed-ups. It must never know the form. */

import { element } from "./dom.js";

const MEANINGS = {
  masked_head: "the vocabulary is scored only where something is masked",
  no_padding: "no padding is computed in the encoder",
  last_layer: "of the last layer only what is read is computed",
  prepacked_weights: "weights are laid out for the CPU once",
};

/** The model's card: pairs of a term and what it is. */
export function card(about) {
  const facts = {
    Task: about.task,
    Device: about.device,
    Numbers: about.dtype,
    Threads: about.threads,
    "Longest text": about.max_tokens ? `${about.max_tokens} tokens` : null,
    "Largest batch": about.limits?.max_batch_size,
    Version: about.version,
  };
  const told = Object.entries(facts).filter(([, fact]) => fact !== null && fact !== undefined);
  return told.map(([term, fact]) => element("div", {}, [element("dt", {}, term), element("dd", {}, String(fact))]));
}

const gain = (name, times) =>
  element("span", { class: "gain" }, [element("strong", {}, `${times.toFixed(2)} ×`), ` ${name}`]);

/** One speed-up: whether it is on, and what it is worth or why it is off. */
function speedUp({ name, on, gains, why }) {
  const worth = Object.entries(gains ?? {}).map(([probe, times]) => gain(probe, times));
  return element("li", {}, [
    element("span", { class: on ? "state on" : "state" }, on ? "on" : "off"),
    element("div", {}, [
      element("p", {}, [element("code", {}, name), MEANINGS[name] ? `: ${MEANINGS[name]}` : ""]),
      on ? element("p", { class: "gains" }, worth) : element("p", { class: "hint" }, `Off: ${why}.`),
    ]),
  ]);
}

export function speedUps(about) {
  if (!about.speed_ups?.length)
    return element("p", { class: "hint" }, "None was tried: the model runs as it was loaded.");
  const hint =
    "How many times as fast the model is with each, in a batch and with one input alone, as timed at the start.";
  return element("div", {}, [
    element("p", { class: "hint" }, hint),
    element("ul", { class: "speed-ups" }, about.speed_ups.map(speedUp)),
  ]);
}
