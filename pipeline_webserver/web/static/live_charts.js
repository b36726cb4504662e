/* Charts of the server's metrics, second by second. It must never know what is in the form. */

import { fetchMetrics } from "./api.js";
import { Chart } from "./chart.js";
import { element } from "./dom.js";
import { parse, rates } from "./exposition.js";
import { duration } from "./format.js";

const INTERVAL_MS = 1000;

const rounded = (number) => String(Number(number.toPrecision(3)));

/** Without what a run says, too, when the server cannot be reached. */
function whyUnread({ type, sentences }) {
  return type === "network" || !sentences ? "The metrics cannot be read." : sentences.join(" ");
}

/** What every chart has in common. */
const legend = () =>
  element("p", { class: "hint legend-line" }, "From two minutes ago, left, to now, right; the number above is of now.");

export class LiveCharts {
  /** @param {HTMLElement} place  for the charts @param {HTMLElement} error  for what went wrong */
  constructor(place, error) {
    this.error = error;
    this.last = null;
    this.charts = [
      [new Chart("Requests per second", [""], rounded), (now) => [now.requestsPerSecond]],
      [new Chart("Latency", ["p50", "p99"], (ms) => duration(ms, 2)), (now) => [now.p50Ms, now.p99Ms]],
      [new Chart("Batch size, mean", [""], rounded), (now) => [now.batchSize]],
      [new Chart("Inputs in flight", [""], rounded), (now) => [now.inputsInFlight]],
    ];
    place.replaceChildren(...this.charts.map(([chart]) => chart.node), legend());
  }

  /** Read the metrics once a second while the page is visible. */
  start() {
    const next = async () => {
      if (!document.hidden) await this.#read();
      setTimeout(next, INTERVAL_MS);
    };
    next();
  }

  async #read() {
    try {
      const [samples, at] = [parse(await fetchMetrics()), performance.now()];
      if (this.last) this.#show(rates(this.last.samples, samples, (at - this.last.at) / 1000));
      this.last = { samples, at };
      this.error.textContent = "";
    } catch (error) {
      this.error.textContent = whyUnread(error);
    }
  }

  #show(now) {
    for (const [chart, values] of this.charts) chart.push(values(now));
  }
}
