/* A call written down for a shell, for Python and for JavaScript, pure: each can be copied and run as it is. It
   must never know the form that the call came from. */

import { formOf, typeOf } from "./calls.js";
import { quoteForJavaScript, quoteForPython, quoteForShell } from "./quoting.js";

/**
 * @typedef {Object} Place
 * @property {string} url  of the server, with a slash at its end
 * @property {boolean} hasKey  then it is read from the variable KEY
 */

/** What stands behind the inputs in the JSON form of a call. */
const behindInputs = (call) => JSON.stringify(formOf(call, 0)).slice('{"inputs":0'.length);

const nameOf = (file) => file?.name ?? "file";
const jsonType = "Content-Type: application/json";

/** @param {import("./calls.js").Call} call @param {Place} place */
export function curl(call, place) {
  const key = place.hasKey ? ' -H "Authorization: Bearer $KEY"' : "";
  const url = quoteForShell(place.url);
  if (call.file === undefined) {
    return `curl${key} -H ${quoteForShell(jsonType)} \\\n  -d ${quoteForShell(JSON.stringify(formOf(call)))} \\\n  ${url}`;
  }
  if (!call.parameters) {
    const type = quoteForShell(`Content-Type: ${typeOf(call.file)}`);
    return `curl${key} -H ${type} \\\n  --data-binary ${quoteForShell(`@${nameOf(call.file)}`)} \\\n  ${url}`;
  }
  const base64 = `base64 < ${quoteForShell(nameOf(call.file))} | tr -d '\\n'`;
  const lines = [
    `printf %s ${quoteForShell('{"inputs":"')}`,
    base64,
    `printf %s ${quoteForShell(`"${behindInputs(call)}`)}`,
  ];
  return `{ ${lines.join("\n  ")}\n} | curl${key} -H ${quoteForShell(jsonType)} --data-binary @- \\\n  ${url}`;
}

const pythonValue = (value) => quoteForPython(value instanceof File ? value.name : (value ?? "file"));

/** @param {import("./calls.js").Call} call @param {Place} place */
export function python(call, place) {
  if (!call.method) return pythonByHand(call, place);
  const { name, positional, named } = call.method;
  const options = Object.entries(named).map(([option, value]) => `${option}=${pythonValue(value)}`);
  const words = [...positional.map(pythonValue), ...options].join(", ");
  const key = place.hasKey ? ', token=os.environ["KEY"]' : "";
  return [
    ...(place.hasKey ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(model=${quoteForPython(place.url.replace(/\/$/, ""))}${key})`,
    `print(client.${name}(${words}))`,
  ].join("\n");
}

/** For what the client has no method for. */
function pythonByHand(call, place) {
  const isFile = call.file !== undefined;
  const type = isFile ? typeOf(call.file) : "application/json";
  const key = place.hasKey ? ', "Authorization": f"Bearer {os.environ[\'KEY\']}"' : "";
  const body = isFile
    ? `body = pathlib.Path(${quoteForPython(nameOf(call.file))}).read_bytes()`
    : `body = json.dumps(${quoteForPython(formOf(call))}).encode()`;
  return [
    "import json",
    ...(place.hasKey ? ["import os"] : []),
    ...(isFile ? ["import pathlib"] : []),
    "import urllib.request",
    "",
    body,
    `headers = {"Content-Type": ${quoteForPython(type)}${key}}`,
    `request = urllib.request.Request(${quoteForPython(place.url)}, body, headers)`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

/** @param {import("./calls.js").Call} call @param {Place} place */
export function javascript(call, place) {
  const isFile = call.file !== undefined;
  const read = `await readFile(${quoteForJavaScript(nameOf(call.file))})`;
  const isForm = !isFile || Boolean(call.parameters);
  const type = isForm ? "application/json" : typeOf(call.file);
  const form = isFile
    ? `JSON.stringify({"inputs":(${read}).toString("base64")${behindInputs(call)})`
    : `JSON.stringify(${JSON.stringify(formOf(call))})`;
  const key = place.hasKey ? ", Authorization: `Bearer ${process.env.KEY}`" : "";
  return [
    ...(isFile ? ['import { readFile } from "node:fs/promises";', ""] : []),
    `const response = await fetch(${quoteForJavaScript(place.url)}, {`,
    '  method: "POST",',
    `  headers: { "Content-Type": ${quoteForJavaScript(type)}${key} },`,
    `  body: ${isForm ? form : read},`,
    "});",
    "console.log(await response.json());",
  ].join("\n");
}

export const LANGUAGES = { curl, Python: python, JavaScript: javascript };
