/* A form that sends one call of the documentation page and shows the response. It must never know what the server serves. */

import { readable } from "./answers.js";
import { respond } from "./api.js";
import { bodyForms } from "./body_forms.js";
import { apiKey, element, hidden } from "./dom.js";
import { labelled } from "./fields.js";
import { duration } from "./format.js";

/** The address of a path of the document: it lies beside this page, whatever prefix that is under. */
export const urlOf = (path) => new URL(path.replace(/^\//, ""), new URL(".", location.href)).href;

/** The headers of a response that say more than that it is one. */
const SHOWN = ["content-type", "server-timing", "x-request-id", "retry-after", "www-authenticate", "allow"];

/** A field for each header of the request, and for the API key where the call wants one. */
function headerFields(operation) {
  const fields = (operation.parameters ?? []).map(({ name }) => {
    const control = element("input", { type: "text", autocomplete: "off", spellcheck: "false" });
    return { control, node: labelled(control, `${name} (optional)`), header: () => [name, control.value] };
  });
  if (!operation.security?.length) return fields;
  const control = element("input", { type: "password", autocomplete: "off" });
  control.value = apiKey();
  const header = () => ["Authorization", control.value && `Bearer ${control.value}`];
  return [{ control, node: labelled(control, "API key"), header }, ...fields];
}

/** Of several forms of a body, the one that is chosen. */
function bodyChoice(forms) {
  const select = element("select", {}, forms.map(({ label }, index) => element("option", { value: index }, label)));
  const show = () => forms.forEach(({ node }, index) => (node.hidden = index !== Number(select.value)));
  select.addEventListener("change", show);
  show();
  const choice = forms.length > 1 ? [labelled(select, "Form of the body")] : [];
  return { nodes: [...choice, ...forms.map(({ node }) => node)], read: () => forms[Number(select.value)]?.read() };
}

/** The status, the time, the headers and the body. */
async function resultParts(response, started) {
  const text = await response.text();
  const status = `${response.status} ${response.statusText}`.trim();
  const headers = SHOWN.filter((name) => response.headers.has(name)).flatMap((name) => [
    element("dt", {}, element("code", {}, name)),
    element("dd", {}, response.headers.get(name)),
  ]);
  const body = element("pre", { tabindex: "0", "aria-label": "The body of the response" }, readable(text));
  return { status: `${status} in ${duration(performance.now() - started)}`, nodes: [element("dl", {}, headers), body] };
}

async function requestOf(method, fields, body) {
  const headers = new Headers(fields.map(({ header }) => header()).filter(([, value]) => value));
  const given = await body.read();
  if (given) headers.set("Content-Type", given.type);
  return { method: method.toUpperCase(), headers, body: given?.body };
}

/** What went wrong before there was a response: JSON that is none, a header that cannot be sent, no server. */
const why = (error) => (error.sentences ?? [error.message]).join(" ");

/**
 * @param {string} path
 * @param {string} method
 * @param {Record<string, any>} operation
 * @param {Record<string, any>} components
 */
export function callForm(path, method, operation, components) {
  const name = `${method.toUpperCase()} ${path}`;
  const fields = headerFields(operation);
  const body = bodyChoice(bodyForms(operation.requestBody?.content ?? {}, components.schemas));
  const status = element("p", { class: "status", role: "status" });
  const result = element("div", { class: "result" });
  const send = element("button", { class: "primary" }, "Send");
  const form = element("form", { class: "call", "aria-label": name }, [
    ...body.nodes,
    element("div", { class: "fields" }, fields.map(({ node }) => node)),
    element("div", { class: "row" }, [send, status]),
    result,
  ]);

  async function run() {
    status.textContent = "Sending …";
    result.replaceChildren();
    form.setAttribute("aria-busy", "true");
    try {
      const request = await requestOf(method, fields, body);
      const started = performance.now();
      const shown = await resultParts(await respond(urlOf(path), request), started);
      status.textContent = shown.status;
      result.replaceChildren(...shown.nodes);
    } catch (error) {
      status.textContent = why(error);
    }
    form.removeAttribute("aria-busy");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) run();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return element("details", {}, [element("summary", {}, ["Try it", hidden(`: ${name}`)]), form]);
}
