/* Tabs, one chosen at a time, by mouse and by arrow keys. It must never know what they show. */

import { element } from "./dom.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/**
 * @param {HTMLElement} place  a tablist
 * @param {HTMLElement} panel
 * @param {string[]} names
 * @param {(name: string) => void} choose
 */
export function makeTabs(place, panel, names, choose) {
  const tabs = names.map((name) => {
    const attributes = { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": panel.id, class: "tab" };
    return element("button", attributes, name);
  });
  function select(chosen) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", chosen.id);
    choose(chosen.textContent);
  }
  place.addEventListener("click", (event) => tabs.includes(event.target) && select(event.target));
  place.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    const next = tabs.at((tabs.indexOf(document.activeElement) + STEPS[event.key]) % tabs.length);
    next.focus();
    select(next);
  });
  place.replaceChildren(...tabs);
  select(tabs[0]);
}
