/* The demonstration of batching: many different inputs one after the other, concurrently, and in lists, with the time
   and the batch sizes of each mode. It must never know tasks, nor how an answer looks. */

import { infer } from "./api.js";
import { jsonForm, requestOf } from "./calls.js";

export const REQUESTS = 200;
/** One after the other, no more requests than this are sent, nor for longer; the rest is extrapolated. */
const [MAX_SEQUENTIAL, MAX_SEQUENTIAL_MS] = [20, 4000];
/** Requests that wait in the browser for one of its connections; without HTTP/2 there are six. */
const CONCURRENCY = 32;
const MAX_TRIES = 10;

/**
 * The same values, with a number behind the one of this name: equal inputs of a batch are computed once.
 * @param {import("./calls.js").Values} values
 * @param {string} name
 * @param {number} count
 */
export function numbered(values, name, count) {
  return Array.from({ length: count }, (_, index) => ({ ...values, [name]: `${values[name]} ${index + 1}` }));
}

/** Consecutive parts of at most so many items. */
export function chunks(items, size) {
  const count = Math.ceil(items.length / size);
  return Array.from({ length: count }, (_, index) => items.slice(index * size, (index + 1) * size));
}

/**
 * The measurement of one mode of sending.
 * @typedef {Object} Mode
 * @property {string} name
 * @property {number} ms  for all the inputs, extrapolated if fewer were sent
 * @property {number} inputs
 * @property {number} sent
 * @property {number} retried  responses with status 503, after which the request was sent again
 * @property {Map<number, number>} sizes  the number of requests by the size of their batch
 */

const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

export class Burst {
  /**
   * @param {import("./calls.js").Call[]} calls
   * @param {number} maxInputs  in one request
   * @param {AbortSignal} signal
   */
  constructor(calls, maxInputs, signal) {
    Object.assign(this, { calls, maxInputs, signal });
  }

  /** The modes, each as soon as it is measured. Throws `RequestError` for what is wrong with the input itself. */
  async *modes() {
    const count = this.calls.length;
    yield await this.#sequential();
    yield await this.#concurrent(`${count} requests at once`, await Promise.all(this.calls.map(requestOf)));
    if (this.maxInputs > 1) yield await this.#inLists();
  }

  async #sequential() {
    const mode = this.#begin("One after the other");
    const started = performance.now();
    let ms = 0;
    for (const call of this.calls.slice(0, MAX_SEQUENTIAL)) {
      await this.#send(await requestOf(call), mode);
      mode.sent += 1;
      ms = performance.now() - started;
      if (ms > MAX_SEQUENTIAL_MS) break;
    }
    return { ...mode, ms: (ms * mode.inputs) / mode.sent };
  }

  #inLists() {
    const size = Math.min(this.maxInputs, CONCURRENCY);
    const requests = chunks(this.calls, size).map((calls) => {
      const inputs = calls.map((call) => call.inputs);
      return { body: JSON.stringify(jsonForm(calls[0], inputs)), type: "application/json" };
    });
    return this.#concurrent(`${requests.length} lists of up to ${size}`, requests);
  }

  async #concurrent(name, requests) {
    const mode = this.#begin(name);
    const left = [...requests];
    const started = performance.now();
    const work = async () => {
      while (left.length) await this.#send(left.shift(), mode);
    };
    await Promise.all(Array.from({ length: CONCURRENCY }, work));
    return { ...mode, sent: mode.inputs, ms: performance.now() - started };
  }

  #begin(name) {
    return { name, ms: 0, inputs: this.calls.length, sent: 0, retried: 0, sizes: new Map() };
  }

  /** Send a request; if the server is at capacity, send it again when the server says so. */
  async #send(request, mode) {
    for (let tries = 1; ; tries += 1) {
      try {
        const { timing } = await infer(request, this.signal);
        mode.sizes.set(timing.batch, (mode.sizes.get(timing.batch) ?? 0) + 1);
        return;
      } catch (error) {
        if (error.status !== 503 || tries === MAX_TRIES) throw error;
        mode.retried += 1;
        await wait(1000 * (error.retryAfterS ?? 1), this.signal);
      }
    }
  }
}
