/* A line chart of the last points of one or two series. It must never know what they count. */

import { element } from "./dom.js";
import { drawn } from "./pictures.js";

const POINTS = 120;
const [WIDTH, HEIGHT] = [240, 60];

/** The next round number: 1, 2 or 5 and zeros. */
export function roundUp(number) {
  if (!(number > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= number * 0.999);
}

/** The path of a series; where nothing is known, it is broken, and a point by itself is a dot. */
export function pathOf(values, most) {
  const place = (index) => (WIDTH * (index + POINTS - values.length)) / (POINTS - 1);
  let path = "";
  for (const [index, value] of values.entries()) {
    if (value === null) continue;
    const isNew = index === 0 || values[index - 1] === null;
    const point = `${place(index).toFixed(1)} ${(HEIGHT * (1 - value / most)).toFixed(1)}`;
    path += isNew ? `M${point}h0` : `L${point}`;
  }
  return path;
}

export class Chart {
  /**
   * @param {string} title
   * @param {string[]} names  of the series
   * @param {(value: number) => string} written  a value in words
   */
  constructor(title, names, written) {
    this.written = written;
    this.names = names;
    this.series = names.map(() => []);
    this.paths = names.map((_, index) => drawn("path", { class: `line line-${index}` }));
    this.now = element("span", { class: "now" }, "–");
    this.most = element("span", { class: "most" });
    const frame = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
    const plot = element("div", { class: "plot" }, [this.most, drawn("svg", frame, this.paths)]);
    const head = element("div", { class: "chart-head" }, [element("h3", {}, title), this.now]);
    this.node = element("div", { class: "chart" }, [head, plot]);
  }

  /** @param {(number | null)[]} values  the newest of each series */
  push(values) {
    for (const [index, value] of values.entries()) {
      this.series[index] = [...this.series[index], value].slice(-POINTS);
    }
    this.#draw(values);
  }

  #draw(values) {
    const most = roundUp(Math.max(...this.series.flat().map((value) => value ?? 0)));
    this.most.textContent = this.written(most);
    for (const [index, path] of this.paths.entries()) path.setAttribute("d", pathOf(this.series[index], most));
    const told = values.map((value, index) => {
      const key = element("i", { class: `dash dash-${index}`, "aria-hidden": "true" });
      const words = `${this.names[index]} ${value === null ? "–" : this.written(value)}`.trim();
      return element("span", {}, this.names.length > 1 ? [key, words] : [words]);
    });
    this.now.replaceChildren(...told);
  }
}
