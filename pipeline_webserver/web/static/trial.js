/* One trial after the other: what is in the form goes to the server, its answer onto the page. It must never know
   what an answer means. */

import { Trouble, infer } from "./api.js";
import { jsonOf, render } from "./answers.js";
import { duration } from "./bars.js";
import { callOf, missingIn, requestOf } from "./calls.js";
import { element } from "./dom.js";

/** Where the time went, as a bar and in words. */
export function timingParts({ queue = 0, model = 0, total = 0, batch = 1 }, elapsedMs) {
  const rest = Math.max(0, total - queue - model);
  const bar = element("div", { class: "stack", "aria-hidden": "true" });
  for (const [name, ms] of Object.entries({ queue, model, rest })) {
    const part = element("span", { class: `part ${name}` });
    part.style.flexGrow = String(ms);
    bar.append(part);
  }
  const words = [
    `${duration(total)} in the server: ${duration(queue)} in the queue, ${duration(model)} in the model`,
    `in a batch of ${batch}`,
    `${duration(elapsedMs)} as seen from here`,
  ];
  return [bar, element("p", { class: "hint" }, `${words.join("; ")}.`)];
}

const MOST_ALOUD = 300;

/** What is short enough to be read aloud. */
const shortened = (text) => (text.length > MOST_ALOUD ? `${text.slice(0, MOST_ALOUD)} …` : text);

export class Trial {
  /**
   * @param {Record<string, HTMLElement>} parts  status, trouble, answer, timing, raw, json
   * @param {import("./forms.js").Form} form
   * @param {() => void} onUnauthorized
   */
  constructor(parts, form, onUnauthorized) {
    Object.assign(this, { parts, form, onUnauthorized });
    this.abort = new AbortController();
  }

  /** Ask, and show the answer, unless the next question comes first. */
  async run() {
    this.abort.abort();
    const { signal } = (this.abort = new AbortController());
    const values = this.form.read();
    this.#begin();
    try {
      const missing = missingIn(values);
      if (missing) throw new Trouble("missing", missing);
      await this.#ask(values, signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
    if (!signal.aborted) this.parts.answer.removeAttribute("aria-busy");
  }

  async #ask(values, signal) {
    const { task, mask_token: mask } = this.form.about;
    const got = await infer(await requestOf(callOf(task, values)), signal);
    const { node, summary } = await this.#rendered(task, got.answer, { ...values, mask });
    if (signal.aborted) return;
    this.parts.answer.replaceChildren(node);
    this.parts.json.textContent = jsonOf(got.answer);
    this.parts.timing.replaceChildren(...timingParts(got.timing, got.elapsedMs));
    this.parts.raw.hidden = this.parts.timing.hidden = false;
    const aloud = element("span", { class: "unseen" }, `: ${shortened(summary)}`); // it stands below for who can see it
    this.parts.status.replaceChildren(`Answered in ${duration(got.elapsedMs)}`, aloud);
  }

  /** A form of answer that this page was not made for is still an answer. */
  async #rendered(task, answer, asked) {
    try {
      return await render(task, answer, asked);
    } catch (error) {
      console.warn("This answer could not be shown", error);
      const words = "This page does not know this form of answer; it is below, as JSON.";
      return { node: element("p", {}, words), summary: words };
    }
  }

  #begin() {
    this.parts.answer.setAttribute("aria-busy", "true");
    this.parts.status.textContent = "Running …";
    this.parts.trouble.hidden = true;
  }

  #fail(error) {
    const sentences = error.sentences ?? ["Something on this page went wrong.", String(error)];
    this.parts.status.textContent = "";
    this.parts.answer.replaceChildren();
    this.parts.raw.hidden = this.parts.timing.hidden = true;
    this.parts.trouble.replaceChildren(...sentences.map((sentence) => element("p", {}, sentence)));
    this.parts.trouble.hidden = false;
    if (error.status === 401) this.onUnauthorized();
  }
}
