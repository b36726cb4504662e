/* Links to what the server gives only with an API key: a browser cannot send one when it follows a link, so the answer is
   shown within the page. It must never know what the answer means. */

import { fetchText } from "./api.js";
import { readable } from "./answers.js";
import { apiKey, element } from "./dom.js";

function dialog(title) {
  const close = element("button", { type: "button" }, "Close");
  const text = element("pre", { tabindex: "0", "aria-label": title });
  const head = element("div", { class: "masthead" }, [element("h2", { id: "dialog-title" }, title), close]);
  const node = element("dialog", { "aria-labelledby": "dialog-title" }, [head, text]);
  close.addEventListener("click", () => node.close());
  node.addEventListener("close", () => node.remove());
  document.body.append(node);
  node.showModal();
  return text;
}

async function open(link, onUnauthorized) {
  try {
    const body = await fetchText(link.href);
    dialog(link.textContent).textContent = readable(body);
  } catch (error) {
    if (error.status === 401) onUnauthorized();
    else dialog(link.textContent).textContent = (error.sentences ?? [String(error)]).join(" ");
  }
}

/**
 * @param {Iterable<HTMLAnchorElement>} links
 * @param {() => boolean} needsKey  whether a key is asked for
 * @param {() => void} onUnauthorized
 */
export function bindKeyLinks(links, needsKey, onUnauthorized) {
  for (const link of links) {
    const follow = (event) => {
      const isMenu = event.button === 2;
      if (isMenu || (!apiKey() && !needsKey())) return; // without keys, it is a link like any other
      event.preventDefault();
      open(link, onUnauthorized);
    };
    link.addEventListener("click", follow);
    link.addEventListener("auxclick", follow); // the middle button
  }
}
