/* What can be tried with a click, for each task. It must never know elements. */

/**
 * The values of a form. "[MASK]" stands for the model's own mask.
 * @type {Record<string, import("./calls.js").Values[]>}
 */
const EXAMPLES = {
  "fill-mask": [
    { text: "Albert Einstein was a [MASK] physicist." },
    { text: "The largest [MASK] in the solar [MASK] is Jupiter." },
    { text: "A dog is an [MASK]." },
  ],
  "text-classification": [
    { text: "I would see it again tomorrow.", second: "" },
    { text: "The battery was dead after a week.", second: "" },
    { text: "It arrived on Tuesday.", second: "" },
  ],
  "token-classification": [
    { text: "Ada Lovelace met Charles Babbage in London." },
    { text: "Werner von Siemens founded Siemens in Berlin." },
  ],
  "feature-extraction": [{ text: "A sentence becomes numbers." }, { text: "The weather is nice today." }],
  "zero-shot-classification": [
    {
      text: "The new phone has a brighter screen and a faster chip.",
      labels: ["technology", "sports", "politics"],
      several: false,
    },
    { text: "Can I get my money back?", labels: ["refund", "delivery", "praise", "question"], several: true },
  ],
  "text-generation": [
    { text: "Once upon a time", tokens: 20 },
    { text: "The three rules of a good kitchen are", tokens: 20 },
  ],
  "table-question-answering": [
    {
      question: "How many people live in Lyon?",
      table: { city: ["Paris", "Lyon", "Nantes"], people: ["2100000", "520000", "320000"] },
    },
    {
      question: "What is the sum of the prices?",
      table: { fruit: ["apple", "pear", "plum"], price: ["2", "3", "4"], stock: ["30", "12", "55"] },
    },
  ],
  "zero-shot-image-classification": [{ labels: ["a landscape", "a portrait", "a page of text"] }],
};

/** The examples of a task; of one that is not known, a text. */
export function examplesOf(task, mask) {
  const examples = EXAMPLES[task] ?? [{ text: "A text to try." }];
  return examples.map((values) =>
    "text" in values ? { ...values, text: values.text.replaceAll("[MASK]", mask) } : values,
  );
}

/** What an example is called on its button. */
export const titleOf = (values) => values.question ?? values.text ?? values.labels?.join(", ") ?? "";
