/* The tasks, and everything in the web UI that depends on which one it is: a task is one entry in TASKS. A task without
   an entry has a text field, and its answers are shown as JSON. It must never know the server. */

import { asJson, generatedText, labels, selectedLabels, tableAnswer, transcript } from "./answers.js";
import { entities } from "./entities.js";
import { choiceField, labelsField, lineField, maskedField, numberField, textField } from "./fields.js";
import { chord, drawing, fileField } from "./file_field.js";
import { boxes, masks } from "./overlays.js";
import { predictions } from "./predictions.js";
import { embeddings } from "./similarity.js";
import { tableField } from "./table_field.js";
import { vectors } from "./vectors.js";

/** @typedef {import("./calls.js").Values} Values */

/**
 * An example is written into the form, or a file that is made when it is chosen.
 * @typedef {{title: string, values: Values, makeFile?: () => Promise<File>}} Example
 */

/**
 * - `fields`: the fields of the form, by the names of their values.
 * - `examples`: a button each. `initial`: the values at the start, those of the first example by default.
 * - `call`: the call that values make; its `method` is what the snippet for Python calls.
 * - `render`: how an answer is shown, and its summary for screen readers.
 * - `varied`: the value that a burst makes different in each request; null where it cannot. `inBurst`: what replaces
 *   the form's values there.
 * @typedef {Object} Task
 * @property {(info: Record<string, any>) => Record<string, import("./fields.js").Field>} fields
 * @property {(info: Record<string, any>) => Example[]} examples
 * @property {Values} [initial]
 * @property {(values: Values, info: Record<string, any>) => import("./calls.js").Call} call
 * @property {(answer: any, values: Values, info: Record<string, any>) => Rendered | Promise<Rendered>} render
 * @property {string | null} varied
 * @property {Values} [inBurst]
 */

/** @typedef {{node: HTMLElement, summary: string}} Rendered */

const method = (name, positional, named = {}) => ({ name, positional, named });

const example = (title, values) => ({ title, values });
const pair = (title, text, second) => example(title, { text, second });
const textExamples = (...texts) => texts.map((text) => example(text, { text }));

/** @type {Task} */
const GENERIC = {
  fields: () => ({ text: textField("Text") }),
  examples: () => textExamples("A text to try."),
  call: ({ text }) => ({ inputs: text, method: null }),
  render: asJson,
  varied: "text",
};

/** One text, and no parameters. */
const textCall =
  (name) =>
  ({ text }) => ({ inputs: text, method: method(name, [text]) });

const fileCall =
  (name) =>
  ({ file }) => ({ file, method: name ? method(name, [file]) : null });

const IMAGE = {
  fields: () => ({ file: fileField("image") }),
  examples: () => [{ title: "A drawing", values: {}, makeFile: drawing }],
  varied: null,
};

const AUDIO = {
  fields: () => ({ file: fileField("audio") }),
  examples: () => [{ title: "Three notes", values: {}, makeFile: chord }],
  varied: null,
};

const maskOf = (info) => info.mask_token ?? "[MASK]";

/** @type {Record<string, Partial<Task>>} */
export const TASKS = {
  "fill-mask": {
    fields: (info) => ({ text: maskedField("Text", maskOf(info)) }),
    examples: (info) =>
      textExamples(
        `Albert Einstein was a ${maskOf(info)} physicist.`,
        `The largest ${maskOf(info)} in the solar ${maskOf(info)} is Jupiter.`,
        `A dog is an ${maskOf(info)}.`,
      ),
    call: textCall("fill_mask"),
    render: (answer, values, info) => predictions(answer, values.text, maskOf(info)),
  },
  "text-classification": {
    fields: () => ({
      text: textField("Text"),
      second: textField("Second text, for models that compare two (optional)", { rows: 1, required: "" }),
    }),
    examples: () =>
      ["I would see it again tomorrow.", "The battery was dead after a week.", "It arrived on Tuesday."].map((text) =>
        example(text, { text, second: "" }),
      ),
    call: ({ text, second }) => {
      const parameters = { top_k: 5 };
      if (second) return { inputs: { text, text_pair: second }, parameters, method: null };
      return { inputs: text, parameters, method: method("text_classification", [text], parameters) };
    },
    render: labels,
  },
  "token-classification": {
    examples: () =>
      textExamples("Ada Lovelace met Charles Babbage in London.", "Werner von Siemens founded Siemens in Berlin."),
    call: ({ text }) => {
      const parameters = { aggregation_strategy: "simple" };
      return { inputs: text, parameters, method: method("token_classification", [text], parameters) };
    },
    render: (answer, values) => entities(answer, values.text),
  },
  "feature-extraction": {
    fields: () => ({
      text: textField("Text", { rows: 2 }),
      second: textField("Second text, to compare the first with (optional)", { rows: 2, required: "" }),
    }),
    examples: () => [
      pair("Nearly the same", "A cat sits on the mat.", "A kitten is lying on a rug."),
      pair("A question and its answer", "How do I change my password?", "Open the settings and choose a new one."),
      pair("Nothing in common", "The weather is nice today.", "The central bank raised its interest rates."),
    ],
    call: ({ text, second }, { embedding }) => {
      if (!second.trim()) return { inputs: text, method: method("feature_extraction", [text]) };
      const inputs = [text, second];
      // Its client makes one array of the answer, which two texts with their own numbers of tokens are not.
      return { inputs, method: embedding ? method("feature_extraction", [inputs]) : null };
    },
    render: embeddings,
    inBurst: { second: "" },
  },
  "zero-shot-classification": {
    fields: () => ({
      text: textField("Text"),
      labels: labelsField(),
      several: choiceField("Several labels may be true"),
    }),
    examples: () =>
      [
        {
          text: "The new phone has a brighter screen and a faster chip.",
          labels: ["technology", "sports", "politics"],
          several: false,
        },
        { text: "Can I get my money back?", labels: ["refund", "delivery", "praise", "question"], several: true },
      ].map((values) => example(values.text, values)),
    call: ({ text, labels: candidates, several }) => ({
      inputs: text,
      parameters: { candidate_labels: candidates, multi_label: several },
      method: method("zero_shot_classification", [text, candidates], { multi_label: several }),
    }),
    render: (answer, values) => (values.several ? selectedLabels(answer) : labels(answer)),
  },
  "text-generation": {
    fields: (info) => ({
      text: textField("Prompt", { rows: 4 }),
      tokens: numberField("New tokens", info.limits?.max_new_tokens),
    }),
    examples: () =>
      ["Once upon a time", "The three rules of a good kitchen are"].map((text) => example(text, { text, tokens: 20 })),
    call: ({ text, tokens }) => {
      const parameters = { max_new_tokens: tokens };
      return { inputs: text, parameters, method: method("text_generation", [text], parameters) };
    },
    render: (answer, values) => generatedText(answer, values.text),
  },
  "table-question-answering": {
    fields: () => ({ table: tableField(), question: lineField("Question", "Enter a question first.") }),
    examples: () =>
      [
        {
          question: "How many people live in Lyon?",
          table: { city: ["Paris", "Lyon", "Nantes"], people: ["2100000", "520000", "320000"] },
        },
        {
          question: "What is the sum of the prices?",
          table: { fruit: ["apple", "pear", "plum"], price: ["2", "3", "4"], stock: ["30", "12", "55"] },
        },
      ].map((values) => example(values.question, values)),
    call: ({ question, table }) => ({
      inputs: { question, table },
      method: method("table_question_answering", [table, question]),
    }),
    render: (answer, values) => tableAnswer(answer, values.table),
    varied: "question",
  },
  "image-classification": { ...IMAGE, call: fileCall("image_classification"), render: labels },
  "object-detection": {
    ...IMAGE,
    call: fileCall("object_detection"),
    render: (answer, values) => boxes(answer, values.file),
  },
  "image-segmentation": {
    ...IMAGE,
    call: fileCall("image_segmentation"),
    render: (answer, values) => masks(answer, values.file),
  },
  "image-feature-extraction": { ...IMAGE, call: fileCall(null), render: vectors },
  "zero-shot-image-classification": {
    ...IMAGE,
    fields: () => ({ file: fileField("image"), labels: labelsField() }),
    initial: { labels: ["a landscape", "a portrait", "a page of text"] },
    call: ({ file, labels: candidates }) => ({
      file,
      parameters: { candidate_labels: candidates },
      method: method("zero_shot_image_classification", [file, candidates]),
    }),
    render: labels,
  },
  "automatic-speech-recognition": {
    ...AUDIO,
    call: fileCall("automatic_speech_recognition"),
    render: transcript,
  },
  "audio-classification": { ...AUDIO, call: fileCall("audio_classification"), render: labels },
};

/** @returns {Task} */
export const taskOf = (name) => ({ ...GENERIC, ...TASKS[name] });
