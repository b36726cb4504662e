/* The predictions at each mask, in their sentence. It must never know the server. */

import { barParts, barsLegend } from "./bars.js";
import { element } from "./dom.js";
import { percent } from "./format.js";

/** The predictions of each mask: with one mask, the answer is a single list. */
export const byMask = (answer) => (Array.isArray(answer[0]) ? answer : [answer]);

const LEGEND = "The probability of each word; a click puts it into the sentence";

const wordOf = (prediction) => prediction.token_str.trim() || "␣";

export function predictions(answer, text, mask) {
  const lists = byMask(answer);
  const marks = lists.map(([best]) => element("mark", {}, wordOf(best)));
  const sentence = text
    .split(mask)
    .flatMap((part, index) => (index ? [marks[index - 1] ?? mask, part] : [part]));
  const groups = lists.map((list, index) => group(list, marks[index], lists.length > 1 ? index + 1 : 0));
  return {
    node: element("div", {}, [element("p", { class: "sentence" }, sentence), barsLegend(LEGEND), ...groups]),
    summary: lists.map(([best]) => `${wordOf(best)}, ${percent(best.score)}`).join("; "),
  };
}

/** The predictions at one mask: a click puts another word into the sentence. */
function group(list, mark, number) {
  const choices = list.map((prediction) => {
    const attributes = { type: "button", class: "bar", "aria-pressed": "false" };
    const choice = element("button", attributes, barParts(wordOf(prediction), prediction.score));
    choice.addEventListener("click", () => choose(choice, prediction));
    return choice;
  });
  function choose(chosen, prediction) {
    mark.textContent = wordOf(prediction);
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice === chosen));
  }
  choose(choices[0], list[0]);
  const title = number ? [element("h3", {}, `Mask ${number}`)] : [];
  const label = number ? `Predictions at mask ${number}` : "Predictions";
  return element("div", { role: "group", "aria-label": label }, [...title, ...choices]);
}
