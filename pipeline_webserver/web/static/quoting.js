/* Values as literals of a shell, of Python and of JavaScript. It must never know what is in them. */

/** For POSIX shells: single quotes, in which no character has a meaning. */
export const quoteForShell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** For JavaScript, and for a value in JSON. */
export const quoteForJavaScript = (value) => JSON.stringify(value);

/** For Python: its strings are JSON's, but its names of constants are not. */
export function quoteForPython(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(quoteForPython).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).map(([name, item]) => `${quoteForPython(name)}: ${quoteForPython(item)}`);
    return `{${items.join(", ")}}`;
  }
  return JSON.stringify(value);
}
