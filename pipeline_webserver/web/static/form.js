/* The form of the loaded task: its fields, its examples, and the call that its values make. It must never know which
   task it is, nor how the server is called. */

import { element } from "./dom.js";
import { taskOf } from "./tasks.js";

export class Form {
  /** @param {Record<string, any>} info  the server's /info */
  constructor(info) {
    this.info = info;
    this.task = taskOf(info.task);
    this.fields = this.task.fields(info);
  }

  /** @returns {import("./calls.js").Values} */
  values() {
    return Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.read()]));
  }

  /** What the user must do before the values can be sent, or an empty string. */
  problem() {
    const problems = Object.values(this.fields).map((field) => field.problem());
    return problems.find(Boolean) ?? "";
  }

  /** @returns {import("./calls.js").Call} */
  call(values = this.values()) {
    return this.task.call(values, this.info);
  }

  write(values) {
    for (const [name, value] of Object.entries(values)) this.fields[name].write(value);
  }

  /** Put the fields into one place, and a button for each example into another; the form starts with the first. */
  show(place, buttons) {
    place.replaceChildren(...Object.values(this.fields).map((field) => field.node));
    const examples = this.task.examples(this.info);
    this.write(this.task.initial ?? examples[0].values);
    buttons.replaceChildren(...examples.map((example) => this.#button(example)));
  }

  #button({ title, values, makeFile }) {
    const button = element("button", { type: "button", class: "small" }, title);
    button.addEventListener("click", async () => {
      this.write(makeFile ? { file: await makeFile() } : values);
      button.dispatchEvent(new CustomEvent("example", { bubbles: true }));
    });
    return button;
  }
}
