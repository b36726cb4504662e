/* The page to try the model and watch the server: what is put where, and what happens on which event. It must
   never know how any of it is done. */

import { card, speedUps } from "./about_view.js";
import { info } from "./api.js";
import { BurstView } from "./burst_view.js";
import { callOf } from "./calls.js";
import { keyOf, rememberKey } from "./dom.js";
import { Form } from "./forms.js";
import { LANGUAGES } from "./snippets.js";
import { makeTabs } from "./tabs.js";
import { Trial } from "./trial.js";
import { Watch } from "./watching.js";

const AGAIN_MS = 3000;

const find = (id) => document.getElementById(id);

/** Elements by short names. */
const found = (ids) => Object.fromEntries(Object.entries(ids).map(([name, id]) => [name, find(id)]));

/** The call in a program's words, kept up with the form. */
function keepSnippets(form) {
  let language = Object.keys(LANGUAGES)[0];
  const place = { url: new URL(".", location.href).href };
  function update() {
    const call = callOf(form.about.task, form.read());
    find("snippet").textContent = LANGUAGES[language](call, { ...place, hasKey: Boolean(keyOf()) });
    find("copied").textContent = "";
  }
  makeTabs(find("tabs"), find("panel"), Object.keys(LANGUAGES), (name) => {
    language = name;
    update();
  });
  find("form").addEventListener("input", update);
  find("form").addEventListener("click", () => setTimeout(update)); // buttons in it change it, too
  return update;
}

/** Without HTTPS browsers have no clipboard for pages; then the text is selected at least. */
async function copy() {
  try {
    await navigator.clipboard.writeText(find("snippet").textContent);
    find("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(find("snippet"));
    find("copied").textContent = "Selected: copy it with the keyboard.";
  }
}

function askForKey() {
  find("key").hidden = false;
  find("key-field").focus();
}

function bindForm(form) {
  const parts = {
    status: "status",
    trouble: "trouble",
    answer: "answer",
    timing: "timing",
    raw: "raw",
    json: "json",
  };
  const trial = new Trial(found(parts), form, askForKey);
  const updateSnippets = keepSnippets(form);
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    trial.run();
  });
  find("form").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    trial.run();
  });
  find("form").addEventListener("example", () => {
    updateSnippets();
    trial.run();
  });
}

function show(about) {
  document.title = `${about.model}: ${about.task}`;
  find("model").textContent = about.model;
  find("card").replaceChildren(...card(about));
  find("speed-ups-list").replaceChildren(speedUps(about));
  const form = new Form(about);
  form.show(find("fields"), find("examples"));
  bindForm(form);
  const parts = {
    about: "burst-about",
    run: "burst-run",
    stop: "burst-stop",
    status: "burst-status",
    result: "burst-result",
  };
  new BurstView(found(parts), form);
  find("copy").addEventListener("click", copy);
  find("loaded").hidden = false;
  new Watch(find("charts"), find("watch-trouble")).start();
}

let isShown = false;

async function start() {
  const trouble = find("start-trouble");
  try {
    const about = await info();
    trouble.hidden = find("key").hidden = true;
    if (!isShown) show(about);
    isShown = true;
  } catch (error) {
    trouble.textContent = error.sentences?.join(" ") ?? String(error);
    trouble.hidden = error.status === 401 && !keyOf();
    if (error.status === 401) askForKey();
    else setTimeout(start, AGAIN_MS);
  }
}

find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(find("key-field").value);
  start();
});
start();
