// What a message is, and how messages become a request.
//
//   user       {parts: [{type: "text", text} | {type: "image" | "audio" | "video", media, name, mime}]}
//   assistant  {state: "running" | "done" | "stopped" | "failed", text, reasoning, calls: [{name, arguments}], error, finish,
//               speech: {media, duration, peaks} | null}

import * as store from "./store.js";

/** The kinds of files by their ending, for those whose type the browser does not know. */
const ENDINGS = {
  image: "jpg jpeg png webp gif bmp tif tiff avif heic heif jp2 ppm pgm pnm",
  audio: "wav mp3 flac ogg oga opus m4a aac",
  video: "mp4 webm mkv mov m4v avi",
};

/** "image", "audio", "video", or null for what the model does not take. */
export function kindOf(file) {
  const kind = file.type.split("/")[0];
  if (kind in ENDINGS) return kind;
  const ending = file.name?.split(".").pop().toLowerCase();
  return Object.keys(ENDINGS).find((name) => ENDINGS[name].split(" ").includes(ending)) || null;
}

/** The format's name for an input_audio part: "wav", "mp3", "ogg" ... */
function soundFormat(mime, name = "") {
  const sub = mime.split(";")[0].split("/")[1] || name.split(".").pop().toLowerCase();
  return { mpeg: "mp3", "x-wav": "wav", wave: "wav", "vnd.wave": "wav", "x-flac": "flac", mp4: "m4a", "x-m4a": "m4a" }[sub] || sub;
}

/** A blob as a data URI. */
export function dataUri(blob, mime) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("A medium of this conversation can no longer be read."));
    reader.readAsDataURL(mime && blob.type !== mime ? blob.slice(0, blob.size, mime) : blob);
  });
}

/** A part as the server takes it. */
async function contentPart(part) {
  if (part.type === "text") return { type: "text", text: part.text };
  const kept = await store.media(part.media);
  if (!kept) return { type: "text", text: `[${part.name || part.type}: no longer there]` };
  const uri = await dataUri(kept.blob, part.mime || `${part.type}/octet-stream`);
  if (part.type === "image") return { type: "image_url", image_url: { url: uri } };
  if (part.type === "video") return { type: "video_url", video_url: { url: uri } };
  return { type: "input_audio", input_audio: { data: uri.slice(uri.indexOf(",") + 1), format: soundFormat(part.mime || "", part.name) } };
}

/** The messages of a request: the system prompt and all turns. An answer without text (failed, or stopped at once) is left out. */
export async function requestMessages(system, messages) {
  const list = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.role === "user") {
      const only = message.parts.length === 1 && message.parts[0].type === "text";
      list.push({ role: "user", content: only ? message.parts[0].text : await Promise.all(message.parts.map(contentPart)) });
    } else if (message.text) {
      list.push({ role: "assistant", content: message.text });
    }
  }
  return list;
}

/** A conversation's name, made of its first message. */
export function titleOf(message) {
  const text = message.parts.find((part) => part.type === "text")?.text.trim().replace(/\s+/g, " ") || "";
  if (text) return text.length > 60 ? `${text.slice(0, 57).replace(/\s\S*$/, "")}…` : text;
  const first = message.parts[0];
  return first?.spoken ? "Spoken message" : first?.name || "Conversation";
}

/** The text of a user's message. */
export const textOf = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("\n\n");
