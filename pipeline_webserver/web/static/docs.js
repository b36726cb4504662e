/* The page that makes openapi.json readable: each route with its request, its answers and a curl line. It must never
   know more of the server than that document says. */

import { element, keyOf, rememberKey, withKey } from "./dom.js";
import { quoteForShell } from "./quoting.js";

/** The last part of a reference: `#/components/schemas/Label` is `Label`. */
const nameOf = (reference) => reference.split("/").pop();

/** A link to where a schema is described. */
function link(reference) {
  return element("a", { href: `#schema-${nameOf(reference)}` }, nameOf(reference));
}

const OPEN_ENDS = { minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<" };
const COUNTS = { minItems: "at least", maxItems: "at most", minLength: "at least", maxLength: "at most" };

/** What a schema says besides its type: ranges, numbers of items, patterns. */
function limits(schema) {
  const told = [];
  for (const [name, sign] of Object.entries(OPEN_ENDS)) if (name in schema) told.push(`${sign} ${schema[name]}`);
  for (const [name, words] of Object.entries(COUNTS)) if (name in schema) told.push(`${words} ${schema[name]}`);
  if (schema.pattern) told.push(`like ${schema.pattern}`);
  if (schema.contentEncoding) told.push(schema.contentEncoding);
  return told.length ? ` (${told.join(", ")})` : "";
}

/** A schema in a few words, with links to what it refers to. */
function words(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  if (schema.allOf) return words(schema.allOf[0]);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return between(choices.filter((one) => one.type !== "null").map(words), " or ");
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list", limits(schema), " of ", ...words(schema.items ?? {})];
  return [(schema.type ?? "anything") + limits(schema)];
}

/** Lists of nodes as one, with a text between them. */
function between(lists, text) {
  return lists.flatMap((list, index) => (index ? [text, ...list] : list));
}

/** The properties of an object, a row each. */
function properties(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [element("code", {}, name), required.has(name) ? " required" : ""]),
      element("td", {}, words(property)),
      element("td", {}, property.description ?? ""),
    ]),
  );
  return element("table", {}, element("tbody", {}, rows));
}

function schemaSection([name, schema]) {
  const body = schema.properties ? properties(schema) : element("p", {}, words(schema));
  const about = schema.description ? [element("p", {}, schema.description)] : [];
  return element("section", { id: `schema-${name}` }, [element("h3", {}, name), ...about, body]);
}

/** What curl is to send: an example, or a file where the body is one. */
function data({ schema, example }) {
  if (schema.format === "binary") return "--data-binary @FILE";
  return `-d ${quoteForShell(typeof example === "string" ? example : JSON.stringify(example))}`;
}

/** A curl line for each form of the request; of the types of a file, one stands for all. */
function curls(path, operation) {
  const url = new URL(path.replace(/^\//, ""), new URL(".", location.href)).href;
  const key = operation.security.length && keyOf() ? ' -H "Authorization: Bearer $KEY"' : "";
  const forms = Object.entries(operation.requestBody?.content ?? {});
  if (!forms.length) return [`curl${key} ${url}`];
  const lines = forms.map(([type, form]) => [data(form), quoteForShell(`Content-Type: ${type}`)]);
  const different = lines.filter(([body], index) => lines.findIndex(([other]) => other === body) === index);
  return different.map(([body, type]) => `curl${key} -H ${type} ${body} ${url}`);
}

/** The kinds of error that a response may have. */
function kinds(response) {
  const told = Object.values(response.content ?? {}).flatMap(
    ({ schema }) => schema.allOf?.[1]?.properties.error_type.enum ?? [],
  );
  return told.flatMap((kind) => [" ", element("code", {}, kind)]);
}

function answers(operation, components) {
  const rows = Object.entries(operation.responses).map(([status, given]) => {
    const response = given.$ref ? components.responses[nameOf(given.$ref)] : given;
    const schemas = Object.values(response.content ?? {}).map((content) => words(content.schema));
    return element("tr", {}, [
      element("th", { scope: "row" }, status),
      element("td", {}, [response.description, ...kinds(response)]),
      element("td", {}, between(schemas, ", ")),
    ]);
  });
  return element("table", {}, element("tbody", {}, rows));
}

function request(operation) {
  const bodies = Object.entries(operation.requestBody?.content ?? {}).map(([type, content]) =>
    element("li", {}, [element("code", {}, type), ": ", ...words(content.schema)]),
  );
  const headers = (operation.parameters ?? []).map((parameter) =>
    element("li", {}, [element("code", {}, parameter.name), ` header: ${parameter.description ?? ""}`]),
  );
  return element("ul", {}, [...bodies, ...headers]);
}

function routeSection(path, method, operation, components) {
  return element("section", { id: operation.operationId }, [
    element("h2", {}, [element("code", {}, `${method.toUpperCase()} ${path}`)]),
    element("p", {}, operation.summary ?? ""),
    element("p", {}, operation.description ?? ""),
    element("h3", {}, "Request"),
    request(operation),
    ...curls(path, operation).map((line) => element("pre", { tabindex: "0" }, line)),
    element("h3", {}, "Answers"),
    answers(operation, components),
  ]);
}

function show(document_) {
  document.title = document_.info.title;
  document.getElementById("title").textContent = document_.info.title;
  document.getElementById("about").textContent = document_.info.description;
  const routes = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => routeSection(path, method, operation, document_.components)),
  );
  document.getElementById("routes").replaceChildren(...routes);
  const schemas = document.getElementById("schemas");
  schemas.append(...Object.entries(document_.components.schemas).map(schemaSection));
  schemas.hidden = false;
}

async function load() {
  const status = document.getElementById("status");
  try {
    const response = await fetch("openapi.json", { headers: withKey() });
    document.getElementById("key").hidden = response.status !== 401;
    const answer = await response.json();
    if (response.ok) show(answer);
    status.textContent = response.ok ? "" : answer.error;
  } catch {
    status.textContent = "The server does not answer.";
  }
}

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(document.getElementById("key-field").value);
  load();
});
load();
