/* The button for a burst, and its results in a table. It must never know how the requests are sent. */

import { duration, track } from "./bars.js";
import { Burst, REQUESTS } from "./burst.js";
import { missingIn } from "./calls.js";
import { element } from "./dom.js";
import { kindOf } from "./forms.js";

/** Inputs in a second. */
function rate(way) {
  const number = (1000 * way.inputs) / way.ms;
  return number < 10 ? number.toPrecision(2) : number.toFixed(0);
}

/** The sizes of the batches, with how many requests rode in each. */
function sizes(way) {
  const sorted = [...way.sizes].sort(([one], [other]) => one - other);
  const most = Math.max(...way.sizes.values());
  const items = sorted.map(([size, count]) =>
    element("li", {}, [
      element("span", { class: "name" }, String(size)),
      track(count / most),
      element("span", { class: "number" }, String(count)),
    ]),
  );
  return element("ul", { class: "sizes" }, items);
}

function row(way, slowest) {
  const notes = [];
  if (way.sent < way.inputs) notes.push(`extrapolated from ${way.sent}`);
  if (way.refused) notes.push(`${way.refused} told to come back later`);
  const time = [duration(way.ms), ...notes.map((note) => element("span", { class: "hint" }, note))];
  const times = way === slowest ? "" : `${(slowest.ms / way.ms).toFixed(1)} ×`;
  return element("tr", {}, [
    element("th", { scope: "row" }, way.name),
    element("td", {}, time),
    element("td", {}, [`${rate(way)} / s`, element("span", { class: "hint" }, times)]),
    element("td", {}, sizes(way)),
  ]);
}

function table(ways) {
  const titles = ["", `Time for ${REQUESTS}`, "Rate", "Requests by batch size"];
  const head = element(
    "tr",
    {},
    titles.map((title) => element(title ? "th" : "td", title ? { scope: "col" } : {}, title)),
  );
  const body = element(
    "tbody",
    {},
    ways.map((way) => row(way, ways[0])),
  );
  return element("table", { class: "results" }, [element("thead", {}, head), body]);
}

export class BurstView {
  /**
   * @param {Record<string, HTMLElement>} parts  about, run, stop, status, result
   * @param {import("./forms.js").Form} form
   */
  constructor(parts, form) {
    Object.assign(this, { parts, form });
    this.abort = new AbortController();
    if (kindOf(form.about.task)) {
      parts.about.textContent = "There is no burst for files: they cannot be made different from each other here.";
      parts.run.hidden = true;
      return;
    }
    parts.about.textContent =
      `${REQUESTS} times what is in the form, each with another number at its end, since equal inputs of a batch are ` +
      "computed once. A browser has six requests under way, so at most six ride together, unless they are lists.";
    parts.run.addEventListener("click", () => this.run());
    parts.stop.addEventListener("click", () => this.abort.abort());
  }

  async run() {
    const values = this.form.read();
    const missing = missingIn(values);
    if (missing) return this.#say(missing);
    this.abort = new AbortController();
    this.#running(true);
    try {
      await this.#show(
        new Burst(this.form.about.task, values, this.form.about.limits?.max_inputs ?? 1, this.abort.signal),
      );
    } catch (error) {
      this.#say(error.name === "AbortError" ? "Stopped." : (error.sentences ?? [String(error)]).join(" "));
    }
    this.#running(false);
  }

  async #show(burst) {
    const ways = [];
    this.parts.result.replaceChildren();
    this.#say("First some of them one after the other …");
    for await (const way of burst.ways()) {
      ways.push(way);
      this.#say(ways.length === 1 ? "Now all at once …" : "Now in lists …");
      this.parts.result.replaceChildren(table(ways));
    }
    const best = ways.reduce((one, other) => (other.ms < one.ms ? other : one));
    this.#say(`${best.name}: ${rate(best)} a second. One after the other: ${rate(ways[0])}.`);
  }

  #running(isRunning) {
    this.parts.run.disabled = isRunning;
    this.parts.stop.hidden = !isRunning;
  }

  #say(words) {
    this.parts.status.textContent = words;
  }
}
