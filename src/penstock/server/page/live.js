// Live results: the search is repeated while the page is in sight. What is new is shown at once where nobody has begun
// to read, and otherwise offered by a button, so that nothing moves under the reader's eyes.

import { ApiError, requestJson } from "./api.js";
import { $, count } from "./dom.js";
import { missing, toBody } from "./query.js";
import { hits, search } from "./search.js";
import { session } from "./session.js";

const POLL_MS = 4000;

let timer = 0;

const searching = () => missing(session.query) === null && !(session.query.uploaded && !session.picture);
const reading = () => scrollY > 0 || $("detail").open || $("results").contains(document.activeElement);

async function look() {
  clearTimeout(timer);
  if (!$("live").checked) return;
  if (!document.hidden && !$("search").hidden && searching() && $("results").ariaBusy === "false") await ask();
  timer = setTimeout(look, POLL_MS);
}

async function ask() {
  const { query, picture } = session;
  try {
    const page = await requestJson("v1/search", { body: toBody(query, picture?.base64) });
    if (session.query !== query || session.picture !== picture) return;
    const shown = new Set(hits.hits.map((hit) => hit.id));
    offer(page.hits.filter((hit) => !shown.has(hit.id)).length);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // the server is away: the next search tells
  }
}

function offer(number) {
  const show = number > 0 && reading();
  $("fresh").hidden = !show;
  if (show) $("fresh").textContent = `Show ${count(number, "new result")}`;
  else if (number) search();
}

export function watchLive() {
  $("live").addEventListener("change", () => {
    $("fresh").hidden = true;
    look();
  });
  $("fresh").addEventListener("click", () => {
    $("fresh").hidden = true;
    scrollTo(0, 0);
    search();
  });
  document.addEventListener("visibilitychange", () => document.hidden || look());
}
