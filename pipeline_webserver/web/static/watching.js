/* What the server does, second by second, from its metrics. It must never know what is in the form. */

import { metrics } from "./api.js";
import { duration } from "./bars.js";
import { Chart } from "./chart.js";
import { between, parse } from "./exposition.js";

const EVERY_MS = 1000;

const round = (number) => String(Number(number.toPrecision(3)));

export class Watch {
  /** @param {HTMLElement} place  for the charts @param {HTMLElement} trouble  for what went wrong */
  constructor(place, trouble) {
    this.trouble = trouble;
    this.before = null;
    this.charts = [
      [new Chart("Requests per second", [""], round), (now) => [now.requestsPerSecond]],
      [new Chart("Latency", ["p50", "p99"], (ms) => duration(ms, 2)), (now) => [now.p50Ms, now.p99Ms]],
      [new Chart("Requests in a batch, mean", [""], round), (now) => [now.batchSize]],
      [new Chart("Inputs in the house", [""], round), (now) => [now.inHouse]],
    ];
    place.replaceChildren(...this.charts.map(([chart]) => chart.node));
  }

  /** Ask once a second, as long as somebody looks. */
  start() {
    const next = async () => {
      if (!document.hidden) await this.#read();
      setTimeout(next, EVERY_MS);
    };
    next();
  }

  async #read() {
    try {
      const [samples, at] = [parse(await metrics()), performance.now()];
      if (this.before) this.#show(between(this.before.samples, samples, (at - this.before.at) / 1000));
      this.before = { samples, at };
      this.trouble.textContent = "";
    } catch (error) {
      this.trouble.textContent = error.sentences?.join(" ") ?? "The metrics cannot be read.";
    }
  }

  #show(now) {
    for (const [chart, values] of this.charts) chart.push(values(now));
  }
}
