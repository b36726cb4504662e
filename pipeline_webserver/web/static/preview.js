/* The preview of an image or of audio, where the browser can read it. It must never know the form. */

import { element } from "./dom.js";

export const NOUNS = { image: "an image", audio: "audio" };

/** Whether a file says that it is of the kind, or does not say what it is. */
export const isOfKind = (kind, file) => !file.type || file.type.startsWith(`${kind}/`);

/** A file of the right type may still be one that the server reads: browsers do not know TIFF. */
export function whyUnreadable(kind, file) {
  if (!isOfKind(kind, file)) return `${file.name} is not ${NOUNS[kind]}, but ${file.type}.`;
  return `This browser cannot ${kind === "image" ? "show" : "play"} ${file.name}; the server may still read it.`;
}

/** The element that shows a file, once it can; null if it cannot. */
export function player(kind, url) {
  const isImage = kind === "image";
  const node = isImage
    ? element("img", { alt: "The chosen image" })
    : element("audio", { controls: "", "aria-label": "The chosen audio" });
  return new Promise((resolve) => {
    node.addEventListener(isImage ? "load" : "loadedmetadata", () => resolve(node));
    node.addEventListener("error", () => resolve(null));
    node.src = url;
  });
}
