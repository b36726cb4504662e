/* What the model guesses at each mask, in the sentence that it was asked about. It must never know the server. */

import { barParts, percent } from "./bars.js";
import { element } from "./dom.js";

/** The guesses of each mask: one mask is answered with its guesses alone. */
export const byMask = (answer) => (Array.isArray(answer[0]) ? answer : [answer]);

/** A word as it stands in a text; pieces that continue one begin with "##". */
const wordOf = (guess) => guess.token_str.trim() || "␣";

/** @param {{text: string, mask: string}} asked */
export function guesses(answer, asked) {
  const lists = byMask(answer);
  const marks = lists.map(([best]) => element("mark", {}, wordOf(best)));
  const parts = asked.text.split(asked.mask);
  const sentence = parts.flatMap((part, index) => (index ? [marks[index - 1] ?? asked.mask, part] : [part]));
  const groups = lists.map((list, index) => group(list, marks[index], lists.length > 1 ? index + 1 : 0));
  return {
    node: element("div", {}, [element("p", { class: "sentence", "data-sentence": "" }, sentence), ...groups]),
    summary: lists.map(([best]) => `${wordOf(best)}, ${percent(best.score)}`).join("; "),
  };
}

/** The guesses at one mask: a click puts another word into the sentence. */
function group(list, mark, number) {
  const choices = list.map((guess) => {
    const choice = element(
      "button",
      { type: "button", class: "bar", "aria-pressed": "false" },
      barParts(wordOf(guess), guess.score),
    );
    choice.addEventListener("click", () => choose(choice, guess));
    return choice;
  });
  function choose(chosen, guess) {
    mark.textContent = wordOf(guess);
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice === chosen));
  }
  choose(choices[0], list[0]);
  const title = number ? [element("h3", {}, `Mask ${number}`)] : [];
  const words = number ? `Guesses at mask ${number}` : "Guesses";
  return element("div", { role: "group", "aria-label": words }, [...title, ...choices]);
}
