/* The dealings with the server: requests, the answers' timing, and errors in plain words. It must never know what
   the page looks like, nor what an answer means. */

import { withKey } from "./dom.js";

/** What is said before the server's own words, by its types of errors. */
const IN_WORDS = {
  malformed: "The server does not understand this request.",
  unauthorized: "The server wants an API key.",
  too_slow: "The request did not arrive in time.",
  too_large: "This is more than the server takes.",
  unsupported_media_type: "The model does not take this kind of file.",
  rejected: "The model cannot work with this input.",
  inference_failed: "The model failed on this input.",
  overloaded: "The server is full right now.",
  starting: "The server is still starting.",
  draining: "The server is shutting down.",
  unavailable: "The model is out of order.",
  deadline_exceeded: "There was no answer in time.",
};

/** An answer that is an error, or none at all. `type` is "network" if the server could not be reached. */
export class Trouble extends Error {
  /**
   * @param {string} type
   * @param {string} words the server's own
   * @param {number} [status]
   * @param {number | null} [retryAfterS]
   */
  constructor(type, words, status = 0, retryAfterS = null) {
    super(words);
    Object.assign(this, { type, status, retryAfterS });
  }

  /** For the person who has to act. */
  get sentences() {
    const told = IN_WORDS[this.type] ? [IN_WORDS[this.type], this.message] : [this.message];
    if (this.retryAfterS !== null) told.push(`Try again in ${this.retryAfterS} s.`);
    return told;
  }
}

/**
 * @typedef {{queue?: number, model?: number, total?: number, batch?: number}} Timing  milliseconds, and requests in a batch
 */

/**
 * The header `Server-Timing`.
 * @param {string | null} header
 * @returns {Timing}
 */
export function timingOf(header) {
  const timing = {};
  for (const part of (header ?? "").split(",")) {
    const found = /^\s*(\w+)\s*;\s*(?:dur=([\d.]+)|desc="(\d+)")/.exec(part);
    if (found) timing[found[1]] = Number(found[2] ?? found[3]);
  }
  return timing;
}

/** The error in an answer. */
async function troubleIn(response) {
  const wait = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const retryAfterS = Number.isNaN(wait) ? null : wait;
  try {
    const { error, error_type: type } = await response.json();
    return new Trouble(String(type), String(error), response.status, retryAfterS);
  } catch {
    const words = `The answer has status ${response.status} and is not from the model: something stands between.`;
    return new Trouble("unknown", words, response.status, retryAfterS);
  }
}

/** A response that is no error. Raises `Trouble`, or an `AbortError` once the signal says so. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: withKey(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("network", "The server cannot be reached. Is it running, and is this device online?");
  }
  if (!response.ok) throw await troubleIn(response);
  return response;
}

/** What the server says of itself. */
export async function info() {
  return (await ask("info")).json();
}

/** Prometheus text. */
export async function metrics() {
  return (await ask("metrics")).text();
}

/**
 * Run the pipeline.
 * @param {{body: BodyInit, type: string}} request
 * @param {AbortSignal} [signal]
 * @returns {Promise<{answer: any, timing: Timing, elapsedMs: number}>}
 */
export async function infer(request, signal) {
  const started = performance.now();
  const response = await ask(".", {
    method: "POST",
    body: request.body,
    headers: { "Content-Type": request.type },
    signal,
  });
  const answer = await response.json();
  const elapsedMs = performance.now() - started;
  return { answer, timing: timingOf(response.headers.get("server-timing")), elapsedMs };
}
