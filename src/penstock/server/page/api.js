// Asking the server: with a key where it wants one, again where it says when, and with words for what goes wrong.

const TRIES = 6;
const LONGEST = 60; // seconds that one wait may take
const PATIENCE = 45_000;

export class Trouble extends Error {
  constructor(message, { status = 0, kind = "", offline = false } = {}) {
    super(message);
    Object.assign(this, { status, kind, offline });
  }
}

export const key = {
  get: () => stored((storage) => storage.getItem("key")) ?? "",
  set: (value) => stored((storage) => (value ? storage.setItem("key", value) : storage.removeItem("key"))),
};

let forgetful = ""; // where storage is forbidden, the key lives as long as the page

function stored(task) {
  try {
    return task(sessionStorage);
  } catch {
    return task({ getItem: () => forgetful, setItem: (_, value) => (forgetful = value), removeItem: () => (forgetful = "") });
  }
}

/** The answer's JSON. Raises Trouble, or AbortError where `signal` says so. `waiting` hears why, and of each second. */
export async function ask(path, { body, signal, waiting = () => {} } = {}) {
  return (await asked(path, { body, signal, waiting })).json();
}

/** A picture that only those with a key may see, as a blob. */
export async function picture(path, signal) {
  return (await asked(path, { signal, waiting: () => {} })).blob();
}

async function asked(path, { body, signal, waiting }) {
  for (let attempt = 1; ; attempt++) {
    const answer = await sent(path, body, signal);
    if (answer.ok) return answer;
    const after = Number(answer.headers.get("Retry-After"));
    const told = await reason(answer);
    if (![429, 503].includes(answer.status) || !after || after > LONGEST || attempt === TRIES) throw told;
    // Not all of those who were sent away come back in the same moment.
    await pause(after + Math.random() / 2, signal, (left) => waiting(told.message, left));
  }
}

async function sent(path, body, signal) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key.get()) headers["X-API-Key"] = key.get();
  const clock = AbortSignal.timeout(PATIENCE);
  const request = { headers, signal: signal ? AbortSignal.any([signal, clock]) : clock };
  if (body) Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  try {
    return await fetch(path, request);
  } catch (error) {
    if (signal?.aborted) throw error;
    if (error.name === "TimeoutError") throw new Trouble("The server does not answer.", { status: 504 });
    if (!navigator.onLine) {
      throw new Trouble("You are offline. The search goes on when the connection is back.", { offline: true });
    }
    throw new Trouble("The server cannot be reached.", { offline: true });
  }
}

const WORDS = {
  400: (message) => `The server cannot make sense of this: ${message}.`,
  401: () => "This server wants a key.",
  403: (message) => `The server may not do this: ${message}.`,
  404: () => "This is not in the index (any more).",
  413: (message) => `This is too large: ${message}.`,
  415: (message) => `This is of a kind that the server does not know: ${message}.`,
  429: () => "The server has much to do.",
  500: () => "Something went wrong in the server; its log says what.",
  503: (message) => `There is no answer at the moment: ${message}.`,
  504: () => "The search took longer than the server allows.",
};

async function reason(answer) {
  const told = await answer.json().then((json) => json?.error, () => null);
  const message = String(told?.message ?? answer.statusText ?? "").replace(/\.$/, "");
  const words = WORDS[answer.status] ?? ((text) => `The server answers with status ${answer.status}: ${text}.`);
  return new Trouble(words(message), { status: answer.status, kind: told?.type ?? "" });
}

async function pause(seconds, signal, waiting) {
  const end = performance.now() + seconds * 1000;
  for (let left = seconds; left > 0; left = (end - performance.now()) / 1000) {
    waiting(Math.ceil(left));
    await new Promise((resolve) => setTimeout(resolve, Math.min(1000, left * 1000)));
    signal?.throwIfAborted();
  }
}
