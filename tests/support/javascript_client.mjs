// Calls methods of @huggingface/inference as JSON on stdin says, and prints what each gives, or its error.
// A string of the form "file:TYPE:BASE64" stands for a Blob.
import { InferenceClient } from "@huggingface/inference";

function revive(name, value) {
  const [, type, data] = (typeof value === "string" && /^file:([^:]*):(.*)$/.exec(value)) || [];
  return data === undefined ? value : new Blob([Buffer.from(data, "base64")], { type });
}

let text = "";
for await (const part of process.stdin) text += part;

const answers = [];
for (const { url, method, args } of JSON.parse(text, revive)) {
  try {
    const answer = await new InferenceClient().endpoint(url)[method](args, { retry_on_error: false });
    answers.push({ answer });
  } catch (error) {
    answers.push({ error: error.message, body: error.httpResponse?.body });
  }
}
console.log(JSON.stringify(answers));
