/* Descriptions of the OpenAPI document, in which backticks enclose code. It must never know what is described. */

import { element } from "./dom.js";

/** A text as nodes: what stands between backticks becomes code. */
export function prose(text) {
  return (text ?? "")
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? element("code", {}, part) : part))
    .filter((part) => part !== "");
}

/** The text that a pattern asks for as it stands, without its escapes; null if it asks for more than one text. */
export function literalOf(pattern) {
  const literal = pattern.replace(/\\([^A-Za-z0-9])/g, "$1");
  const specials = pattern.replace(/\\[^A-Za-z0-9]/g, "");
  return /[\\^$.|?*+()[\]{}]/.test(specials) ? null : literal;
}
