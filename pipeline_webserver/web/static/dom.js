/* What every page needs: elements made without HTML in strings, and the API key of this tab. It must never know the
   server's answers. */

const KEY = "pipeline-api-key";

/**
 * An element with attributes and children; texts stay texts, whatever is in them.
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {string | Node | (string | Node)[]} [children]
 */
export function element(tag, attributes = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...(Array.isArray(children) ? children : [children]));
  return made;
}

/** The API key that was given in this tab, or nothing. */
export const keyOf = () => sessionStorage.getItem(KEY) ?? "";

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Headers, with the key if there is one. */
export function withKey(headers = {}) {
  return keyOf() ? { ...headers, Authorization: `Bearer ${keyOf()}` } : headers;
}
