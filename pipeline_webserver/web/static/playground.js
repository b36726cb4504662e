/* One run after the other: the form's values go to the server, the answer goes onto the page. It must never know what
   an answer means. */

import { RequestError, infer } from "./api.js";
import { jsonText } from "./answers.js";
import { requestOf } from "./calls.js";
import { element, hidden } from "./dom.js";
import { duration } from "./format.js";
import { timingParts } from "./timing.js";

const MAX_SPOKEN = 300;

/** Short enough to be read aloud. */
const spoken = (text) => (text.length > MAX_SPOKEN ? `${text.slice(0, MAX_SPOKEN)} …` : text);

export class Playground {
  /**
   * @param {Record<string, HTMLElement>} parts  status, error, answer, timing, raw, json
   * @param {import("./form.js").Form} form
   * @param {() => void} onUnauthorized
   */
  constructor(parts, form, onUnauthorized) {
    Object.assign(this, { parts, form, onUnauthorized });
    this.abort = new AbortController();
  }

  /** Run the pipeline on the form's values, and show the answer unless the next run begins before. */
  async run() {
    this.abort.abort();
    const { signal } = (this.abort = new AbortController());
    this.#begin();
    try {
      const problem = this.form.problem();
      if (problem) throw new RequestError("incomplete", problem);
      await this.#infer(this.form.values(), signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
    if (!signal.aborted) this.parts.answer.removeAttribute("aria-busy");
  }

  async #infer(values, signal) {
    const { answer, timing, elapsedMs } = await infer(await requestOf(this.form.call(values)), signal);
    const { node, summary } = await this.#render(answer, values);
    if (signal.aborted) return;
    this.parts.answer.replaceChildren(node);
    this.parts.json.textContent = jsonText(answer);
    this.parts.timing.replaceChildren(...timingParts(timing, elapsedMs));
    this.parts.raw.hidden = this.parts.timing.hidden = false;
    // Everyone else sees the answer below.
    this.parts.status.replaceChildren(`Answered in ${duration(elapsedMs)}`, hidden(`: ${spoken(summary)}`));
  }

  /** An answer of an unexpected shape is still an answer. */
  async #render(answer, values) {
    try {
      return await this.form.task.render(answer, values, this.form.info);
    } catch (error) {
      console.warn("This answer could not be rendered", error);
      const message = "The web UI cannot display this answer; it is below, as JSON.";
      return { node: element("p", {}, message), summary: message };
    }
  }

  #begin() {
    this.parts.answer.setAttribute("aria-busy", "true");
    this.parts.status.textContent = "Running …";
    this.parts.error.hidden = true;
  }

  #fail(error) {
    const sentences = error.sentences ?? ["The web UI has a bug.", String(error)];
    this.parts.status.textContent = "";
    this.parts.answer.replaceChildren();
    this.parts.raw.hidden = this.parts.timing.hidden = true;
    this.parts.error.replaceChildren(...sentences.map((sentence) => element("p", {}, sentence)));
    this.parts.error.hidden = false;
    if (error.status === 401) this.onUnauthorized();
  }
}
