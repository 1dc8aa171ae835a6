// What the page says: how much is found, what has just happened, what goes wrong, and that a key is wanted.

import { Trouble, key } from "./api.js";
import { $, clean, el } from "./dom.js";

const READ = 12_000; // milliseconds that a remark stays

let again = null; // what the button beside a trouble does
let fading = 0;
const locked = new Set(); // what waits for a key

export function say(words) {
  $("said").textContent = words;
}

export function note(words) {
  clearTimeout(fading);
  $("note").textContent = words;
  fading = setTimeout(() => ($("note").textContent = ""), READ);
}

export function trouble(words, retry = null) {
  again = retry;
  const button = retry ? el("button", { type: "button", onclick: () => again?.() }, "Try again") : null;
  $("trouble").replaceChildren(...(words ? [el("p", {}, clean(words, 1000)), button].filter(Boolean) : []));
}

/** A trouble that passes by itself. The seconds are for the eye: nobody wants to hear them counted. */
export function wait(words, left) {
  if ($("trouble").firstChild?.textContent !== words) trouble(words);
  const clock = $("trouble").querySelector("[aria-hidden]") ?? el("p", { "aria-hidden": "true" });
  clock.textContent = `Trying again in ${left} s.`;
  $("trouble").append(clock);
}

addEventListener("online", () => again?.());

export function failed(error, retry) {
  if (!(error instanceof Trouble)) {
    trouble("Something went wrong in this page.", retry);
    throw error;
  }
  if (error.status === 401) unlock(retry);
  else trouble(error.message, error.status === 400 ? null : retry);
}

/** Asks for a key; `retry` is done with it. */
export function unlock(retry) {
  locked.add(retry);
  trouble(key.get() ? "The server does not take this key." : "This server wants a key.");
  $("key-form").hidden = false;
  $("key").focus();
}

export function unlocking() {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("key").value.trim();
    if (!given || /[^\x21-\x7e]/.test(given)) return trouble("A key has letters, digits and plain signs only.");
    key.set(given);
    $("key").value = "";
    $("key-form").hidden = true;
    trouble(null);
    const waited = [...locked];
    locked.clear();
    for (const task of waited) task();
    return undefined;
  });
}

export function busy(is) {
  $("busy").hidden = !is;
  $("results").setAttribute("aria-busy", is);
}
