// A conversation as a file: Markdown to read, or JSON with everything in it, media as data URIs.

import { dataUri, textOf } from "./model.js";
import * as store from "./store.js";

export function fileName(title, ending) {
  const name = title.normalize("NFKD").replace(/[^\w\s-]/g, "").trim().replace(/\s+/g, "-").slice(0, 60).toLowerCase();
  return `${name || "conversation"}.${ending}`;
}

/** {format, title, created, system, messages: [{role, content, ...}]}: contents as the server takes them. */
export async function asJson(conversation, messages) {
  const list = [];
  for (const message of messages) {
    if (message.role === "user") {
      const content = [];
      for (const part of message.parts) {
        if (part.type === "text") content.push({ type: "text", text: part.text });
        else {
          const kept = await store.media(part.media);
          content.push({ type: part.type, name: part.name, data: kept ? await dataUri(kept.blob, part.mime) : null });
        }
      }
      list.push({ role: "user", content });
    } else {
      const kept = message.speech && (await store.media(message.speech.media));
      list.push({
        role: "assistant", content: message.text,
        ...(message.reasoning ? { reasoning_content: message.reasoning } : {}),
        ...(message.calls.length ? { tool_calls: message.calls } : {}),
        ...(kept ? { audio: await dataUri(kept.blob, "audio/wav") } : {}),
        ...(message.state === "done" ? {} : { state: message.state, error: message.error || undefined }),
      });
    }
  }
  const whole = { format: "omni-conversation-1", title: conversation.title, created: new Date(conversation.created).toISOString(), system: conversation.system, messages: list };
  return new Blob([JSON.stringify(whole, null, 2)], { type: "application/json" });
}

export function asMarkdown(conversation, messages) {
  const lines = [`# ${conversation.title}`, "", `*${new Date(conversation.created).toLocaleString()}*`, ""];
  if (conversation.system.trim()) lines.push("## Instructions", "", conversation.system.trim(), "");
  for (const message of messages) {
    lines.push(message.role === "user" ? "## You" : "## Answer", "");
    if (message.role === "user") {
      for (const part of message.parts) if (part.type !== "text") lines.push(`*[${{ image: "picture", audio: "sound", video: "video" }[part.type]}: ${part.name}]*`, "");
      if (textOf(message)) lines.push(textOf(message), "");
    } else {
      if (message.text) lines.push(message.text, "");
      if (message.speech) lines.push(`*[speech, ${message.speech.duration.toFixed(1)} s]*`, "");
      if (message.error) lines.push(`*${message.error}*`, "");
    }
  }
  return new Blob([lines.join("\n")], { type: "text/markdown" });
}
