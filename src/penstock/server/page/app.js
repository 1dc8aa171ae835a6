// The page: what is searched for is in the address; all that is shown follows from it.

import { Trouble, ask } from "./api.js";
import { chips, met } from "./chips.js";
import { $, clean, count, el } from "./dom.js";
import { save, toCsv, toJson } from "./export.js";
import { Filters } from "./filters.js";
import { Hits, detail, title } from "./hits.js";
import { taken, watch } from "./picture.js";
import { NOTHING, body, fromHash, lacking, terms, toHash, wordsOf } from "./query.js";
import { render } from "./status.js";
import { busy, failed, note, say, trouble, unlock, unlocking, wait } from "./telling.js";

const LOOK = 3000; // milliseconds between two looks at the status
const SLOW = 700; // ... that a search takes before the page says that it is at work
const CALM = 300; // ... that a slider rests before it is followed

let state = NOTHING;
let picture = null; // the user's own
let about = null; // what the server says of itself
let cursor = null;
let running = null; // what can be stopped
let shown = -1; // which hit is open

const pictures = new Map(); // the user's own, by number: history keeps the number
const hits = new Hits($("results"), act);
const filters = new Filters($("filters"), (where) => soon({ where }));

// ---------------------------------------------------------------- searching

/** Change what is searched for. A change that is one of a series leaves no trace of its own in the history. */
function change(changes, { replace = false } = {}) {
  state = { ...state, ...changes };
  const place = `${location.pathname}${location.search}${toHash(state)}`;
  history[replace ? "replaceState" : "pushState"]({ picture: picture?.number ?? null }, "", place);
  show();
  search();
}

let resting = 0;

function soon(changes) {
  clearTimeout(resting);
  resting = setTimeout(() => change(changes, { replace: true }), CALM);
}

async function search() {
  running?.abort();
  cursor = null;
  trouble(null);
  say("");
  const why = picture || !state.uploaded ? lacking(state) : "This link was made with a picture that stayed on its maker’s computer. Drop the picture here to search by it.";
  if (why !== null && !(state.uploaded && !picture && terms(state.box).text)) {
    hits.clear();
    ended();
    $("search").classList.toggle("blank", !why && !state.uploaded);
    say(why);
    return;
  }
  if (state.uploaded && !picture) note("This link was made with a picture that stayed on its maker’s computer; the words alone are searched for.");
  $("search").classList.remove("blank");
  await page(true);
}

async function page(first) {
  const mine = (running = new AbortController());
  busy(true);
  $("more").hidden = true;
  const slow = setTimeout(() => first && late(true), SLOW);
  try {
    const asked = body(state, picture?.base64, first ? null : cursor);
    const answer = await ask("v1/search", { body: asked, signal: mine.signal, waiting: wait });
    if (mine.signal.aborted) return;
    trouble(null);
    if (first) hits.clear(wordsOf(terms(state.box).text));
    met(answer.hits);
    hits.add(answer.hits, state);
    cursor = answer.cursor;
    const took = answer.took.embed + answer.took.search + answer.took.queue;
    found(took);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (first) {
      hits.clear();
      say("");
    }
    failed(error, () => page(first));
  } finally {
    clearTimeout(slow);
    if (mine === running) {
      late(false);
      busy(false);
      ended();
    }
  }
}

/** What is still shown are the answers to another question. */
function late(is) {
  if (is) say("Searching …");
  $("results").classList.toggle("old", is);
}

function found(took) {
  const many = hits.hits.length;
  if (many) say(`${count(many, "result")}${cursor ? " so far" : ""}, ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`);
  else if (state.where || state.threshold !== null) say("Nothing is found. The filters or the lowest score may leave it out.");
  else say("Nothing is found.");
}

function ended() {
  $("more").hidden = cursor === null;
  $("all").hidden = cursor !== null || hits.hits.length < 10;
  $("take").hidden = !hits.hits.length;
  // The end may be in sight still, which an observer that has told so does not tell again.
  sight.unobserve($("more"));
  if (cursor !== null) sight.observe($("more"));
}

const sight = new IntersectionObserver(
  ([entry]) => {
    if (entry.isIntersecting && cursor !== null && !$("more").hidden) page(false);
  },
  { rootMargin: "1200px" },
);

// ---------------------------------------------------------------- the question as it is shown

function show() {
  if (document.activeElement !== $("q") || terms($("q").value).text !== terms(state.box).text) $("q").value = state.box;
  $("share").value = Math.round(state.share * 100);
  $("weigh").hidden = !(terms(state.box).text && (state.url || picture));
  $("threshold").value = state.threshold ?? "";
  $("distinct").checked = state.distinct;
  const asked = state.where ? Object.keys(state.where.$and ?? state.where).length : 0;
  $("filters-name").textContent = asked ? `Filters (${asked})` : "Filters";
  if (!$("filters").contains(document.activeElement)) filters.show(state.where);
  document.title = state.box.trim() ? `${clean(state.box.trim(), 60)} · Penstock` : "Penstock";
  chips(state, picture, change, () => depict(null));
}

// ---------------------------------------------------------------- pictures to search by

function depict(made) {
  picture = made;
  if (made) {
    made.number = pictures.size;
    pictures.set(made.number, made);
  }
  panel("picture", false);
  change({ uploaded: Boolean(made), url: "" });
}

async function got({ file, url }) {
  if (about && !about.model.images) return note("This index is searched by words: its model takes no pictures.");
  visit("search");
  if (!file) return byAddress(url);
  try {
    depict(await taken(file));
  } catch (error) {
    note(error.message);
  }
  return undefined;
}

function byAddress(url) {
  if (about && !about.limits.fetch_urls) return note($("url-why").textContent);
  if (!/^https?:\/\/\S+$/i.test(url)) return note("This is no address of a picture; one begins with https://");
  picture = null;
  panel("picture", false);
  return change({ url, uploaded: false });
}

// ---------------------------------------------------------------- what people do with a hit

function act(name, n) {
  const hit = hits.hits[n];
  if (!hit) return;
  if (name === "open") return open(n);
  if (name === "more") {
    const within = $("detail").open || $("results").contains(document.activeElement);
    $("detail").close();
    if (within) refocus(0);
    picture = null;
    change({ ...NOTHING, like: [hit.id], where: state.where, distinct: state.distinct, threshold: state.threshold });
    scrollTo({ top: 0 });
    return note(`More like ${title(hit)}`);
  }
  vote(name, hit);
}

/** Once more takes a vote back. */
function vote(name, hit) {
  const other = name === "like" ? "unlike" : "like";
  const had = state[name].includes(hit.id);
  const next = {
    [name]: had ? state[name].filter((id) => id !== hit.id) : [...state[name], hit.id],
    [other]: state[other].filter((id) => id !== hit.id),
  };
  hits.vote({ ...state, ...next });
  note(had ? "The vote is taken back." : name === "like" ? "More of this kind." : "Less of this kind.");
  const at = $("results").contains(document.activeElement) ? hits.active : null;
  change(next);
  // Who votes from the keyboard goes on from there.
  if (at !== null) refocus(at);
}

function refocus(at) {
  const seen = new MutationObserver(() => {
    if (!$("results").children.length) return;
    seen.disconnect();
    hits.focus(Math.min(at, hits.hits.length - 1));
  });
  seen.observe($("results"), { childList: true });
  setTimeout(() => seen.disconnect(), 5000);
}

function open(n) {
  shown = n;
  $("before").disabled = n === 0;
  $("after").disabled = n === hits.hits.length - 1;
  const made = detail(hits.hits[n], hits.words, state, (name) => {
    if (name !== "more") $("detail").close();
    act(name, n);
  });
  $("detail-body").replaceChildren(made);
  if (!$("detail").open) $("detail").showModal();
}

function step(by) {
  if (hits.hits[shown + by]) open(shown + by);
}

// ---------------------------------------------------------------- status

let looking = 0;

function visit(name) {
  const status = name === "status";
  $("search").hidden = status;
  $("status").hidden = !status;
  $("skip").hidden = status;
  for (const one of ["search", "status"]) $(`tab-${one}`).toggleAttribute("aria-current", one === name);
  $(`tab-${name}`).setAttribute("aria-current", "page");
  clearTimeout(looking);
  if (status) look();
}

async function look() {
  clearTimeout(looking);
  if (document.hidden) return; // it goes on when somebody looks
  try {
    learned(await ask("v1/status"));
    $("status-body").replaceChildren(render(about));
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    if (error.status === 401) {
      const from = $("status").hidden ? "search" : "status";
      visit("search");
      return unlock(() => (from === "status" ? visit(from) : look()));
    }
    $("status-body").replaceChildren(el("p", { class: "wrong", role: "alert" }, error.message));
  }
  if (!$("status").hidden) looking = setTimeout(look, LOOK);
  return undefined;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !$("status").hidden) look();
});

function learned(told) {
  about = told;
  const images = told.model.images;
  document.body.classList.toggle("text-alone", told.model.kind !== "Dense");
  $("picture-open").hidden = !images;
  $("url-row").hidden = !told.limits.fetch_urls;
  $("url-why").hidden = told.limits.fetch_urls;
  $("q").placeholder = images ? "Words, or a picture" : "Search by words";
  if (told.points !== null) $("greeting").textContent = `Search ${count(told.points, images ? "picture or passage" : "passage", images ? "pictures and passages" : "passages")}`;
}

// ---------------------------------------------------------------- the page around it

function panel(name, is) {
  const place = { picture: "picture-panel", filters: "filters" }[name];
  $(place).hidden = !is;
  $(`${name}-open`).setAttribute("aria-expanded", is);
}

function go() {
  if (new URLSearchParams(location.hash.slice(1)).get("tab") === "status") return visit("status");
  visit("search");
  picture = pictures.get(history.state?.picture) ?? null;
  state = fromHash(location.hash);
  if (picture) state.uploaded = true;
  show();
  return search();
}

function theme() {
  const order = { light: "dark", dark: "", "": "light" };
  const next = order[document.documentElement.dataset.theme ?? ""];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // It is forgotten when the page is left, then.
  }
  themed();
}

function themed() {
  const now = document.documentElement.dataset.theme ?? "";
  const label = `Colours: ${{ light: "light", dark: "dark", "": "as the system has them" }[now]}`;
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}

async function copyLink() {
  const left = picture ? " The picture you gave is not in it: it stays on this computer." : "";
  try {
    await navigator.clipboard.writeText(location.href);
    note(`The link is copied.${left}`);
  } catch {
    note(`The link is in the address bar.${left}`);
  }
}

const on = (id, kind, task) => $(id).addEventListener(kind, task);

on("form", "submit", (event) => {
  event.preventDefault();
  const [before, now] = [terms(state.box).text, terms($("q").value).text];
  const voted = before && now !== before && (state.like.length || state.unlike.length);
  if (voted) note("The votes were about other words; they are taken back.");
  if (matchMedia("(pointer: coarse)").matches) $("q").blur(); // a keyboard on the screen would hide what is found
  change({ box: $("q").value, ...(voted ? { like: [], unlike: [] } : {}) });
});
on("picture-open", "click", () => panel("picture", $("picture-panel").hidden));
on("filters-open", "click", () => panel("filters", $("filters").hidden));
on("file", "change", () => {
  if ($("file").files[0]) got({ file: $("file").files[0] });
  $("file").value = "";
});
on("url-use", "click", () => byAddress($("url").value.trim()));
on("url", "keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  byAddress($("url").value.trim());
});
on("share", "input", () => soon({ share: Number($("share").value) / 100 }));
on("threshold", "input", () => {
  const value = $("threshold").valueAsNumber;
  soon({ threshold: Number.isFinite(value) ? value : null });
});
on("distinct", "change", () => change({ distinct: $("distinct").checked }));
on("more", "click", () => page(false));
on("share-link", "click", copyLink);
on("save-json", "click", () => save("results.json", toJson(hits.hits), "application/json"));
on("save-csv", "click", () => save("results.csv", toCsv(hits.hits), "text/csv"));
on("theme", "click", theme);
on("help-open", "click", () => $("help").showModal());
on("help-close", "click", () => $("help").close());
on("before", "click", () => step(-1));
on("after", "click", () => step(1));
on("detail-close", "click", () => $("detail").close());
on("detail", "close", () => {
  $("detail-body").replaceChildren();
  hits.focus(shown);
});
on("detail", "keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
for (const id of ["detail", "help"]) on(id, "click", (event) => event.target === $(id) && $(id).close());
on("skip", "click", (event) => {
  event.preventDefault();
  if (hits.hits.length) hits.focus();
  else $("q").focus();
});
on("home", "click", (event) => {
  event.preventDefault();
  picture = null;
  visit("search");
  change({ ...NOTHING });
  $("q").focus();
});
// Leaving the search for the status and coming back finds it as it was.
on("tab-status", "click", (event) => {
  event.preventDefault();
  if (!$("status").hidden) return;
  history.pushState(null, "", "#tab=status");
  visit("status");
});
on("tab-search", "click", (event) => {
  event.preventDefault();
  if (!$("search").hidden) return;
  history.pushState({ picture: picture?.number ?? null }, "", `${location.pathname}${location.search}${toHash(state)}`);
  visit("search");
});
on("q", "keydown", (event) => {
  if (event.key !== "ArrowDown" || !hits.hits.length) return;
  event.preventDefault();
  hits.focus();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, textarea, select, dialog")) return;
  event.preventDefault();
  visit("search");
  $("q").focus();
  $("q").select();
});
addEventListener("popstate", go);

watch($("drop"), got);
unlocking();
themed();
look();
go();
