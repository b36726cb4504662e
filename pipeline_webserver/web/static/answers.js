/* What an answer of each task looks like, and what is said of it aloud. It must never know how it was asked for. */

import { bars, percent } from "./bars.js";
import { element } from "./dom.js";
import { entities } from "./entities.js";
import { guesses } from "./guesses.js";
import { labelsOf, objects, segments } from "./pictures.js";
import { vectors } from "./vectors.js";

/**
 * What was asked: the values of the form, and the model's mask.
 * @typedef {import("./calls.js").Values & {mask?: string}} Asked
 */

/** Labels with scores, in a list for each input or without. */
function labels(answer) {
  return labelsOf(Array.isArray(answer[0]) ? answer[0] : answer);
}

/** Where several labels may be true, how many are is what there is to say. */
function zeroShot(answer, asked) {
  if (!asked.several) return labels(answer);
  const chosen = answer.filter(({ score }) => score >= 0.5).map(({ label, score }) => `${label}, ${percent(score)}`);
  return { node: bars(answer), summary: chosen.join("; ") || "None of the labels" };
}

/** What was there from the beginning, and what is new. */
function generated([{ generated_text: text }], asked) {
  const isWhole = text.startsWith(asked.text);
  const added = isWhole ? text.slice(asked.text.length) : text;
  const parts = [isWhole ? asked.text : "", element("mark", {}, added)];
  return { node: element("p", { class: "sentence written" }, parts), summary: added || "Nothing was added" };
}

function transcript({ text }) {
  const words = text.trim() || "Nothing was heard.";
  return { node: element("blockquote", { class: "sentence" }, words), summary: words };
}

/** The answer, and the table with the cells that it was found in. */
function tableAnswer(answer, asked) {
  const found = Array.isArray(answer) ? answer[0] : answer;
  const marked = new Set((found.coordinates ?? []).map(([y, x]) => `${y},${x}`));
  const columns = Object.keys(asked.table);
  const cell = (y) => (name, x) => {
    const text = asked.table[name][y];
    return element("td", {}, marked.has(`${y},${x}`) ? element("mark", {}, text) : text);
  };
  const rows = asked.table[columns[0]].map((_, y) => element("tr", {}, columns.map(cell(y))));
  const head = element(
    "tr",
    {},
    columns.map((name) => element("th", { scope: "col" }, name)),
  );
  const table = element("table", { class: "grid" }, [element("thead", {}, head), element("tbody", {}, rows)]);
  const how =
    found.aggregator && found.aggregator !== "NONE"
      ? [element("p", { class: "hint" }, `Put together by: ${found.aggregator}`)]
      : [];
  const words = found.answer || "No answer";
  return {
    node: element("div", {}, [
      element("p", { class: "sentence" }, words),
      ...how,
      element("div", { class: "scrolling" }, table),
    ]),
    summary: words,
  };
}

/** Of a task that is not known: the JSON below says it all. */
const other = () => ({ node: element("p", {}, "The answer is below, as JSON."), summary: "Answered" });

const RENDERERS = {
  "fill-mask": guesses,
  "text-classification": labels,
  "token-classification": entities,
  "feature-extraction": vectors,
  "zero-shot-classification": zeroShot,
  "text-generation": generated,
  "table-question-answering": tableAnswer,
  "image-classification": labels,
  "object-detection": objects,
  "image-segmentation": segments,
  "image-feature-extraction": vectors,
  "zero-shot-image-classification": labels,
  "automatic-speech-recognition": transcript,
  "audio-classification": labels,
};

/**
 * @param {string} task
 * @param {any} answer
 * @param {Asked} asked
 * @returns {Promise<{node: HTMLElement, summary: string}>}
 */
export async function render(task, answer, asked) {
  return (RENDERERS[task] ?? other)(answer, asked);
}

const MOST_JSON = 20_000;

/** An answer as JSON, cut where it is long. */
export function jsonOf(answer) {
  const text = JSON.stringify(answer, null, 2);
  if (text.length <= MOST_JSON) return text;
  return `${text.slice(0, MOST_JSON)}\n… cut here: ${text.length - MOST_JSON} more characters`;
}
