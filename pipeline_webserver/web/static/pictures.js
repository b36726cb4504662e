/* Boxes and masks over a picture. It must never know the server. */

import { bars, percent } from "./bars.js";
import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
/* Told apart from each other and from most pictures; the name stands beside each, too. */
const COLORS = ["#ff4d6d", "#2f9bff", "#ffb703", "#2dc653", "#b15dff", "#ff7b00", "#00b4b4", "#d6d600"];

export const colorOf = (index) => COLORS[index % COLORS.length];

/** An element of a drawing. */
export function drawn(tag, attributes, children = []) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** A list of what was found, each with its color. */
function legend(found) {
  const rows = found.map(({ label, score }, index) => {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colorOf(index);
    return element("li", {}, [swatch, score === null ? label : `${label} ${percent(score)}`]);
  });
  return element("ul", { class: "legend" }, rows);
}

/** A picture with something of its own size over it. */
async function overlaid(file, words, over) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const canvas = element("canvas", { width: String(width), height: String(height), role: "img", "aria-label": words });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return element("div", { class: "overlaid" }, [canvas, ...(await over(width, height))]);
}

function box({ label, box: { xmin, ymin, xmax, ymax } }, index, size) {
  const line = { fill: "none", stroke: colorOf(index), "stroke-width": size / 130 };
  const frame = drawn("rect", { x: xmin, y: ymin, width: xmax - xmin, height: ymax - ymin, ...line });
  const text = {
    x: Math.max(0, xmin) + size / 100,
    y: Math.max(ymin, size / 22) - size / 90,
    "font-size": size / 24,
    fill: "#ffffff",
  };
  const name = drawn("text", { ...text, class: "box-name" }, [label]);
  return drawn("g", {}, [frame, name]);
}

/** Objects with their boxes over the picture. @param {{file: File}} asked */
export async function objects(answer, asked) {
  if (answer.length === 0) return { node: element("p", {}, "Nothing was found."), summary: "Nothing was found" };
  const summary = answer.map(({ label, score }) => `${label}, ${percent(score)}`).join("; ");
  const boxes = (width, height) => {
    const size = Math.max(width, height);
    const found = answer.map((item, index) => box(item, index, size));
    return [drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, found)];
  };
  const picture = await overlaid(asked.file, `The picture with ${answer.length} boxes`, boxes);
  return { node: element("div", {}, [picture, legend(answer)]), summary };
}

/** The bytes of a file in base64. */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** A mask as a layer of one color: where the mask is white, the color shows. */
async function layer(mask, index, width, height) {
  const bitmap = await createImageBitmap(new Blob([bytesOf(mask)], { type: "image/png" }));
  const canvas = element("canvas", { width: String(width), height: String(height), "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0, width, height);
  const picture = pen.getImageData(0, 0, width, height);
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(colorOf(index).slice(at, at + 2), 16));
  for (let at = 0; at < picture.data.length; at += 4) {
    picture.data.set([red, green, blue, picture.data[at] > 127 ? 140 : 0], at);
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}

/** Segments with their masks over the picture. @param {{file: File}} asked */
export async function segments(answer, asked) {
  if (answer.length === 0) return { node: element("p", {}, "Nothing was found."), summary: "Nothing was found" };
  const layers = (width, height) => Promise.all(answer.map(({ mask }, index) => layer(mask, index, width, height)));
  const picture = await overlaid(asked.file, `The picture with ${answer.length} masks`, layers);
  const summary = answer.map(({ label }) => label).join(", ");
  return { node: element("div", {}, [picture, legend(answer)]), summary };
}

/** Labels, and the best of them. @param {{label: string, score: number}[]} answer */
export function labelsOf(answer) {
  return {
    node: bars(answer),
    summary: answer.length ? `${answer[0].label}, ${percent(answer[0].score)}` : "No labels",
  };
}
