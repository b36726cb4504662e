/* Tabs, one selected at a time, by mouse and by arrow keys. It must never know what they show. */

import { element } from "./dom.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/**
 * @param {HTMLElement} tablist
 * @param {HTMLElement} panel
 * @param {string[]} names
 * @param {(name: string) => void} onSelect
 */
export function makeTabs(tablist, panel, names, onSelect) {
  const tabs = names.map((name) => {
    const attributes = { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": panel.id, class: "tab" };
    return element("button", attributes, name);
  });
  function select(selected) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === selected));
      tab.tabIndex = tab === selected ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", selected.id);
    onSelect(selected.textContent);
  }
  tablist.addEventListener("click", (event) => tabs.includes(event.target) && select(event.target));
  tablist.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    const next = tabs.at((tabs.indexOf(document.activeElement) + STEPS[event.key]) % tabs.length);
    next.focus();
    select(next);
  });
  tablist.replaceChildren(...tabs);
  select(tabs[0]);
}
