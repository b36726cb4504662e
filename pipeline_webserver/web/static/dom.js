/* What every page needs: elements made without HTML in strings, and the API key of this tab. It must never know the
   server's answers. */

const API_KEY = "pipeline-api-key";
const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with attributes and children; strings become text nodes, whatever they contain.
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {string | Node | (string | Node)[]} [children]
 */
export function element(tag, attributes = {}, children = []) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for an element of an SVG image. */
export function svgElement(tag, attributes = {}, children = []) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...(Array.isArray(children) ? children : [children]));
  return node;
}

/** Text for screen readers only. */
export const hidden = (text) => element("span", { class: "visually-hidden" }, text);

/** The API key that was entered in this tab, or an empty string. */
export const apiKey = () => sessionStorage.getItem(API_KEY) ?? "";

export function storeApiKey(key) {
  sessionStorage.setItem(API_KEY, key);
}

/** Headers, with the API key if there is one. */
export function withApiKey(headers = {}) {
  return apiKey() ? { ...headers, Authorization: `Bearer ${apiKey()}` } : headers;
}
