/* The fields of a form: each is an element with `read` and `write`. It must never know tasks, nor the server. */

import { element } from "./dom.js";

let made = 0;

/**
 * @typedef {Object} Field
 * @property {HTMLElement} node
 * @property {HTMLElement} control  where the focus goes
 * @property {() => any} read
 * @property {(value: any) => void} write
 */

/** A control under its label. */
export function labelled(control, words, hint = "") {
  control.id ||= `field-${(made += 1)}`;
  const children = [element("label", { for: control.id }, words), control];
  if (hint) {
    children.push(element("p", { class: "hint", id: `${control.id}-hint` }, hint));
    control.setAttribute("aria-describedby", `${control.id}-hint`);
  }
  return element("div", { class: "field" }, children);
}

/** @returns {Field} */
export function textField(words, { rows = 3, hint = "" } = {}) {
  const control = element("textarea", { rows: String(rows) });
  const write = (text) => {
    control.value = text;
  };
  return { node: labelled(control, words, hint), control, read: () => control.value, write };
}

/** One line. @returns {Field} */
export function lineField(words) {
  const control = element("input", { type: "text", autocomplete: "off" });
  const write = (text) => {
    control.value = text;
  };
  return { node: labelled(control, words), control, read: () => control.value, write };
}

/** Where the mask goes: what is selected in the text, or the caret. */
function insert(control, word) {
  const { selectionStart: start, selectionEnd: end, value } = control;
  const before = start > 0 && !/\s$/.test(value.slice(0, start)) ? " " : "";
  control.focus();
  control.setRangeText(before + word, start, end, "end");
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

/** A text with a button that inserts the mask. @returns {Field} */
export function maskedField(words, mask) {
  const field = textField(words, { hint: `The model guesses what stands at ${mask}; several may stand in one text.` });
  const button = element("button", { type: "button", class: "small" }, `Insert ${mask}`);
  button.addEventListener("click", () => insert(field.control, mask));
  field.node.append(element("div", { class: "field-foot" }, [field.node.lastElementChild, button]));
  return field;
}

/** Labels, separated by commas. @returns {Field} */
export function labelsField() {
  const control = element("input", { type: "text", autocomplete: "off" });
  const read = () => [
    ...new Set(
      control.value
        .split(",")
        .map((label) => label.trim())
        .filter(Boolean),
    ),
  ];
  const write = (labels) => {
    control.value = labels.join(", ");
  };
  return { node: labelled(control, "Labels to choose from, with commas between them"), control, read, write };
}

/** @returns {Field} */
export function numberField(words, most) {
  const attributes = {
    type: "number",
    min: "1",
    step: "1",
    inputmode: "numeric",
    ...(most ? { max: String(most) } : {}),
  };
  const control = element("input", attributes);
  const write = (number) => {
    control.value = String(Math.min(number, most ?? number));
  };
  const node = labelled(control, most ? `${words}, ${most} at most` : words);
  return { node, control, read: () => control.valueAsNumber, write };
}

/** @returns {Field} */
export function choiceField(words) {
  const control = element("input", { type: "checkbox" });
  const write = (chosen) => {
    control.checked = chosen;
  };
  const node = element("label", { class: "choice" }, [control, ` ${words}`]);
  return { node, control, read: () => control.checked, write };
}
