/* The demonstration of batching: many different inputs one after the other, at once, and in lists, with what each
   way took and the batches they rode in. It must never know how an answer looks. */

import { infer } from "./api.js";
import { callOf, formOf, requestOf } from "./calls.js";

export const REQUESTS = 200;
/** One after the other no more are sent than this, nor for longer; the rest is extrapolated. */
const [MOST_ALONE, MOST_ALONE_MS] = [20, 4000];
/** Requests that wait in the browser for one of its connections; without HTTP/2 there are six. */
const AT_ONCE = 32;
const MOST_TRIES = 10;

/**
 * The same values, each time a little different: equal inputs of a batch are computed once.
 * @param {import("./calls.js").Values} values
 * @param {number} count
 */
export function varied(values, count) {
  const name = "question" in values ? "question" : "text";
  return Array.from({ length: count }, (_, index) => ({ ...values, [name]: `${values[name]} ${index + 1}` }));
}

/** Consecutive parts of at most so many. */
export function parts(items, most) {
  const count = Math.ceil(items.length / most);
  return Array.from({ length: count }, (_, index) => items.slice(index * most, (index + 1) * most));
}

/**
 * How one way of sending went.
 * @typedef {Object} Way
 * @property {string} name
 * @property {number} ms  for all the inputs, extrapolated if fewer were sent
 * @property {number} inputs
 * @property {number} sent
 * @property {number} refused  answers that were 503 and tried again
 * @property {Map<number, number>} sizes  how many requests rode in a batch of that size
 */

const wait = (ms, signal) =>
  new Promise((done, fail) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      fail(signal.reason);
    });
  });

export class Burst {
  /**
   * @param {string} task
   * @param {import("./calls.js").Values} values
   * @param {number} mostInputs  in one request
   * @param {AbortSignal} signal
   */
  constructor(task, values, mostInputs, signal) {
    this.calls = varied(values, REQUESTS).map((each) => callOf(task, each));
    this.mostInputs = mostInputs;
    this.signal = signal;
  }

  /** The ways, each as soon as it is over. Raises `Trouble` for what is wrong with the input itself. */
  async *ways() {
    yield await this.#oneByOne();
    yield await this.#atOnce(`${REQUESTS} requests at once`, await Promise.all(this.calls.map(requestOf)));
    if (this.mostInputs > 1) yield await this.#inLists();
  }

  async #oneByOne() {
    const way = this.#begin("One after the other");
    const started = performance.now();
    let ms = 0;
    for (const call of this.calls.slice(0, MOST_ALONE)) {
      await this.#send(await requestOf(call), way);
      way.sent += 1;
      ms = performance.now() - started;
      if (ms > MOST_ALONE_MS) break;
    }
    return { ...way, ms: (ms * REQUESTS) / way.sent };
  }

  #inLists() {
    const size = Math.min(this.mostInputs, AT_ONCE);
    const lists = parts(this.calls, size).map((calls) =>
      formOf(
        calls[0],
        calls.map((call) => call.inputs),
      ),
    );
    const requests = lists.map((form) => ({ body: JSON.stringify(form), type: "application/json" }));
    return this.#atOnce(`${requests.length} lists of up to ${size}`, requests);
  }

  async #atOnce(name, requests) {
    const way = this.#begin(name);
    const left = [...requests];
    const started = performance.now();
    const work = async () => {
      while (left.length) await this.#send(left.shift(), way);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return { ...way, sent: REQUESTS, ms: performance.now() - started };
  }

  #begin(name) {
    return { name, ms: 0, inputs: REQUESTS, sent: 0, refused: 0, sizes: new Map() };
  }

  /** Send a request; again, when the server says so, if it is full. */
  async #send(request, way) {
    for (let tries = 1; ; tries += 1) {
      try {
        const { timing } = await infer(request, this.signal);
        way.sizes.set(timing.batch, (way.sizes.get(timing.batch) ?? 0) + 1);
        return;
      } catch (trouble) {
        if (trouble.status !== 503 || tries === MOST_TRIES) throw trouble;
        way.refused += 1;
        await wait(1000 * (trouble.retryAfterS ?? 1), this.signal);
      }
    }
  }
}
