/* A line chart of the last points of one or two series. It must never know what they count. */

import { element, svgElement } from "./dom.js";

const POINTS = 120;
const [WIDTH, HEIGHT] = [240, 60];

/** The next round number: 1, 2 or 5 times a power of ten. */
export function roundUp(number) {
  if (!(number > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= number * 0.999);
}

/** The path of a series: it is broken where a value is null, and a single point is a dot. */
export function pathOf(values, max) {
  const xOf = (index) => (WIDTH * (index + POINTS - values.length)) / (POINTS - 1);
  let path = "";
  for (const [index, value] of values.entries()) {
    if (value === null) continue;
    const isNew = index === 0 || values[index - 1] === null;
    const point = `${xOf(index).toFixed(1)} ${(HEIGHT * (1 - value / max)).toFixed(1)}`;
    path += isNew ? `M${point}h0` : `L${point}`;
  }
  return path;
}

export class Chart {
  /**
   * @param {string} title
   * @param {string[]} names  of the series
   * @param {(value: number) => string} format
   */
  constructor(title, names, format) {
    Object.assign(this, { title, format });
    this.names = names;
    this.series = names.map(() => []);
    this.paths = names.map((_, index) => svgElement("path", { class: `line line-${index}` }));
    this.now = element("span", { class: "now" }, "–");
    this.max = element("span", { class: "max" });
    const frame = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
    this.plot = element("div", { class: "plot", role: "img" }, [this.max, svgElement("svg", frame, this.paths)]);
    const head = element("div", { class: "chart-head" }, [element("h3", {}, title), this.now]);
    this.node = element("div", { class: "chart" }, [head, this.plot]);
    this.#describe("no values yet");
  }

  /** @param {(number | null)[]} values  the newest of each series */
  push(values) {
    for (const [index, value] of values.entries()) {
      this.series[index] = [...this.series[index], value].slice(-POINTS);
    }
    this.#draw(values);
  }

  /** For screen readers, which do not see lines. */
  #describe(text) {
    this.plot.setAttribute("aria-label", `${this.title}: ${text}`);
  }

  #draw(values) {
    const max = roundUp(Math.max(...this.series.flat().map((value) => value ?? 0)));
    this.max.textContent = this.format(max);
    this.#describe(`a line chart of the last two minutes, from 0 to ${this.format(max)}`);
    for (const [index, path] of this.paths.entries()) path.setAttribute("d", pathOf(this.series[index], max));
    const labels = values.map((value, index) => {
      const key = element("i", { class: `dash dash-${index}`, "aria-hidden": "true" });
      const text = `${this.names[index]} ${value === null ? "–" : this.format(value)}`.trim();
      return element("span", {}, this.names.length > 1 ? [key, text] : text);
    });
    this.now.replaceChildren(...labels);
  }
}
