/* The embeddings of two texts side by side, and how similar they are. It must never know the server, nor the form. */

import { element } from "./dom.js";
import { norm, rowsOf, shapeOf, strip, stripLegend, vectors } from "./vectors.js";

/** The cosine of the angle between two vectors, from -1 to 1; 0 where one of them is zero. */
export function cosine(one, other) {
  const product = one.reduce((sum, number, index) => sum + number * other[index], 0);
  return product / (norm(one) * norm(other) || 1);
}

/** The mean of several vectors. */
export const mean = (rows) => rows[0].map((_, index) => rows.reduce((sum, row) => sum + row[index], 0) / rows.length);

const WITHOUT_CONFIGURATION =
  "The model has no sentence-transformers configuration, so it answers with the embedding of each token. The similarity " +
  "is of the means over each text's tokens, for which it may not have been trained.";

/** A cosine on its scale, filled from the middle. */
function scale(similarity) {
  const filled = element("span", { class: similarity < 0 ? "filled negative" : "filled" });
  const width = 50 * Math.min(1, Math.abs(similarity));
  filled.style.width = `${width}%`;
  filled.style.marginLeft = `${similarity < 0 ? 50 - width : 50}%`;
  const labels = ["−1", "0: unrelated", "1: the same"].map((label) => element("span", {}, label));
  return element("div", { "aria-hidden": "true" }, [
    element("span", { class: "track signed" }, filled),
    element("div", { class: "scale hint" }, labels),
  ]);
}

function column(text, embedding, tokens) {
  const of = tokens ? `mean of ${tokens} tokens, ` : "";
  const numbers = `${of}${embedding.length} numbers, norm ${norm(embedding).toFixed(3)}`;
  return element("li", {}, [
    element("blockquote", { class: "embedded" }, text),
    element("p", { class: "hint" }, numbers),
    strip(embedding),
  ]);
}

/**
 * @param {any} answer  of two texts: an embedding each, or one for each token
 * @param {[string, string]} texts
 */
export function similarity(answer, texts) {
  const rows = answer.map(rowsOf);
  const isByToken = shapeOf(answer).length > 2;
  const embeddings = isByToken ? rows.map(mean) : rows.map(([row]) => row);
  const number = cosine(...embeddings).toFixed(3);
  const columns = embeddings.map((embedding, index) => column(texts[index], embedding, isByToken && rows[index].length));
  const node = element("div", {}, [
    element("p", { class: "similarity" }, ["Cosine similarity ", element("strong", {}, number)]),
    scale(Number(number)),
    element("ul", { class: "pair", "aria-label": "The texts and their embeddings" }, columns),
    stripLegend(),
    ...(isByToken ? [element("p", { class: "hint" }, WITHOUT_CONFIGURATION)] : []),
  ]);
  return { node, summary: `Cosine similarity ${number}` };
}

/** Of two texts, or of one. */
export function embeddings(answer, { text, second }) {
  return second.trim() ? similarity(answer, [text, second]) : vectors(answer);
}
