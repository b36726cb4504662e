/* A small table that can be edited, grown and cut. It must never know what is asked of it. */

import { element } from "./dom.js";

/** What keeps a column apart from one of the same name. */
const different = (name, taken) => (name in taken ? different(`${name} `, taken) : name);

function cell(words, value) {
  const input = element("input", { type: "text", "aria-label": words, autocomplete: "off" });
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
      if (name.trim()) columns[different(name, columns)] = cells.slice(1).map((row) => row[x]);
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
  draw();
  return { node, control, read, write };
}

/** To grow the table and to cut it; a row and a column stay. */
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
    Object.entries(actions).map(([words, next]) => {
      const button = element("button", { type: "button", class: "small" }, words);
      button.addEventListener("click", () => change(next()));
      return button;
    }),
  );
}
