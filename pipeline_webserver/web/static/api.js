/* The client of the server: requests, the timing of responses, and errors in plain words. It must never know elements,
   nor what an answer means. */

import { withApiKey } from "./dom.js";

/** What is shown before the server's own message, by its error types. */
export const EXPLANATIONS = {
  malformed: "The server cannot parse this request.",
  unauthorized: "The server requires an API key.",
  too_slow: "The request did not arrive in time.",
  too_large: "The request exceeds a limit of the server.",
  unsupported_media_type: "The model does not accept this type of file.",
  rejected: "The model cannot process this input.",
  inference_failed: "The model failed on this input.",
  overloaded: "The server is at capacity.",
  starting: "The server is still starting.",
  draining: "The server is shutting down.",
  unavailable: "The model is unavailable.",
  deadline_exceeded: "There was no answer in time.",
};

const plain = (text) => text.toLowerCase().replace(/[.;:]\s*$/, "");

/** Whether a message begins with what a sentence says. */
const repeats = (message, sentence) => plain(message).startsWith(plain(sentence));

/** A request that failed, or that cannot be sent. `type` is "network" if the server could not be reached. */
export class RequestError extends Error {
  /**
   * @param {string} type
   * @param {string} message  the server's own
   * @param {number} [status]
   * @param {number | null} [retryAfterS]
   */
  constructor(type, message, status = 0, retryAfterS = null) {
    super(message);
    Object.assign(this, { type, status, retryAfterS });
  }

  /** What happened and what to do, for the user. */
  get sentences() {
    const sentences = [this.message];
    const explanation = EXPLANATIONS[this.type];
    if (explanation && !repeats(this.message, explanation)) sentences.unshift(explanation);
    if (this.retryAfterS !== null) sentences.push(`Try again in ${this.retryAfterS} s.`);
    return sentences;
  }
}

/**
 * @typedef {{queue?: number, model?: number, total?: number, batch?: number}} Timing  milliseconds, and the batch size
 */

/**
 * The header `Server-Timing`.
 * @param {string | null} header
 * @returns {Timing}
 */
export function parseTiming(header) {
  const timing = {};
  for (const part of (header ?? "").split(",")) {
    const match = /^\s*(\w+)\s*;\s*(?:dur=([\d.]+)|desc="(\d+)")/.exec(part);
    if (match) timing[match[1]] = Number(match[2] ?? match[3]);
  }
  return timing;
}

/** The error in a response. */
async function errorOf(response) {
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const retryAfterS = Number.isNaN(seconds) ? null : seconds;
  try {
    const { error, error_type: type } = await response.json();
    return new RequestError(String(type), String(error), response.status, retryAfterS);
  } catch {
    const message = `The response has status ${response.status} and does not come from the server, but from a proxy.`;
    return new RequestError("unknown", message, response.status, retryAfterS);
  }
}

/** Any response. Throws a `RequestError` if there is none, or an `AbortError` when the signal aborts. */
export async function respond(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("network", "The server cannot be reached. Is it running, and is this device online?");
  }
}

/** A successful response. Throws as `respond`, and a `RequestError` for an error of the server. */
async function send(path, options = {}) {
  const response = await respond(path, { ...options, headers: withApiKey(options.headers) });
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** The model, the limits and the optimizations. */
export async function fetchInfo() {
  return (await send("info")).json();
}

/** A page of the server as text. */
export async function fetchText(path) {
  return (await send(path)).text();
}

/** Prometheus text. */
export const fetchMetrics = () => fetchText("metrics");

/**
 * Run the pipeline.
 * @param {{body: BodyInit, type: string}} request
 * @param {AbortSignal} [signal]
 * @returns {Promise<{answer: any, timing: Timing, elapsedMs: number}>}
 */
export async function infer(request, signal) {
  const started = performance.now();
  const response = await send(".", {
    method: "POST",
    body: request.body,
    headers: { "Content-Type": request.type },
    signal,
  });
  const answer = await response.json();
  const elapsedMs = performance.now() - started;
  return { answer, timing: parseTiming(response.headers.get("server-timing")), elapsedMs };
}
