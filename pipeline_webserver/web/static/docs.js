/* The page that makes openapi.json readable: each route with its request, its responses and a curl line. It must never
   know more of the server than that document says. */

import { apiKey, element, storeApiKey, withApiKey } from "./dom.js";
import { quoteForShell } from "./quoting.js";

/** The last part of a reference: `#/components/schemas/Label` is `Label`. */
const nameOf = (reference) => reference.split("/").pop();

/** A link to the section of a schema. */
function link(reference) {
  return element("a", { href: `#schema-${nameOf(reference)}` }, nameOf(reference));
}

const RANGES = { minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<" };
const COUNTS = { minItems: "at least", maxItems: "at most", minLength: "at least", maxLength: "at most" };

/** What a schema says besides its type: ranges, numbers of items, patterns. */
function limits(schema) {
  const parts = [];
  for (const [name, sign] of Object.entries(RANGES)) if (name in schema) parts.push(`${sign} ${schema[name]}`);
  for (const [name, words] of Object.entries(COUNTS)) if (name in schema) parts.push(`${words} ${schema[name]}`);
  if (schema.pattern) parts.push(`like ${schema.pattern}`);
  if (schema.contentEncoding) parts.push(schema.contentEncoding);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

/** A schema in a few words, with links to the schemas that it refers to. */
function summary(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  if (schema.allOf) return summary(schema.allOf[0]);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return joined(choices.filter((choice) => choice.type !== "null").map(summary), " or ");
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list", limits(schema), " of ", ...summary(schema.items ?? {})];
  return [(schema.type ?? "anything") + limits(schema)];
}

/** Lists of nodes as one, with a separator between them. */
function joined(lists, separator) {
  return lists.flatMap((list, index) => (index ? [separator, ...list] : list));
}

/** The properties of an object, a row each. */
function properties(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [element("code", {}, name), required.has(name) ? " required" : ""]),
      element("td", {}, summary(property)),
      element("td", {}, property.description ?? ""),
    ]),
  );
  return element("table", {}, element("tbody", {}, rows));
}

function schemaSection([name, schema]) {
  const body = schema.properties ? properties(schema) : element("p", {}, summary(schema));
  const description = schema.description ? [element("p", {}, schema.description)] : [];
  return element("section", { id: `schema-${name}` }, [element("h3", {}, name), ...description, body]);
}

/** The option of curl for a body: an example, or a file where the body is one. */
function dataOption({ schema, example }) {
  if (schema.format === "binary") return "--data-binary @FILE";
  return `-d ${quoteForShell(typeof example === "string" ? example : JSON.stringify(example))}`;
}

/** A curl line for each form of the request; one media type stands for all that a file may have. */
function curlLines(path, operation) {
  const url = new URL(path.replace(/^\//, ""), new URL(".", location.href)).href;
  const key = operation.security.length && apiKey() ? ' -H "Authorization: Bearer $KEY"' : "";
  const contents = Object.entries(operation.requestBody?.content ?? {});
  if (!contents.length) return [`curl${key} ${url}`];
  const options = contents.map(([type, content]) => [dataOption(content), quoteForShell(`Content-Type: ${type}`)]);
  const distinct = options.filter(([data], index) => options.findIndex(([other]) => other === data) === index);
  return distinct.map(([data, header]) => `curl${key} -H ${header} ${data} ${url}`);
}

/** The error types that a response may have. */
function errorTypes(response) {
  const types = Object.values(response.content ?? {}).flatMap(
    ({ schema }) => schema.allOf?.[1]?.properties.error_type.enum ?? [],
  );
  return types.flatMap((type) => [" ", element("code", {}, type)]);
}

function responseTable(operation, components) {
  const rows = Object.entries(operation.responses).map(([status, given]) => {
    const response = given.$ref ? components.responses[nameOf(given.$ref)] : given;
    const schemas = Object.values(response.content ?? {}).map((content) => summary(content.schema));
    return element("tr", {}, [
      element("th", { scope: "row" }, status),
      element("td", {}, [response.description, ...errorTypes(response)]),
      element("td", {}, joined(schemas, ", ")),
    ]);
  });
  return element("table", {}, element("tbody", {}, rows));
}

function requestList(operation) {
  const bodies = Object.entries(operation.requestBody?.content ?? {}).map(([type, content]) =>
    element("li", {}, [element("code", {}, type), ": ", ...summary(content.schema)]),
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
    requestList(operation),
    ...curlLines(path, operation).map((line) => element("pre", { tabindex: "0" }, line)),
    element("h3", {}, "Responses"),
    responseTable(operation, components),
  ]);
}

function show(openapi) {
  document.title = openapi.info.title;
  document.getElementById("title").textContent = openapi.info.title;
  document.getElementById("description").textContent = openapi.info.description;
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

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  storeApiKey(document.getElementById("key-field").value);
  load();
});
load();
