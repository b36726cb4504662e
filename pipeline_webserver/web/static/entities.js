/* Entities, highlighted in their text. It must never know the server. */

import { percent } from "./bars.js";
import { element } from "./dom.js";

const TONES = 6;

/** The same label always has the same tone. */
export function toneOf(label) {
  let sum = 0;
  for (const letter of label.replace(/^[BI]-/, "")) sum = (31 * sum + letter.codePointAt(0)) % 9973;
  return `tone-${sum % TONES}`;
}

/**
 * A text in pieces, those that are entities with them. Places are counted in characters, as Python does: a character
 * outside the basic plane is one there and two in JavaScript.
 * @param {string} text
 * @param {{start: number, end: number}[]} entities
 * @returns {{text: string, entity: any | null}[]}
 */
export function pieces(text, entities) {
  const characters = [...text];
  const made = [];
  let at = 0;
  for (const entity of [...entities].sort((one, other) => one.start - other.start)) {
    if (entity.start < at) continue; // it overlaps with one that is shown
    if (entity.start > at) made.push({ text: characters.slice(at, entity.start).join(""), entity: null });
    made.push({ text: characters.slice(entity.start, entity.end).join(""), entity });
    at = entity.end;
  }
  if (at < characters.length) made.push({ text: characters.slice(at).join(""), entity: null });
  return made;
}

const labelOf = (entity) => entity.entity_group ?? entity.entity ?? "";

function highlighted({ text, entity }) {
  if (!entity) return text;
  const label = labelOf(entity);
  const told = element("span", { class: "tag" }, `${label} ${percent(entity.score)}`);
  return element("mark", { class: `entity ${toneOf(label)}` }, [text, " ", told]);
}

/** @param {{text: string}} asked */
export function entities(answer, asked) {
  if (answer.length === 0) return { node: element("p", {}, "No entities in this text."), summary: "No entities" };
  const placed = answer.filter((entity) => Number.isInteger(entity.start) && Number.isInteger(entity.end));
  const summary = answer.map((entity) => `${entity.word}: ${labelOf(entity)}`).join("; ");
  if (placed.length === answer.length) {
    return { node: element("p", { class: "sentence" }, pieces(asked.text, placed).map(highlighted)), summary };
  }
  const words = answer.map((entity) => element("li", {}, highlighted({ text: entity.word, entity })));
  return { node: element("ul", { class: "sentence" }, words), summary };
}
