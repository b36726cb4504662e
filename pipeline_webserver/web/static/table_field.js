/* A small table whose cells, rows and columns can be edited. It must never know the question about it. */

import { element } from "./dom.js";

/** Distinguishes a column from another of the same name. */
const distinct = (name, columns) => (name in columns ? distinct(`${name} `, columns) : name);

function cell(label, value) {
  const input = element("input", { type: "text", "aria-label": label, autocomplete: "off" });
  input.value = value;
  return input;
}

/** @returns {import("./fields.js").Field} */
export function tableField() {
  let cells = [
    ["", ""],
    ["", ""],
  ]; // the first row has the columns' names
  const table = element("table", { class: "grid" });
  const control = element("div", { class: "scrolling" }, table);

  function draw() {
    const rows = cells.map((row, y) =>
      element(
        "tr",
        {},
        row.map((value, x) => {
          const input = cell(y ? `Row ${y}, column ${x + 1}` : `Name of column ${x + 1}`, value);
          input.addEventListener("input", () => {
            cells[y][x] = input.value;
          });
          return element(y ? "td" : "th", y ? {} : { scope: "col" }, input);
        }),
      ),
    );
    table.replaceChildren(element("thead", {}, rows[0]), element("tbody", {}, rows.slice(1)));
  }

  function change(next) {
    cells = next;
    draw();
    table.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function read() {
    const columns = {};
    for (const [x, name] of cells[0].entries()) {
      if (name.trim()) columns[distinct(name, columns)] = cells.slice(1).map((row) => row[x]);
    }
    return columns;
  }

  function write(columns) {
    const lists = Object.values(columns);
    cells = [Object.keys(columns), ...lists[0].map((_, y) => lists.map((list) => list[y]))];
    draw();
  }

  const node = element("div", { class: "field", role: "group", "aria-label": "Table" }, [
    control,
    buttons(() => cells, change),
  ]);
  const problem = () => (Object.keys(read()).length ? "" : "Name at least one column of the table.");
  draw();
  return { node, control, read, write, problem };
}

/** Buttons that add and remove rows and columns; one row and one column stay. */
function buttons(cells, change) {
  const width = () => cells()[0].length;
  const actions = {
    "Add row": () => [...cells(), Array(width()).fill("")],
    "Remove row": () => (cells().length > 2 ? cells().slice(0, -1) : cells()),
    "Add column": () => cells().map((row) => [...row, ""]),
    "Remove column": () => (width() > 1 ? cells().map((row) => row.slice(0, -1)) : cells()),
  };
  return element(
    "div",
    { class: "row" },
    Object.entries(actions).map(([label, next]) => {
      const button = element("button", { type: "button", class: "small" }, label);
      button.addEventListener("click", () => change(next()));
      return button;
    }),
  );
}
