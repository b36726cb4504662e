/* The button for a burst, and its results in a table. It must never know how the requests are sent. */

import { track } from "./bars.js";
import { Burst, REQUESTS, numbered } from "./burst.js";
import { element, hidden } from "./dom.js";
import { duration } from "./format.js";

/** Inputs per second. */
function throughput(mode) {
  const number = (1000 * mode.inputs) / mode.ms;
  return number < 10 ? number.toPrecision(2) : number.toFixed(0);
}

/** The batch sizes, with the number of requests in batches of each. */
function sizes(mode) {
  const sorted = [...mode.sizes].sort(([one], [other]) => one - other);
  const max = Math.max(...mode.sizes.values());
  const items = sorted.map(([size, count]) =>
    element("li", {}, [
      hidden("A batch of "),
      element("span", { class: "name" }, String(size)),
      track(count / max),
      hidden(": "),
      element("span", { class: "number" }, String(count)),
      hidden(" requests"),
    ]),
  );
  return element("ul", { class: "sizes" }, items);
}

function row(mode, baseline) {
  const notes = [];
  if (mode.sent < mode.inputs) notes.push(`extrapolated from ${mode.sent}`);
  if (mode.retried) notes.push(`${mode.retried} rejected with 503 and sent again`);
  const time = [duration(mode.ms), ...notes.map((note) => element("span", { class: "hint" }, note))];
  const factor = mode === baseline ? "" : `${(baseline.ms / mode.ms).toFixed(1)} ×`;
  return element("tr", {}, [
    element("th", { scope: "row" }, mode.name),
    element("td", {}, time),
    element("td", {}, [`${throughput(mode)} / s`, element("span", { class: "hint" }, factor)]),
    element("td", {}, sizes(mode)),
  ]);
}

function table(modes) {
  const titles = ["", `Time for ${REQUESTS}`, "Throughput", "Batch size, and requests in such batches"];
  const head = titles.map((title) => element(title ? "th" : "td", title ? { scope: "col" } : {}, title));
  const rows = modes.map((mode) => row(mode, modes[0]));
  return element("table", { class: "results" }, [
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, rows),
  ]);
}

const HINT =
  `Sends the input of the form ${REQUESTS} times, each time with another number at its end, because the server ` +
  "computes equal inputs of a batch once. A browser sends six requests at a time, so at most six share a batch, unless " +
  "they are in lists.";

/** Why a burst failed, without what the form already says. */
export function failure(error, formError) {
  const said = formError.hidden ? [] : Array.from(formError.children, (sentence) => sentence.textContent);
  const sentences = (error.sentences ?? [String(error)]).filter((sentence) => !said.includes(sentence));
  return sentences.join(" ") || "The burst failed with the same error as the form.";
}

export class BurstView {
  /**
   * @param {Record<string, HTMLElement>} parts  hint, run, stop, status, result, formError
   * @param {import("./form.js").Form} form
   */
  constructor(parts, form) {
    Object.assign(this, { parts, form });
    this.abort = new AbortController();
    if (form.task.varied === null) {
      parts.hint.textContent = "Not available for files: a burst needs inputs that differ from each other.";
      parts.run.hidden = true;
      return;
    }
    parts.hint.textContent = form.task.inBurst ? `${HINT} It leaves the second text out.` : HINT;
    parts.run.addEventListener("click", () => this.run());
    parts.stop.addEventListener("click", () => this.abort.abort());
  }

  async run() {
    const problem = this.form.problem();
    if (problem) return this.#report(failure({ sentences: [problem] }, this.parts.formError));
    this.abort = new AbortController();
    this.#setRunning(true);
    try {
      const values = { ...this.form.values(), ...this.form.task.inBurst };
      const calls = numbered(values, this.form.task.varied, REQUESTS).map((each) => this.form.call(each));
      await this.#show(new Burst(calls, this.form.info.limits?.max_inputs ?? 1, this.abort.signal));
    } catch (error) {
      this.#report(error.name === "AbortError" ? "Stopped." : failure(error, this.parts.formError));
    }
    this.#setRunning(false);
  }

  async #show(burst) {
    const modes = [];
    this.parts.result.replaceChildren();
    this.#report("Some of them one after the other …");
    for await (const mode of burst.modes()) {
      modes.push(mode);
      this.#report(modes.length === 1 ? "All at once …" : "In lists …");
      this.parts.result.replaceChildren(table(modes));
    }
    const best = modes.reduce((one, other) => (other.ms < one.ms ? other : one));
    this.#report(`${best.name}: ${throughput(best)} per second. One after the other: ${throughput(modes[0])}.`);
  }

  #setRunning(isRunning) {
    this.parts.run.disabled = isRunning;
    this.parts.stop.hidden = !isRunning;
  }

  #report(text) {
    this.parts.status.textContent = text;
  }
}
