// Searching: the query is kept in the address, and what the page shows follows from it.

import { requestJson } from "./api.js";
import { rememberTitles, showChips } from "./chips.js";
import { fieldsOf, parts } from "./conditions.js";
import { $, clean, count } from "./dom.js";
import { Facets } from "./facets.js";
import { Filters } from "./filters.js";
import { Hits } from "./hits.js";
import { remark, reportError, setBusy, showCountdown, showError, summarize } from "./messages.js";
import { hasScores, missing, parseBox, toBody, toHash, wordsOf } from "./query.js";
import { session, showCapabilities } from "./session.js";

const SLOW_MS = 700; // after which the page says that it is searching
const DEBOUNCE_MS = 300; // that a slider or a field rests before it is followed
const OWN_PICTURE = "This link was made with a picture that is not part of it";

export const hits = new Hits($("results"));
const filters = new Filters($("filters"), (where) => changeSoon({ where }));
const facets = new Facets($("facets"), (where) => change({ where }));

let cursor = null;
let running = null; // AbortController of the request in progress
let debounce = 0;

const pictures = new Map(); // the user's own, by number: history keeps the number

export const pictureOf = (number) => pictures.get(number) ?? null;

/** Change the query. A change that is one of a series replaces the entry in the history. */
export function change(changes, { replace = false } = {}) {
  session.query = { ...session.query, ...changes };
  const address = `${location.pathname}${location.search}${toHash(session.query)}`;
  history[replace ? "replaceState" : "pushState"]({ picture: session.picture?.number ?? null }, "", address);
  showQuery();
  search();
}

export function changeSoon(changes) {
  clearTimeout(debounce);
  debounce = setTimeout(() => change(changes, { replace: true }), DEBOUNCE_MS);
}

/** Search by a picture of the user's; by none where it is null. */
export function setPicture(picture) {
  session.picture = picture;
  if (picture) {
    picture.number = pictures.size;
    pictures.set(picture.number, picture);
  }
  change({ uploaded: Boolean(picture), url: "" });
}

export async function search() {
  const { query, picture } = session;
  running?.abort();
  cursor = null;
  showError(null);
  summarize("");
  $("fresh").hidden = true;
  const lacksPicture = query.uploaded && !picture;
  const reason = lacksPicture ? `${OWN_PICTURE}. Drop the picture here to search by it.` : missing(query);
  if (reason !== null && !(lacksPicture && parseBox(query.box).text)) {
    hits.clear();
    facets.clear();
    showEnd();
    $("search").classList.toggle("blank", !reason && !query.uploaded);
    summarize(reason);
    return;
  }
  if (lacksPicture) remark(`${OWN_PICTURE}; only the words are searched for.`);
  $("search").classList.remove("blank");
  await fetchPage(true);
}

export const fetchMore = () => fetchPage(false);

async function fetchPage(first) {
  const { query, picture } = session;
  const controller = (running = new AbortController());
  setBusy(true);
  $("more").hidden = true;
  const slow = setTimeout(() => first && setSlow(true), SLOW_MS);
  try {
    const body = toBody(query, picture?.base64, first ? null : cursor);
    const page = await requestJson("v1/search", { body, signal: controller.signal, onWait: showCountdown });
    if (controller.signal.aborted) return;
    showError(null);
    if (first) hits.clear(wordsOf(parseBox(query.box).text));
    rememberTitles(page.hits);
    hits.add(page.hits, query);
    cursor = page.cursor;
    showSummary(page);
    filters.learn(fieldsOf(page.hits).keys());
    if (first) facets.show(query.where, page.hits, controller.signal);
  } catch (error) {
    if (controller.signal.aborted) return;
    if (first) {
      hits.clear();
      facets.clear();
      summarize("");
    }
    reportError(error, () => fetchPage(first));
  } finally {
    clearTimeout(slow);
    if (controller === running) {
      setSlow(false);
      setBusy(false);
      showEnd();
    }
  }
}

/** Mark the results that are still shown as those of an earlier query. */
function setSlow(slow) {
  if (slow) summarize("Searching …");
  $("results").classList.toggle("old", slow);
}

function showSummary({ took, hint }) {
  const milliseconds = took.embed + took.search + took.rerank + took.queue;
  const number = hits.hits.length;
  const time = milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds);
  if (number) summarize(`${count(number, "result")}${cursor ? " so far" : ""}, ${time} ms`);
  else if (hint) summarize(`No results: ${clean(hint, 500)}`);
  else if (session.query.where || (session.query.threshold !== null && hasScores(session.query))) summarize("No results. The filters or the lowest score may exclude them.");
  else summarize("No results.");
}

function showEnd() {
  $("more").hidden = cursor === null;
  $("all").hidden = cursor !== null || hits.hits.length < 10;
  $("export").hidden = !hits.hits.length;
  // The button may still be in sight, of which the observer does not tell twice.
  nearEnd.unobserve($("more"));
  if (cursor !== null) nearEnd.observe($("more"));
}

// A busy browser tells of several changes at once, the last of which holds.
const nearEnd = new IntersectionObserver(
  (entries) => {
    if (entries.at(-1).isIntersecting && cursor !== null && !$("more").hidden) fetchMore();
  },
  { rootMargin: "1200px" },
);

/** Show the query in the form. */
export function showQuery() {
  const { query, picture } = session;
  if (document.activeElement !== $("q") || parseBox($("q").value).text !== parseBox(query.box).text) $("q").value = query.box;
  $("share").value = Math.round(query.share * 100);
  $("weigh").hidden = !(parseBox(query.box).text && (query.url || picture));
  $("threshold").value = query.threshold ?? "";
  $("threshold").disabled = !hasScores(query);
  $("words").checked = query.words;
  $("rerank").checked = query.rerank;
  $("distinct").checked = query.distinct;
  const conditions = parts(query.where).length;
  $("filters-name").textContent = conditions ? `Filters (${conditions})` : "Filters";
  if (!$("filters").contains(document.activeElement)) filters.show(query.where);
  document.title = query.box.trim() ? `${clean(query.box.trim(), 60)} · Penstock` : "Penstock";
  showCapabilities();
  showChips(query, picture, change, () => setPicture(null));
}
