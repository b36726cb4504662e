/* How answers are shown: labels, texts, table cells, JSON. Each function returns an element, and a summary for screen
   readers. It must never know how the server was called. */

import { bars } from "./bars.js";
import { element } from "./dom.js";
import { percent } from "./format.js";

const scored = ({ label, score }) => `${label}, ${percent(score)}`;

/** Labels with scores, in a list for each input or without. */
export function labels(answer) {
  const items = Array.isArray(answer[0]) ? answer[0] : answer;
  return { node: bars(items), summary: items.length ? scored(items[0]) : "No labels" };
}

/** Labels of which several may be true: the summary has those that are. */
export function selectedLabels(answer) {
  const selected = answer.filter(({ score }) => score >= 0.5);
  return { node: bars(answer), summary: selected.map(scored).join("; ") || "None of the labels" };
}

/** The prompt, and the generated text marked. */
export function generatedText([{ generated_text: text }], prompt) {
  const hasPrompt = text.startsWith(prompt);
  const added = hasPrompt ? text.slice(prompt.length) : text;
  const parts = [hasPrompt ? prompt : "", element("mark", {}, added)];
  const legend = element("p", { class: "hint" }, ["Generated: ", element("mark", {}, "marked"), "."]);
  const node = element("div", {}, [element("p", { class: "sentence" }, parts), legend]);
  return { node, summary: added || "No text was generated" };
}

export function transcript({ text }) {
  const shown = text.trim() || "No speech was recognized.";
  return { node: element("blockquote", { class: "sentence" }, shown), summary: shown };
}

/** The answer, and the table with the cells that it comes from marked. */
export function tableAnswer(answer, table) {
  const { answer: text, coordinates, aggregator } = Array.isArray(answer) ? answer[0] : answer;
  const hasAggregator = aggregator && aggregator !== "NONE";
  const shown = text || "No answer";
  const node = element("div", {}, [
    element("p", { class: "sentence" }, shown),
    ...(hasAggregator ? [element("p", { class: "hint" }, `Aggregation: ${aggregator}`)] : []),
    element("div", { class: "scrolling" }, markedTable(table, coordinates ?? [])),
    element("p", { class: "hint" }, ["Where the answer comes from: ", element("mark", {}, "marked"), "."]),
  ]);
  return { node, summary: shown };
}

function markedTable(table, coordinates) {
  const marked = new Set(coordinates.map(([y, x]) => `${y},${x}`));
  const names = Object.keys(table);
  const cell = (y) => (name, x) => {
    const text = table[name][y];
    return element("td", {}, marked.has(`${y},${x}`) ? element("mark", {}, text) : text);
  };
  const head = names.map((name) => element("th", { scope: "col" }, name));
  const rows = table[names[0]].map((_, y) => element("tr", {}, names.map(cell(y))));
  return element("table", { class: "grid" }, [
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, rows),
  ]);
}

/** Of a task without an entry: the JSON below has everything. */
export const asJson = () => ({ node: element("p", {}, "The answer is below, as JSON."), summary: "Answered" });

const MAX_CHARACTERS = 40_000;

/** A text, truncated where it is long: a browser takes seconds to lay out megabytes. */
export function shortened(text, max = MAX_CHARACTERS) {
  return text.length > max ? `${text.slice(0, max)}\n… truncated: ${text.length - max} more characters` : text;
}

/** An answer as JSON, truncated where it is long. */
export const jsonText = (answer) => shortened(JSON.stringify(answer, null, 2));

/** The text of a response: JSON in lines, other text as it is. */
export function readable(text) {
  try {
    return jsonText(JSON.parse(text));
  } catch {
    return shortened(text);
  }
}
