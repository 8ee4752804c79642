// The server's interface: what is asked, what comes back, and errors in words. Addresses are relative to the page's own.

import { settings } from "./settings.js";

/** What went wrong, in words for the user. `status` is HTTP's, or 0 if there was no answer. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

function headers(extra = {}) {
  return settings.key ? { ...extra, Authorization: `Bearer ${settings.key}` } : extra;
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers: headers(options.headers), credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(navigator.onLine === false
      ? "You are offline. What you wrote is kept; try again when the network is back."
      : "The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** An answer that is not 2xx, as an ApiError with the server's own message where it has one. */
async function failure(response) {
  let details = {};
  try {
    const body = await response.json();
    details = typeof body.error === "string" ? { message: body.error } : body.error || {};
  } catch {
    // Not JSON: a proxy's page, say. The status must do.
  }
  let message = details.message || {
    401: "The server wants an API key.",
    403: "The server does not allow this.",
    404: "The server does not know this address.",
    413: "This is more than the server takes in one message.",
    429: "Too many requests.",
    503: "The server is busy or still loading.",
  }[response.status] || `The server answered with status ${response.status}.`;
  const wait = Number(response.headers.get("Retry-After"));
  if (wait > 0) message += ` Try again in ${wait} second${wait === 1 ? "" : "s"}.`;
  return new ApiError(message, { status: response.status, code: details.code, param: details.param });
}

async function json(path) {
  return (await request(path)).json();
}

/** Names of the models, the first one being the server's default. */
export async function models() {
  return ((await json("v1/models")).data || []).map((model) => model.id);
}

/** Names of the voices; none if the model does not speak. */
export async function voices() {
  try {
    const reply = await json("v1/audio/voices");
    return (reply.voices || reply.data || []).map((voice) => (typeof voice === "string" ? voice : voice.id || voice.name));
  } catch (error) {
    if (error.status === 404 || error.status === 501 || error.status === 400) return [];
    throw error;
  }
}

/** What the server says of itself; an empty object from servers that do not. */
export async function props() {
  try {
    return await json("props");
  } catch (error) {
    if (error.status === 401 || error.status === 0) throw error;
    return {};
  }
}

/** Speech of a text as a WAV blob. */
export async function speech(input, voice, signal) {
  const body = { input, response_format: "wav", ...(voice ? { voice } : {}), ...(settings.model ? { model: settings.model } : {}) };
  const response = await request("v1/audio/speech", { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return response.blob();
}

/** Asks for an answer and yields its chunks as they come (chat.completion.chunk objects). Ends at [DONE]; a cut connection is an error. */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true }),
  });
  let finished = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message || "The server gave up on this answer.", { status: response.status, code: chunk.error.code });
    finished ||= Boolean(chunk.choices?.some((choice) => choice.finish_reason));
    yield chunk;
  }
  if (!finished) throw new ApiError("The connection was lost before the answer ended.");
}

/** The data of each server-sent event of a body. Comments and other fields are skipped. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError("The connection was lost before the answer ended.");
      }
      if (piece.done) return;
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
