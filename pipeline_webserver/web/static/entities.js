/* Entities, highlighted in their text. It must never know the server. */

import { element } from "./dom.js";
import { percent } from "./format.js";

const COLORS = 6;

/** The same label always has the same color. */
export function colorClass(label) {
  let hash = 0;
  for (const letter of label.replace(/^[BI]-/, "")) hash = (31 * hash + letter.codePointAt(0)) % 9973;
  return `color-${hash % COLORS}`;
}

/**
 * A text in spans, with their entities. Offsets count characters as Python does: a character outside the basic plane is
 * one there and two in JavaScript.
 * @param {string} text
 * @param {{start: number, end: number}[]} entities
 * @returns {{text: string, entity: any | null}[]}
 */
export function spans(text, entities) {
  const characters = [...text];
  const parts = [];
  let at = 0;
  for (const entity of [...entities].sort((one, other) => one.start - other.start)) {
    if (entity.start < at) continue; // it overlaps with one that is shown
    if (entity.start > at) parts.push({ text: characters.slice(at, entity.start).join(""), entity: null });
    parts.push({ text: characters.slice(entity.start, entity.end).join(""), entity });
    at = entity.end;
  }
  if (at < characters.length) parts.push({ text: characters.slice(at).join(""), entity: null });
  return parts;
}

const labelOf = (entity) => entity.entity_group ?? entity.entity ?? "";

function highlighted({ text, entity }) {
  if (!entity) return text;
  const label = labelOf(entity);
  const tag = element("span", { class: "tag" }, `${label} ${percent(entity.score)}`);
  return element("mark", { class: `entity ${colorClass(label)}` }, [text, " ", tag]);
}

export function entities(answer, text) {
  if (answer.length === 0) return { node: element("p", {}, "No entities in this text."), summary: "No entities" };
  const summary = answer.map((entity) => `${entity.word}: ${labelOf(entity)}`).join("; ");
  if (answer.every(({ start, end }) => Number.isInteger(start) && Number.isInteger(end))) {
    return { node: element("p", { class: "sentence" }, spans(text, answer).map(highlighted)), summary };
  }
  const words = answer.map((entity) => element("li", {}, highlighted({ text: entity.word, entity })));
  return { node: element("ul", { class: "sentence" }, words), summary };
}
