/* A file that is dropped, chosen or pasted, with a preview; and a drawing or a sound for users without a file at hand.
   It must never know tasks, nor the server. */

import { element } from "./dom.js";
import { labelled } from "./fields.js";
import { NOUNS, isOfKind, player, whyUnreadable } from "./preview.js";

/** @param {"image" | "audio"} kind @returns {import("./fields.js").Field} */
export function fileField(kind) {
  let file = null;
  let url = "";
  let isUnreadable = false;
  const control = element("input", { type: "file", accept: `${kind}/*` });
  const preview = element("div", { class: "preview" });
  const size = element("p", { class: "hint" });
  const label = `${kind === "image" ? "Image" : "Audio"}: choose a file, drop it here or paste it`;
  const node = element("div", { class: "drop" }, [labelled(control, label), size, preview]);

  function write(next) {
    URL.revokeObjectURL(url);
    file = next;
    control.files = fileList(next); // so that it names the file, wherever that came from
    url = next ? URL.createObjectURL(next) : "";
    size.textContent = next ? `${Math.ceil(next.size / 1024)} KiB` : "";
    isUnreadable = false;
    preview.replaceChildren();
    if (next) show(next, url);
  }

  /** Once the browser has read it: what it cannot read has no preview, but an error. */
  async function show(next, source) {
    const shown = await player(kind, source);
    if (url !== source) return; // another file was chosen meanwhile
    isUnreadable = !shown;
    preview.replaceChildren(shown ?? element("p", { class: "error", role: "alert" }, whyUnreadable(kind, next)));
  }

  function problem() {
    if (!file) return "Choose a file first.";
    return isUnreadable && !isOfKind(kind, file) ? `Choose ${NOUNS[kind]} first.` : "";
  }

  function accept(next) {
    if (!next) return;
    write(next);
    node.dispatchEvent(new Event("input", { bubbles: true }));
  }

  control.addEventListener("change", () => accept(control.files[0]));
  onFile(node, accept);
  return { node, control, read: () => file, write, problem };
}

/** The only value that a control for files can be set to. */
function fileList(file) {
  const transfer = new DataTransfer();
  if (file) transfer.items.add(file);
  return transfer.files;
}

/** Call `accept` with each file that is dropped on an element or pasted into it. */
function onFile(node, accept) {
  const hover = (isOver) => (event) => {
    event.preventDefault();
    node.classList.toggle("over", isOver);
  };
  node.addEventListener("dragover", hover(true));
  node.addEventListener("dragleave", hover(false));
  node.addEventListener("drop", (event) => {
    hover(false)(event);
    accept(event.dataTransfer.files[0]);
  });
  node.addEventListener("paste", (event) => accept(event.clipboardData.files[0]));
}

/** A landscape. @returns {Promise<File>} */
export async function drawing() {
  const canvas = element("canvas", { width: 320, height: 200 });
  const context = canvas.getContext("2d");
  const shape = (color, draw) => {
    context.fillStyle = color;
    context.beginPath();
    draw();
    context.fill();
  };
  shape("#8ec9f5", () => context.rect(0, 0, 320, 200));
  shape("#ffd64a", () => context.arc(250, 50, 26, 0, 7));
  shape("#5b8f4e", () => context.ellipse(90, 210, 190, 80, 0, 0, 7));
  shape("#477a3d", () => context.ellipse(270, 215, 150, 60, 0, 0, 7));
  shape("#b5533c", () => context.rect(70, 105, 60, 45));
  shape("#7a2e21", () =>
    [
      [62, 107],
      [100, 75],
      [138, 107],
    ].forEach(([x, y]) => context.lineTo(x, y)),
  );
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "landscape.png", { type: "image/png" });
}

const SAMPLE_RATE_HZ = 16000;

/** Three notes in one second, as 16-bit samples in a WAV file. @returns {Promise<File>} */
export async function chord() {
  const samples = new Int16Array(SAMPLE_RATE_HZ);
  for (let index = 0; index < samples.length; index += 1) {
    const phase = (2 * Math.PI * index) / SAMPLE_RATE_HZ;
    const sum = Math.sin(262 * phase) + Math.sin(330 * phase) + Math.sin(392 * phase);
    samples[index] = 8000 * sum * (1 - index / samples.length);
  }
  return new File([wavHeader(samples.byteLength), samples], "chord.wav", { type: "audio/wav" });
}

function wavHeader(bytes) {
  const header = new DataView(new ArrayBuffer(44));
  const tags = { 0: "RIFF", 8: "WAVE", 12: "fmt ", 36: "data" };
  for (const [offset, tag] of Object.entries(tags)) {
    for (const [index, letter] of [...tag].entries()) header.setUint8(Number(offset) + index, letter.charCodeAt(0));
  }
  const long = { 4: 36 + bytes, 16: 16, 24: SAMPLE_RATE_HZ, 28: 2 * SAMPLE_RATE_HZ, 40: bytes };
  const short = { 20: 1, 22: 1, 32: 2, 34: 16 };
  for (const [offset, number] of Object.entries(long)) header.setUint32(Number(offset), number, true);
  for (const [offset, number] of Object.entries(short)) header.setUint16(Number(offset), number, true);
  return header.buffer;
}
