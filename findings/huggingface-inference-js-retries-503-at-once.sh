#!/bin/sh
# @huggingface/inference 4.13.30 (JavaScript): a 503 is retried at once, whatever its Retry-After says, and as often as it
# comes; only `retry_on_error: false` ends it. One call against a server that answers 503 with "Retry-After: 5" for the
# first 50 requests is over within five seconds, with 51 requests sent.
# Seen: requests: 51, full waits of 5 s: 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @huggingface/inference@4.13.30 >/dev/null
cat >run.mjs <<'JAVASCRIPT'
import http from "node:http";
import { InferenceClient } from "@huggingface/inference";

let requests = 0;
const server = http.createServer((request, response) => {
  request.resume();
  requests += 1;
  const busy = requests <= 50;
  response.writeHead(busy ? 503 : 200, { "Content-Type": "application/json", "Retry-After": "5" });
  response.end(JSON.stringify(busy ? { error: "busy" } : [[{ label: "A", score: 1 }]]));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const started = Date.now();
const client = new InferenceClient("none", { endpointUrl: `http://127.0.0.1:${server.address().port}/` });
await client.textClassification({ inputs: "a text" });
const waited = Math.floor((Date.now() - started) / 5000);
console.log(`requests: ${requests}, full waits of 5 s: ${waited}`);
server.close();
process.exit(requests === 51 && waited === 0 ? 0 : 1);
JAVASCRIPT
node run.mjs
