/* The web UI: which part of the page shows what, and what happens on which event. It must never know how any of it is
   done. */

import { fetchInfo } from "./api.js";
import { BurstView } from "./burst_view.js";
import { apiKey, storeApiKey } from "./dom.js";
import { Form } from "./form.js";
import { bindKeyLinks } from "./key_links.js";
import { LiveCharts } from "./live_charts.js";
import { modelCard, optimizationList } from "./model_card.js";
import { Playground } from "./playground.js";
import { LANGUAGES } from "./snippets.js";
import { makeTabs } from "./tabs.js";

const RETRY_MS = 3000;

const find = (id) => document.getElementById(id);

/** Elements by short names. */
const findAll = (ids) => Object.fromEntries(Object.entries(ids).map(([name, id]) => [name, find(id)]));

/** The call as code, kept up to date with the form. */
function bindSnippets(form) {
  let language = Object.keys(LANGUAGES)[0];
  const url = new URL(".", location.href).href;
  function update() {
    find("snippet").textContent = LANGUAGES[language](form.call(), { url, hasKey: Boolean(apiKey()) });
    find("copied").textContent = "";
  }
  makeTabs(find("tabs"), find("panel"), Object.keys(LANGUAGES), (name) => {
    language = name;
    update();
  });
  find("form").addEventListener("input", update);
  return update;
}

/** Without HTTPS, browsers give pages no clipboard; then the text is at least selected. */
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
    error: "error",
    answer: "answer",
    timing: "timing",
    raw: "raw",
    json: "json",
  };
  const playground = new Playground(findAll(parts), form, askForKey);
  const updateSnippets = bindSnippets(form);
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    playground.run();
  });
  find("form").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    playground.run();
  });
  find("form").addEventListener("example", () => {
    updateSnippets();
    playground.run();
  });
}

function show(info) {
  document.title = `${info.name}: ${info.task}`;
  find("model").textContent = info.name;
  find("card").replaceChildren(...modelCard(info));
  find("optimization-list").replaceChildren(optimizationList(info));
  const form = new Form(info);
  form.show(find("fields"), find("examples"));
  bindForm(form);
  const parts = {
    hint: "burst-hint",
    run: "burst-run",
    stop: "burst-stop",
    status: "burst-status",
    result: "burst-result",
    formError: "error",
  };
  new BurstView(findAll(parts), form);
  find("copy").addEventListener("click", copy);
  find("loaded").hidden = false;
  new LiveCharts(find("charts"), find("metrics-error")).start();
}

let isShown = false;

async function start() {
  const message = find("start-error");
  try {
    const info = await fetchInfo();
    message.hidden = find("key").hidden = true;
    if (!isShown) show(info);
    isShown = true;
  } catch (error) {
    message.textContent = error.sentences?.join(" ") ?? String(error);
    message.hidden = error.status === 401 && !apiKey();
    if (error.status === 401) askForKey();
    else setTimeout(start, RETRY_MS);
  }
}

bindKeyLinks(document.querySelectorAll("nav .with-key"), () => !find("key").hidden, askForKey);
find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  storeApiKey(find("key-field").value);
  start();
});
start();
