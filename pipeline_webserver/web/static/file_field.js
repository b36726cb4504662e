/* A file that is dropped, chosen or pasted, with a look at it; and a drawing or a sound for those who have none at
   hand. It must never know tasks, nor the server. */

import { element } from "./dom.js";
import { labelled } from "./fields.js";

/** @param {"image" | "audio"} kind @returns {import("./fields.js").Field} */
export function fileField(kind) {
  let file = null;
  let shown = "";
  const control = element("input", { type: "file", accept: `${kind}/*` });
  const preview = element("div", { class: "preview" });
  const size = element("p", { class: "hint" });
  const words = `${kind === "image" ? "Picture" : "Sound"}: choose a file, drop it here or paste it`;
  const node = element("div", { class: "drop" }, [labelled(control, words), size, preview]);

  function write(next) {
    URL.revokeObjectURL(shown);
    file = next;
    control.files = listOf(next); // so that it names the file, wherever that came from
    shown = next ? URL.createObjectURL(next) : "";
    size.textContent = next ? `${Math.ceil(next.size / 1024)} KiB` : "";
    preview.replaceChildren(...(next ? [look(kind, shown)] : []));
  }

  function take(next) {
    if (!next) return;
    write(next);
    node.dispatchEvent(new Event("input", { bubbles: true }));
  }

  control.addEventListener("change", () => take(control.files[0]));
  receive(node, take);
  return { node, control, read: () => file, write };
}

/** What a control for files can hold. */
function listOf(file) {
  const carrier = new DataTransfer();
  if (file) carrier.items.add(file);
  return carrier.files;
}

function look(kind, url) {
  if (kind === "image") return element("img", { src: url, alt: "The chosen picture" });
  return element("audio", { src: url, controls: "", "aria-label": "The chosen sound" });
}

/** Files that are dropped on an element or pasted into it. */
function receive(node, take) {
  const over = (isOver) => (event) => {
    event.preventDefault();
    node.classList.toggle("over", isOver);
  };
  node.addEventListener("dragover", over(true));
  node.addEventListener("dragleave", over(false));
  node.addEventListener("drop", (event) => {
    over(false)(event);
    take(event.dataTransfer.files[0]);
  });
  node.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
}

/** A landscape. @returns {Promise<File>} */
export async function drawing() {
  const canvas = element("canvas", { width: "320", height: "200" });
  const pen = canvas.getContext("2d");
  const shape = (color, draw) => {
    pen.fillStyle = color;
    pen.beginPath();
    draw();
    pen.fill();
  };
  shape("#8ec9f5", () => pen.rect(0, 0, 320, 200));
  shape("#ffd64a", () => pen.arc(250, 50, 26, 0, 7));
  shape("#5b8f4e", () => pen.ellipse(90, 210, 190, 80, 0, 0, 7));
  shape("#477a3d", () => pen.ellipse(270, 215, 150, 60, 0, 0, 7));
  shape("#b5533c", () => pen.rect(70, 105, 60, 45));
  shape("#7a2e21", () =>
    [
      [62, 107],
      [100, 75],
      [138, 107],
    ].forEach(([x, y]) => pen.lineTo(x, y)),
  );
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return new File([blob], "landscape.png", { type: "image/png" });
}

const RATE_HZ = 16000;

/** Three notes in one second, as 16-bit samples in a WAV file. @returns {Promise<File>} */
export async function chord() {
  const samples = new Int16Array(RATE_HZ);
  for (let at = 0; at < samples.length; at += 1) {
    const time = (2 * Math.PI * at) / RATE_HZ;
    const sum = Math.sin(262 * time) + Math.sin(330 * time) + Math.sin(392 * time);
    samples[at] = 8000 * sum * (1 - at / samples.length);
  }
  return new File([wavHead(samples.byteLength), samples], "chord.wav", { type: "audio/wav" });
}

function wavHead(bytes) {
  const head = new DataView(new ArrayBuffer(44));
  const words = { 0: "RIFF", 8: "WAVE", 12: "fmt ", 36: "data" };
  for (const [place, word] of Object.entries(words)) {
    for (const [index, letter] of [...word].entries()) head.setUint8(Number(place) + index, letter.charCodeAt(0));
  }
  const long = { 4: 36 + bytes, 16: 16, 24: RATE_HZ, 28: 2 * RATE_HZ, 40: bytes };
  const short = { 20: 1, 22: 1, 32: 2, 34: 16 };
  for (const [place, number] of Object.entries(long)) head.setUint32(Number(place), number, true);
  for (const [place, number] of Object.entries(short)) head.setUint16(Number(place), number, true);
  return head.buffer;
}
