// Requests to the server: with a key where it requires one, repeated when it says so, and with words for errors.

const ATTEMPTS = 6;
const MAX_WAIT = 60; // seconds that one pause may take
const TIMEOUT_MS = 45_000;

export class ApiError extends Error {
  constructor(message, { status = 0, kind = "", offline = false } = {}) {
    super(message);
    Object.assign(this, { status, kind, offline });
  }
}

export const key = {
  get: () => withStorage((storage) => storage.getItem("key")) ?? "",
  set: (value) => withStorage((storage) => (value ? storage.setItem("key", value) : storage.removeItem("key"))),
};

let keyInMemory = ""; // where storage is forbidden, the key lives as long as the page

function withStorage(task) {
  try {
    return task(sessionStorage);
  } catch {
    return task({ getItem: () => keyInMemory, setItem: (_, value) => (keyInMemory = value), removeItem: () => (keyInMemory = "") });
  }
}

/** The response's JSON. Raises ApiError, or AbortError by `signal`. `onWait(why, seconds)` is called during pauses. */
export async function requestJson(path, { body, signal, onWait = () => {} } = {}) {
  return (await request(path, { body, signal, onWait })).json();
}

/** A picture that only clients with a key may see, as a blob. */
export async function requestBlob(path, signal) {
  return (await request(path, { signal, onWait: () => {} })).blob();
}

async function request(path, { body, signal, onWait }) {
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, body, signal);
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    const error = await errorOf(response);
    if (![429, 503].includes(response.status) || !seconds || seconds > MAX_WAIT || attempt === ATTEMPTS) throw error;
    // Clients that were refused together should not all come back in the same moment.
    await pause(seconds + Math.random() / 2, signal, (left) => onWait(error.message, left));
  }
}

async function send(path, body, signal) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key.get()) headers["X-API-Key"] = key.get();
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const options = { headers, signal: signal ? AbortSignal.any([signal, timeout]) : timeout };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  try {
    return await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    if (error.name === "TimeoutError") throw new ApiError("The server does not answer.", { status: 504 });
    if (!navigator.onLine) {
      throw new ApiError("You are offline. The search continues when the connection is back.", { offline: true });
    }
    throw new ApiError("The server cannot be reached.", { offline: true });
  }
}

const MESSAGES = {
  400: (message) => `The server cannot process this: ${message}.`,
  401: () => "This server requires a key.",
  403: (message) => `This is not allowed: ${message}.`,
  404: () => "This is not in the index (any more).",
  413: (message) => `This is too large: ${message}.`,
  415: (message) => `The server does not support this type: ${message}.`,
  429: () => "The server is busy.",
  500: () => "Internal error of the server; its log has the details.",
  503: (message) => `The server cannot answer at the moment: ${message}.`,
  504: () => "The search took longer than the server allows.",
};

async function errorOf(response) {
  const error = await response.json().then((json) => json?.error, () => null);
  const message = String(error?.message ?? response.statusText ?? "").replace(/\.$/, "");
  const words = MESSAGES[response.status] ?? ((text) => `The server answered with status ${response.status}: ${text}.`);
  return new ApiError(words(message), { status: response.status, kind: error?.type ?? "" });
}

async function pause(seconds, signal, onWait) {
  const end = performance.now() + seconds * 1000;
  for (let left = seconds; left > 0; left = (end - performance.now()) / 1000) {
    onWait(Math.ceil(left));
    await new Promise((resolve) => setTimeout(resolve, Math.min(1000, left * 1000)));
    signal?.throwIfAborted();
  }
}
