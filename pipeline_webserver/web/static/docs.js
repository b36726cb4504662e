/* The page that makes openapi.json readable: each route with its request, its responses, a curl line and a form that sends
   it. It must never know more of the server than that document says. */

import { callForm, urlOf } from "./call_form.js";
import { apiKey, element, storeApiKey, withApiKey } from "./dom.js";
import { bindKeyLinks } from "./key_links.js";
import { prose } from "./prose.js";
import { quoteForShell } from "./quoting.js";
import { joined, nameOf, schemaSection, summary } from "./schema_view.js";

/** The option of curl for a body: an example, or a file where the body is one. */
function dataOption({ schema, example }) {
  if (schema.format === "binary") return "--data-binary @FILE";
  return `-d ${quoteForShell(typeof example === "string" ? example : JSON.stringify(example))}`;
}

/** A curl line for each form of the request; one media type stands for all that a file may have. */
function curlLines(path, operation) {
  const url = urlOf(path);
  const key = operation.security.length && apiKey() ? ' -H "Authorization: Bearer $KEY"' : "";
  const contents = Object.entries(operation.requestBody?.content ?? {});
  if (!contents.length) return [`curl${key} ${url}`];
  const options = contents.map(([type, content]) => [dataOption(content), quoteForShell(`Content-Type: ${type}`)]);
  const distinct = options.filter(([data], index) => options.findIndex(([other]) => other === data) === index);
  return distinct.map(([data, header]) => `curl${key} -H ${header} ${data} ${url}`);
}

/** The error types that a response may have, but for those that its description names. */
function errorTypes(response) {
  const types = Object.values(response.content ?? {}).flatMap(
    ({ schema }) => schema.allOf?.[1]?.properties.error_type.enum ?? [],
  );
  const others = types.filter((type) => !response.description.includes(`\`${type}\``));
  return others.flatMap((type) => [" ", element("code", {}, type)]);
}

function responseTable(operation, components) {
  const rows = Object.entries(operation.responses).map(([status, given]) => {
    const response = given.$ref ? components.responses[nameOf(given.$ref)] : given;
    const schemas = Object.values(response.content ?? {}).map((content) => summary(content.schema));
    return element("tr", {}, [
      element("th", { scope: "row" }, status),
      element("td", {}, [...prose(response.description), ...errorTypes(response)]),
      element("td", {}, joined(schemas, ", ")),
    ]);
  });
  return element("table", {}, element("tbody", {}, rows));
}

/** The bodies of a request, each with all of its media types. */
function byBody(operation) {
  const bodies = new Map();
  for (const [type, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
    const key = JSON.stringify(schema);
    bodies.set(key, { types: [...(bodies.get(key)?.types ?? []), type], schema });
  }
  return [...bodies.values()];
}

function requestList(operation) {
  const bodies = byBody(operation).map(({ types, schema }) =>
    element("li", {}, [...joined(types.map((type) => [element("code", {}, type)]), ", "), ": ", ...summary(schema)]),
  );
  const headers = (operation.parameters ?? []).map((parameter) =>
    element("li", {}, [element("code", {}, parameter.name), " header: ", ...prose(parameter.description)]),
  );
  return element("ul", {}, [...bodies, ...headers]);
}

function routeSection(path, method, operation, components) {
  return element("section", { id: operation.operationId }, [
    element("h2", {}, [element("code", {}, `${method.toUpperCase()} ${path}`)]),
    ...[operation.summary, operation.description].filter(Boolean).map((text) => element("p", {}, prose(text))),
    element("h3", {}, "Request"),
    requestList(operation),
    ...curlLines(path, operation).map((line) => element("pre", { tabindex: "0" }, line)),
    callForm(path, method, operation, components),
    element("h3", {}, "Responses"),
    responseTable(operation, components),
  ]);
}

function show(openapi) {
  document.title = openapi.info.title;
  document.getElementById("title").textContent = openapi.info.title;
  document.getElementById("description").replaceChildren(...prose(openapi.info.description));
  const routes = Object.entries(openapi.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => routeSection(path, method, operation, openapi.components)),
  );
  document.getElementById("routes").replaceChildren(...routes);
  const schemas = document.getElementById("schemas");
  schemas.append(...Object.entries(openapi.components.schemas).map(schemaSection));
  schemas.hidden = false;
}

async function load() {
  const status = document.getElementById("status");
  try {
    const response = await fetch("openapi.json", { headers: withApiKey() });
    document.getElementById("key").hidden = response.status !== 401;
    const body = await response.json();
    if (response.ok) show(body);
    status.textContent = response.ok ? "" : body.error;
  } catch {
    status.textContent = "The server does not respond.";
  }
}

bindKeyLinks(
  document.querySelectorAll("nav .with-key"),
  () => !document.getElementById("key").hidden,
  () => document.getElementById("key-field").focus(),
);
document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  storeApiKey(document.getElementById("key-field").value);
  load();
});
load();
