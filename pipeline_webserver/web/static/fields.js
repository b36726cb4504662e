/* The fields of a form: each reads, writes and checks one value. It must never know tasks, nor the server. */

import { element } from "./dom.js";

let lastId = 0;

/**
 * @typedef {Object} Field
 * @property {HTMLElement} node
 * @property {HTMLElement} control  where the focus goes
 * @property {() => any} read
 * @property {(value: any) => void} write
 * @property {() => string} problem  what the user must do before the value can be sent, or an empty string
 */

/** A control under its label. */
export function labelled(control, label, hint = "") {
  control.id ||= `field-${(lastId += 1)}`;
  const children = [element("label", { for: control.id }, label), control];
  if (hint) {
    children.push(element("p", { class: "hint", id: `${control.id}-hint` }, hint));
    control.setAttribute("aria-describedby", `${control.id}-hint`);
  }
  return element("div", { class: "field" }, children);
}

/** A field around a control that holds a string; `required` is what to say when it is empty. */
function stringField(control, label, { hint = "", required = "" }) {
  const write = (text) => {
    control.value = text;
  };
  const problem = () => (control.value.trim() ? "" : required);
  return { node: labelled(control, label, hint), control, read: () => control.value, write, problem };
}

/** @returns {Field} */
export function textField(label, { rows = 3, hint = "", required = "Enter a text first." } = {}) {
  return stringField(element("textarea", { rows }), label, { hint, required });
}

/** One line. @returns {Field} */
export function lineField(label, required) {
  return stringField(element("input", { type: "text", autocomplete: "off" }), label, { required });
}

/** Put the mask at the caret, or in the place of the selection. */
function insert(control, word) {
  const { selectionStart: start, selectionEnd: end, value } = control;
  const before = start > 0 && !/\s$/.test(value.slice(0, start)) ? " " : "";
  control.focus();
  control.setRangeText(before + word, start, end, "end");
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

/** A text with a button that inserts the mask. @returns {Field} */
export function maskedField(label, mask) {
  const field = textField(label, { hint: `The model predicts the word at each ${mask}.` });
  const button = element("button", { type: "button", class: "small" }, `Insert ${mask}`);
  button.addEventListener("click", () => insert(field.control, mask));
  field.node.append(element("div", { class: "field-foot" }, [field.node.lastElementChild, button]));
  return field;
}

/** Labels, separated by commas. @returns {Field} */
export function labelsField() {
  const control = element("input", { type: "text", autocomplete: "off" });
  const labels = () => control.value.split(",").map((label) => label.trim());
  const read = () => [...new Set(labels().filter(Boolean))];
  const write = (values) => {
    control.value = values.join(", ");
  };
  const problem = () => (read().length ? "" : "Enter at least one label.");
  return { node: labelled(control, "Labels, separated by commas"), control, read, write, problem };
}

/** A whole number from 1 to `max`. @returns {Field} */
export function numberField(label, max) {
  const limit = max ? { max } : {};
  const control = element("input", { type: "number", min: 1, step: 1, inputmode: "numeric", ...limit });
  const write = (number) => {
    control.value = String(Math.min(number, max ?? number));
  };
  const node = labelled(control, max ? `${label}, ${max} at most` : label);
  const problem = () => (control.valueAsNumber >= 1 ? "" : `${label}: enter a whole number from 1.`);
  return { node, control, read: () => control.valueAsNumber, write, problem };
}

/** @returns {Field} */
export function choiceField(label) {
  const control = element("input", { type: "checkbox" });
  const write = (chosen) => {
    control.checked = chosen;
  };
  const node = element("label", { class: "choice" }, [control, ` ${label}`]);
  return { node, control, read: () => control.checked, write, problem: () => "" };
}
