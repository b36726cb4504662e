/* A JSON schema in a few words, and its properties in a table. It must never know routes. */

import { element } from "./dom.js";
import { literalOf, prose } from "./prose.js";

/** The last part of a reference: `#/components/schemas/Label` is `Label`. */
export const nameOf = (reference) => reference.split("/").pop();

/** A link to the section of a schema. */
function link(reference) {
  return element("a", { href: `#schema-${nameOf(reference)}` }, nameOf(reference));
}

/** Lists of nodes as one, with a separator between them. */
export function joined(lists, separator) {
  return lists.flatMap((list, index) => (index ? [separator, ...list] : list));
}

const RANGES = { minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<" };
const COUNTS = { minItems: "items ≥", maxItems: "items ≤", minLength: "length ≥", maxLength: "length ≤" };

function patternWords(pattern) {
  const literal = literalOf(pattern);
  return [literal === null ? "like " : "with ", element("code", {}, literal ?? pattern)];
}

/** What a schema says besides its type: ranges, numbers of items, patterns. */
function limits(schema) {
  const parts = [];
  for (const [name, sign] of Object.entries(RANGES)) if (name in schema) parts.push([`${sign} ${schema[name]}`]);
  for (const [name, words] of Object.entries(COUNTS)) if (name in schema) parts.push([`${words} ${schema[name]}`]);
  if (schema.contentEncoding) parts.push([schema.contentEncoding]);
  else if (schema.pattern) parts.push(patternWords(schema.pattern));
  return parts.length ? [" (", ...joined(parts, ", "), ")"] : [];
}

/** A schema in a few words, with links to the schemas that it refers to. */
export function summary(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  if (schema.format === "binary") return ["a file"];
  if (schema.allOf) return summary(schema.allOf[0]);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return joined(choices.filter((choice) => choice.type !== "null").map(summary), " or ");
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list", ...limits(schema), " of ", ...summary(schema.items ?? {})];
  return [schema.type ?? "anything", ...limits(schema)];
}

/** The properties of an object, a row each. */
function properties(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [element("code", {}, name), required.has(name) ? " required" : ""]),
      element("td", {}, summary(property)),
      element("td", {}, prose(property.description)),
    ]),
  );
  return element("table", {}, element("tbody", {}, rows));
}

export function schemaSection([name, schema]) {
  const body = schema.properties ? properties(schema) : element("p", {}, summary(schema));
  const description = schema.description ? [element("p", {}, prose(schema.description))] : [];
  return element("section", { id: `schema-${name}` }, [element("h3", {}, name), ...description, body]);
}
