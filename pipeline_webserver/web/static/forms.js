/* Which fields the form of a task has, and which examples go into them. It must never know how the server is
   asked. */

import { element } from "./dom.js";
import { examplesOf, titleOf } from "./examples.js";
import { choiceField, labelsField, lineField, maskedField, numberField, textField } from "./fields.js";
import { chord, drawing, fileField } from "./file_field.js";
import { tableField } from "./table_field.js";

const IMAGES = new Set([
  "image-classification",
  "object-detection",
  "image-segmentation",
  "image-feature-extraction",
  "zero-shot-image-classification",
]);
const SOUNDS = new Set(["automatic-speech-recognition", "audio-classification"]);

/** The kind of file that a task takes, if it takes one. */
export const kindOf = (task) => (IMAGES.has(task) ? "image" : SOUNDS.has(task) ? "audio" : null);

const textAndSecond = () => ({
  text: textField("Text"),
  second: textField("Second text, for models that compare two (may stay empty)", { rows: 1 }),
});
const textAndLabels = () => ({
  text: textField("Text"),
  labels: labelsField(),
  several: choiceField("Several labels may be true"),
});
const FIELDS = {
  "fill-mask": (about) => ({ text: maskedField("Text", about.mask_token ?? "[MASK]") }),
  "text-classification": textAndSecond,
  "zero-shot-classification": textAndLabels,
  "text-generation": (about) => ({
    text: textField("Beginning of the text", { rows: 4 }),
    tokens: numberField("New tokens", about.limits?.max_new_tokens),
  }),
  "table-question-answering": () => ({ table: tableField(), question: lineField("Question") }),
  "zero-shot-image-classification": () => ({ file: fileField("image"), labels: labelsField() }),
};

/** The fields of a task, by the names that the values have. */
function fieldsOf(about) {
  if (about.task in FIELDS) return FIELDS[about.task](about);
  const kind = kindOf(about.task);
  return kind ? { file: fileField(kind) } : { text: textField("Text") };
}

/**
 * The form of the task that is loaded.
 * @param {Record<string, any>} about  what the server says of itself
 */
export class Form {
  constructor(about) {
    this.about = about;
    this.fields = fieldsOf(about);
  }

  /** @returns {import("./calls.js").Values} */
  read() {
    return Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.read()]));
  }

  write(values) {
    for (const [name, value] of Object.entries(values)) this.fields[name]?.write(value);
  }

  focus() {
    Object.values(this.fields)[0].control.focus();
  }

  /** Put the fields into one place, a button for each example into another; the first example is there from the start. */
  show(place, buttons) {
    place.replaceChildren(...Object.values(this.fields).map((field) => field.node));
    const kind = kindOf(this.about.task);
    const examples = examplesOf(this.about.task, this.about.mask_token ?? "[MASK]");
    if (kind) {
      if ("labels" in this.fields) this.write(examples[0]);
      buttons.replaceChildren(this.#sample(kind));
    } else {
      this.write(examples[0]);
      buttons.replaceChildren(...examples.map((values) => this.#example(titleOf(values), () => values)));
    }
  }

  #sample(kind) {
    const make = kind === "image" ? drawing : chord;
    return this.#example(kind === "image" ? "A drawing" : "Three notes", async () => ({ file: await make() }));
  }

  #example(words, values) {
    const button = element("button", { type: "button", class: "small" }, words);
    button.addEventListener("click", async () => {
      this.write(await values());
      button.dispatchEvent(new CustomEvent("example", { bubbles: true }));
    });
    return button;
  }
}
