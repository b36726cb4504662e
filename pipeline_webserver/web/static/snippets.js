/* A call as code for a shell, for Python and for JavaScript, pure: each snippet can be copied and run as it is. It must
   never know the form that the call came from. */

import { jsonForm, mediaType } from "./calls.js";
import { quoteForJavaScript, quoteForPython, quoteForShell } from "./quoting.js";

/**
 * @typedef {Object} Server
 * @property {string} url  with a slash at its end
 * @property {boolean} hasKey  then the snippet reads the API key from the variable KEY
 */

/** What follows the inputs in the JSON form of a call. */
const afterInputs = (call) => JSON.stringify(jsonForm(call, 0)).slice('{"inputs":0'.length);

const nameOf = (file) => file?.name ?? "file";
const JSON_HEADER = "Content-Type: application/json";

/** @param {import("./calls.js").Call} call @param {Server} server */
export function curl(call, server) {
  const key = server.hasKey ? ' -H "Authorization: Bearer $KEY"' : "";
  const url = quoteForShell(server.url);
  if (call.file === undefined) {
    return `curl${key} -H ${quoteForShell(JSON_HEADER)} \\\n  -d ${quoteForShell(JSON.stringify(jsonForm(call)))} \\\n  ${url}`;
  }
  if (!call.parameters) {
    const header = quoteForShell(`Content-Type: ${mediaType(call.file)}`);
    return `curl${key} -H ${header} \\\n  --data-binary ${quoteForShell(`@${nameOf(call.file)}`)} \\\n  ${url}`;
  }
  const lines = [
    `printf %s ${quoteForShell('{"inputs":"')}`,
    `base64 < ${quoteForShell(nameOf(call.file))} | tr -d '\\n'`,
    `printf %s ${quoteForShell(`"${afterInputs(call)}`)}`,
  ];
  return `{ ${lines.join("\n  ")}\n} | curl${key} -H ${quoteForShell(JSON_HEADER)} --data-binary @- \\\n  ${url}`;
}

const pythonArgument = (value) => quoteForPython(value instanceof File ? value.name : (value ?? "file"));

/** @param {import("./calls.js").Call} call @param {Server} server */
export function python(call, server) {
  if (!call.method) return pythonWithUrllib(call, server);
  const { name, positional, named } = call.method;
  const options = Object.entries(named).map(([option, value]) => `${option}=${pythonArgument(value)}`);
  const key = server.hasKey ? ', token=os.environ["KEY"]' : "";
  return [
    ...(server.hasKey ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(model=${quoteForPython(server.url.replace(/\/$/, ""))}${key})`,
    `print(client.${name}(${[...positional.map(pythonArgument), ...options].join(", ")}))`,
  ].join("\n");
}

/** For calls that the client has no method for. */
function pythonWithUrllib(call, server) {
  const isFile = call.file !== undefined;
  const type = isFile ? mediaType(call.file) : "application/json";
  const key = server.hasKey ? ', "Authorization": f"Bearer {os.environ[\'KEY\']}"' : "";
  const body = isFile
    ? `body = pathlib.Path(${quoteForPython(nameOf(call.file))}).read_bytes()`
    : `body = json.dumps(${quoteForPython(jsonForm(call))}).encode()`;
  return [
    "import json",
    ...(server.hasKey ? ["import os"] : []),
    ...(isFile ? ["import pathlib"] : []),
    "import urllib.request",
    "",
    body,
    `headers = {"Content-Type": ${quoteForPython(type)}${key}}`,
    `request = urllib.request.Request(${quoteForPython(server.url)}, body, headers)`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

/** @param {import("./calls.js").Call} call @param {Server} server */
export function javascript(call, server) {
  const isFile = call.file !== undefined;
  const bytes = `await readFile(${quoteForJavaScript(nameOf(call.file))})`;
  const isJson = !isFile || Boolean(call.parameters);
  const type = isJson ? "application/json" : mediaType(call.file);
  const json = isFile
    ? `JSON.stringify({"inputs":(${bytes}).toString("base64")${afterInputs(call)})`
    : `JSON.stringify(${JSON.stringify(jsonForm(call))})`;
  const key = server.hasKey ? ", Authorization: `Bearer ${process.env.KEY}`" : "";
  return [
    ...(isFile ? ['import { readFile } from "node:fs/promises";', ""] : []),
    `const response = await fetch(${quoteForJavaScript(server.url)}, {`,
    '  method: "POST",',
    `  headers: { "Content-Type": ${quoteForJavaScript(type)}${key} },`,
    `  body: ${isJson ? json : bytes},`,
    "});",
    "console.log(await response.json());",
  ].join("\n");
}

export const LANGUAGES = { curl, Python: python, JavaScript: javascript };
