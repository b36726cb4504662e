/* The body of a call on the documentation page, in each form that the document has: a text that starts with the example, or
   a file. It must never know how a call is sent. */

import { mediaType, toBase64 } from "./calls.js";
import { element } from "./dom.js";
import { labelled } from "./fields.js";
import { nameOf } from "./schema_view.js";

const JSON_TYPE = "application/json";

/**
 * @typedef {Object} BodyForm
 * @property {string} label
 * @property {HTMLElement} node
 * @property {() => Promise<{body: BodyInit, type: string}>} read
 */

/** @returns {BodyForm} */
function textForm(type, { example }, file) {
  const text = typeof example === "string" ? example : JSON.stringify(example, null, 2);
  const area = element("textarea", { rows: Math.min(12, text.split("\n").length + 1), spellcheck: "false" });
  area.value = text;
  const read = async () => ({ body: await withFile(area.value, file?.control.files[0]), type });
  const node = element("div", {}, [labelled(area, `Body, ${type}`), ...(file ? [file.node] : [])]);
  return { label: type, node, read };
}

/** A JSON form with a file as its inputs. */
async function withFile(text, file) {
  if (!file) return text;
  let form;
  try {
    form = JSON.parse(text);
  } catch {
    throw new Error("The body is not JSON, so the file cannot be put into it.");
  }
  return JSON.stringify({ ...form, inputs: await toBase64(file) });
}

function chooser(label, accept) {
  const control = element("input", { type: "file", accept });
  return { control, node: labelled(control, label) };
}

/** One form for all types of files: the file says which it is. @returns {BodyForm} */
function fileForm(types) {
  const { control, node } = chooser("Body, a file", types.join(","));
  const read = async () => {
    const [file] = control.files;
    if (!file) throw new Error("Choose a file first.");
    return { body: file, type: mediaType(file) };
  };
  return { label: "a file", node, read };
}

/** Whether the `inputs` of a JSON form can be a file in base64. */
function takesFile(schema, schemas) {
  const inputs = schema.$ref && schemas[nameOf(schema.$ref)]?.properties?.inputs;
  const text = JSON.stringify(inputs ?? {}).replace(/"#\/components\/schemas\/(\w+)"/g, (_, name) => JSON.stringify(schemas[name]));
  return text.includes('"contentEncoding":"base64"');
}

/**
 * The forms of a request's body; JSON is the first.
 * @param {Record<string, any>} content  by media type
 * @param {Record<string, any>} schemas  of the document, by name
 */
export function bodyForms(content, schemas) {
  const entries = Object.entries(content);
  const isFile = ([, { schema }]) => schema.format === "binary";
  const types = entries.filter(isFile).map(([type]) => type);
  const forms = entries
    .filter((entry) => !isFile(entry))
    .sort(([one], [other]) => Number(other === JSON_TYPE) - Number(one === JSON_TYPE))
    .map(([type, given]) => {
      const hasFile = type === JSON_TYPE && takesFile(given.schema, schemas);
      return textForm(type, given, hasFile ? chooser("A file in place of the inputs (optional)", "") : null);
    });
  return types.length ? [...forms, fileForm(types)] : forms;
}
