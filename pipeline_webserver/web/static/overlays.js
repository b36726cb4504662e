/* Boxes and masks over an image. It must never know the server. */

import { element, svgElement } from "./dom.js";
import { percent } from "./format.js";

/* Distinct from each other and from most images; the label stands beside each, too. */
const COLORS = ["#ff4d6d", "#2f9bff", "#ffb703", "#2dc653", "#b15dff", "#ff7b00", "#00b4b4", "#d6d600"];

const colorOf = (index) => COLORS[index % COLORS.length];

/** The labels, each with its color. */
function legend(items) {
  const rows = items.map(({ label, score }, index) => {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colorOf(index);
    return element("li", {}, [swatch, typeof score === "number" ? `${label} ${percent(score)}` : label]);
  });
  return element("ul", { class: "legend" }, rows);
}

/** An image with layers of its own size over it, which `layersOf` makes for a width and a height. */
async function overlaid(file, label, layersOf) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return element("div", { class: "overlaid" }, [canvas, ...(await layersOf(width, height))]);
}

function box({ label, box: { xmin, ymin, xmax, ymax } }, index, size) {
  const line = { fill: "none", stroke: colorOf(index), "stroke-width": size / 130 };
  const frame = svgElement("rect", { x: xmin, y: ymin, width: xmax - xmin, height: ymax - ymin, ...line });
  const text = {
    x: Math.max(0, xmin) + size / 100,
    y: Math.max(ymin, size / 22) - size / 90,
    "font-size": size / 24,
    fill: "#ffffff",
  };
  return svgElement("g", {}, [frame, svgElement("text", { ...text, class: "box-name" }, label)]);
}

const nothing = () => ({ node: element("p", {}, "Nothing was detected."), summary: "Nothing was detected" });

/** Objects with their boxes over the image. */
export async function boxes(answer, file) {
  if (answer.length === 0) return nothing();
  const summary = answer.map(({ label, score }) => `${label}, ${percent(score)}`).join("; ");
  const layers = (width, height) => {
    const size = Math.max(width, height);
    const shapes = answer.map((item, index) => box(item, index, size));
    return [svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, shapes)];
  };
  const image = await overlaid(file, `The image with ${answer.length} boxes`, layers);
  return { node: element("div", {}, [image, legend(answer)]), summary };
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

/** A mask as a layer of one color: where the mask is white, the color shows. */
async function maskLayer(mask, index, width, height) {
  const bitmap = await createImageBitmap(new Blob([bytesOf(mask)], { type: "image/png" }));
  const canvas = element("canvas", { width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(colorOf(index).slice(at, at + 2), 16));
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.set([red, green, blue, pixels.data[at] > 127 ? 140 : 0], at);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Segments with their masks over the image. */
export async function masks(answer, file) {
  if (answer.length === 0) return nothing();
  const layers = (width, height) => Promise.all(answer.map(({ mask }, index) => maskLayer(mask, index, width, height)));
  const image = await overlaid(file, `The image with ${answer.length} masks`, layers);
  const summary = answer.map(({ label }) => label).join(", ");
  return { node: element("div", {}, [image, legend(answer)]), summary };
}
