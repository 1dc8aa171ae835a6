// Messages of the page: the summary of results, remarks, errors, and the form that asks for a key.

import { ApiError, key } from "./api.js";
import { $, clean, el } from "./dom.js";

const REMARK_MS = 12_000; // how long a remark stays

let retryLast = null; // what the button beside an error does
let timer = 0;
const waitingForKey = new Set(); // tasks that are repeated with a key

export function summarize(text) {
  $("summary").textContent = text;
}

export function remark(text) {
  clearTimeout(timer);
  $("remark").textContent = text;
  timer = setTimeout(() => ($("remark").textContent = ""), REMARK_MS);
}

/** Show an error, with a button where it can be retried; nothing where `text` is null. */
export function showError(text, retry = null) {
  retryLast = retry;
  const button = retry ? el("button", { type: "button", onclick: () => retryLast?.() }, "Try again") : null;
  $("error").replaceChildren(...(text ? [el("p", {}, clean(text, 1000)), button].filter(Boolean) : []));
}

/** Show an error that is retried by itself. The countdown is for the eye: a screen reader should not read it out. */
export function showCountdown(text, seconds) {
  if ($("error").firstChild?.textContent !== text) showError(text);
  const clock = $("error").querySelector("[aria-hidden]") ?? el("p", { "aria-hidden": "true" });
  clock.textContent = `Trying again in ${seconds} s.`;
  $("error").append(clock);
}

addEventListener("online", () => retryLast?.());

/** Report what a request raised. An error that is no ApiError is a fault of the page, and raised again. */
export function reportError(error, retry) {
  if (!(error instanceof ApiError)) {
    showError("Something went wrong in this page.", retry);
    throw error;
  }
  if (error.status === 401) askForKey(retry);
  else showError(error.message, error.status === 400 ? null : retry);
}

/** Ask for a key; `retry` is called once there is one. */
export function askForKey(retry) {
  waitingForKey.add(retry);
  showError(key.get() ? "The server does not accept this key." : "This server requires a key.");
  $("key-form").hidden = false;
  $("key").focus();
}

export function listenForKey() {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = $("key").value.trim();
    if (!value || /[^\x21-\x7e]/.test(value)) return showError("Invalid key: expected letters, digits and plain signs.");
    key.set(value);
    $("key").value = "";
    $("key-form").hidden = true;
    showError(null);
    const tasks = [...waitingForKey];
    waitingForKey.clear();
    for (const task of tasks) task();
    return undefined;
  });
}

export function setBusy(busy) {
  $("busy").hidden = !busy;
  $("results").setAttribute("aria-busy", busy);
}
