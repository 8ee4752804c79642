// Conversations, messages and media, kept in this browser (IndexedDB). Where that is refused, they live until the page is closed.
//
//   conversations  {id, title, created, updated, system}
//   messages       {id, conversation, order, role: "user" | "assistant", ...} (see model.js)
//   media          {id, conversation, blob, name, mime}

const STORES = { conversations: null, messages: "conversation", media: "conversation" };

let database = null;
const memory = Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()]));

/** Opens the store. Resolves to whether what is stored will outlast the page. */
export function open() {
  return new Promise((resolve) => {
    let asked;
    try {
      asked = indexedDB.open("omni", 1);
    } catch {
      resolve(false);
      return;
    }
    asked.onupgradeneeded = () => {
      for (const [name, index] of Object.entries(STORES)) {
        const store = asked.result.createObjectStore(name, { keyPath: "id" });
        if (index) store.createIndex(index, index);
      }
    };
    asked.onsuccess = () => {
      database = asked.result;
      // Another tab with a newer page wants to upgrade: let it.
      database.onversionchange = () => database.close();
      resolve(true);
    };
    asked.onerror = () => resolve(false);
    asked.onblocked = () => resolve(false);
  });
}

/** Runs `act(stores...)` in one transaction; resolves to the result of the request that it returned, when all is written. */
function transaction(names, mode, act) {
  return new Promise((resolve, reject) => {
    const running = database.transaction(names, mode);
    const request = act(...names.map((name) => running.objectStore(name)));
    running.oncomplete = () => resolve(request?.result);
    running.onabort = running.onerror = () => reject(new Error(
      running.error?.name === "QuotaExceededError"
        ? "The browser has no more room for conversations. Delete some, or export and then delete them."
        : "The browser could not keep this conversation."));
  });
}

function put(name, value) {
  if (!database) {
    memory[name].set(value.id, value);
    return Promise.resolve();
  }
  return transaction([name], "readwrite", (store) => store.put(value));
}

function all(name, conversation) {
  if (!database) return Promise.resolve([...memory[name].values()].filter((value) => !conversation || value.conversation === conversation));
  return transaction([name], "readonly", (store) => (conversation ? store.index("conversation").getAll(conversation) : store.getAll()));
}

export const newId = () => (crypto.randomUUID ? crypto.randomUUID() : Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("-"));

export const conversations = async () => (await all("conversations")).sort((a, b) => b.updated - a.updated);
export const messagesOf = async (conversation) => (await all("messages", conversation)).sort((a, b) => a.order - b.order);
export const mediaOf = (conversation) => all("media", conversation);
export const putConversation = (conversation) => put("conversations", conversation);
export const putMessage = (message) => put("messages", message);

/** Keeps a blob and returns its id; one that is given is written anew. */
export async function putMedia(conversation, blob, name, id = newId()) {
  await put("media", { id, conversation, blob, name, mime: blob.type });
  return id;
}

/** The medium {blob, name, mime} of an id, or undefined. */
export function media(id) {
  if (!database) return Promise.resolve(memory.media.get(id));
  return transaction(["media"], "readonly", (store) => store.get(id));
}

/** Removes messages with the media that they name. */
export function removeMessages(messages) {
  const media = messages.flatMap((message) => [...(message.parts || []), message.speech].map((part) => part?.media)).filter(Boolean);
  if (!database) {
    for (const message of messages) memory.messages.delete(message.id);
    for (const id of media) memory.media.delete(id);
    return Promise.resolve();
  }
  return transaction(["messages", "media"], "readwrite", (texts, blobs) => {
    for (const message of messages) texts.delete(message.id);
    for (const id of media) blobs.delete(id);
  });
}

/** Removes a conversation with all that belongs to it. */
export async function removeConversation(id) {
  const [messages, blobs] = await Promise.all([all("messages", id), all("media", id)]);
  if (!database) {
    memory.conversations.delete(id);
    for (const message of messages) memory.messages.delete(message.id);
    for (const blob of blobs) memory.media.delete(blob.id);
    return;
  }
  await transaction(["conversations", "messages", "media"], "readwrite", (conversations, texts, media) => {
    conversations.delete(id);
    for (const message of messages) texts.delete(message.id);
    for (const blob of blobs) media.delete(blob.id);
  });
}
