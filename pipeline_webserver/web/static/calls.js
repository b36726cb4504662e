/* A call of the pipeline, pure: its JSON form, and the body of its HTTP request. It must never know tasks, nor how a
   call is written as code. */

/**
 * The values of a form by the names of its fields, which depend on the task.
 * @typedef {Record<string, any>} Values
 */

/**
 * Inputs or a file, with parameters. A `file` is the body itself, or the inputs of the JSON form in base64 if there are
 * parameters. `method` is the method of huggingface_hub's client that makes the same call, if it has one.
 * @typedef {Object} Call
 * @property {unknown} [inputs]
 * @property {File | null} [file]
 * @property {Record<string, unknown>} [parameters]
 * @property {{name: string, positional: unknown[], named: Record<string, unknown>} | null} method
 */

/** The JSON form of a call, or of several with the same parameters. */
export function jsonForm(call, inputs = call.inputs) {
  return call.parameters ? { inputs, parameters: call.parameters } : { inputs };
}

/** The bytes of a file in base64, in chunks: a function cannot take a million arguments. */
export async function toBase64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const chunks = [];
  for (let start = 0; start < bytes.length; start += 0x8000) {
    chunks.push(String.fromCharCode(...bytes.subarray(start, start + 0x8000)));
  }
  return btoa(chunks.join(""));
}

/**
 * The body of a call's request, and its media type.
 * @param {Call} call
 */
export async function requestOf(call) {
  if (call.file && !call.parameters) return { body: call.file, type: mediaType(call.file) };
  const inputs = call.file ? await toBase64(call.file) : call.inputs;
  return { body: JSON.stringify(jsonForm(call, inputs)), type: "application/json" };
}

/** The media type of a file; browsers do not know all, and there may be no file yet. */
export const mediaType = (file) => file?.type || "application/octet-stream";
