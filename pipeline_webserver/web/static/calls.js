/* From what stands in the form to what is asked of the server, pure: the inputs and parameters of each task, and
   which method of huggingface_hub's client does the same. It must never know elements, nor how a call is written
   down. */

/**
 * What stands in a form; which of them there are depends on the task.
 * @typedef {Object} Values
 * @property {string} [text]
 * @property {string} [second]  the other text of a pair
 * @property {string[]} [labels]
 * @property {boolean} [several]  whether several labels may be true
 * @property {number} [tokens]
 * @property {string} [question]
 * @property {Record<string, string[]>} [table]
 * @property {File | null} [file]
 */

/**
 * What is asked. `file` is the body itself, or the inputs of the JSON form in base64 if there are parameters.
 * @typedef {Object} Call
 * @property {unknown} [inputs]
 * @property {File | null} [file]
 * @property {Record<string, unknown>} [parameters]
 * @property {{name: string, positional: unknown[], named: Record<string, unknown>} | null} method
 */

const FILE_METHODS = {
  "image-classification": "image_classification",
  "object-detection": "object_detection",
  "image-segmentation": "image_segmentation",
  "automatic-speech-recognition": "automatic_speech_recognition",
  "audio-classification": "audio_classification",
};

const method = (name, positional, named = {}) => ({ name, positional, named });

/** One text and no parameters. */
const plain = (name) => (values) => ({ inputs: values.text, method: method(name, [values.text]) });

function classification(values) {
  const parameters = { top_k: 5 };
  if (values.second) return { inputs: { text: values.text, text_pair: values.second }, parameters, method: null };
  return { inputs: values.text, parameters, method: method("text_classification", [values.text], parameters) };
}

function entities(values) {
  const parameters = { aggregation_strategy: "simple" };
  return { inputs: values.text, parameters, method: method("token_classification", [values.text], parameters) };
}

function zeroShot(values) {
  const parameters = { candidate_labels: values.labels, multi_label: values.several };
  const named = { multi_label: values.several };
  const called = method("zero_shot_classification", [values.text, values.labels], named);
  return { inputs: values.text, parameters, method: called };
}

function generation(values) {
  const parameters = { max_new_tokens: values.tokens };
  return { inputs: values.text, parameters, method: method("text_generation", [values.text], parameters) };
}

function tableQuestion(values) {
  const inputs = { question: values.question, table: values.table };
  return { inputs, method: method("table_question_answering", [values.table, values.question]) };
}

function zeroShotImage(values) {
  const parameters = { candidate_labels: values.labels };
  return {
    file: values.file,
    parameters,
    method: method("zero_shot_image_classification", [values.file, values.labels]),
  };
}

const TEXT_CALLS = {
  "fill-mask": plain("fill_mask"),
  "text-classification": classification,
  "token-classification": entities,
  "feature-extraction": plain("feature_extraction"),
  "zero-shot-classification": zeroShot,
  "text-generation": generation,
  "table-question-answering": tableQuestion,
  "zero-shot-image-classification": zeroShotImage,
};

/**
 * @param {string} task
 * @param {Values} values
 * @returns {Call}
 */
export function callOf(task, values) {
  if (task in TEXT_CALLS) return TEXT_CALLS[task](values);
  if (!("file" in values)) return { inputs: values.text, method: null };
  const name = FILE_METHODS[task];
  return { file: values.file, method: name ? method(name, [values.file]) : null };
}

/** The JSON form of a call, or of several with the same parameters. */
export function formOf(call, inputs = call.inputs) {
  return call.parameters ? { inputs, parameters: call.parameters } : { inputs };
}

/** Bytes in base64, in pieces: a call cannot have a million arguments. */
export async function base64Of(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const pieces = [];
  for (let start = 0; start < bytes.length; start += 0x8000) {
    pieces.push(String.fromCharCode(...bytes.subarray(start, start + 0x8000)));
  }
  return btoa(pieces.join(""));
}

/**
 * The body of a call, and its type.
 * @param {Call} call
 */
export async function requestOf(call) {
  if (call.file && !call.parameters) return { body: call.file, type: typeOf(call.file) };
  const inputs = call.file ? await base64Of(call.file) : call.inputs;
  return { body: JSON.stringify(formOf(call, inputs)), type: "application/json" };
}

/** The type of a file; browsers do not know all, and before one is chosen nobody does. */
export const typeOf = (file) => file?.type || "application/octet-stream";

/** What is missing before a call makes sense, or nothing. */
export function missingIn(values) {
  if ("file" in values && !values.file) return "Choose a file first.";
  if ("labels" in values && values.labels.length === 0) return "Give at least one label.";
  if ("tokens" in values && !(values.tokens >= 1)) return "The number of tokens is a whole number from 1.";
  if ("table" in values && Object.keys(values.table).length === 0) return "The table needs a column with a name.";
  if ("question" in values && !values.question.trim()) return "Ask a question first.";
  if ("text" in values && !values.text.trim()) return "Write a text first.";
  return "";
}
