// The page: connects what users do to the query, the results and the tabs.

import "./details.js";
import { $ } from "./dom.js";
import { save, toCsv, toJson } from "./export.js";
import { watchLive } from "./live.js";
import { listenForKey, remark } from "./messages.js";
import { readPicture, watchForPictures } from "./picture.js";
import { EMPTY, fromHash, parseBox, toHash } from "./query.js";
import { change, changeSoon, fetchMore, hits, pictureOf, search, setPicture, showQuery } from "./search.js";
import { session, vector, withVector } from "./session.js";
import { fetchStatus, showTab } from "./tabs.js";

const on = (id, kind, listener) => $(id).addEventListener(kind, listener);

/** Show what the address says. */
function restore() {
  if (new URLSearchParams(location.hash.slice(1)).get("tab") === "status") return showTab("status");
  showTab("search");
  session.picture = pictureOf(history.state?.picture);
  session.query = withVector(fromHash(location.hash));
  if (session.picture) session.query.uploaded = true;
  showQuery();
  return search();
}

function showPanel(name, open) {
  $({ picture: "picture-panel", filters: "filters" }[name]).hidden = !open;
  $(`${name}-open`).setAttribute("aria-expanded", open);
}

// ---------------------------------------------------------------- the query

on("form", "submit", (event) => {
  event.preventDefault();
  const { query } = session;
  const [before, now] = [parseBox(query.box).text, parseBox($("q").value).text];
  const outdated = before && now !== before && (query.like.length || query.unlike.length);
  if (outdated) remark("The votes were about other words; they are taken back.");
  if (matchMedia("(pointer: coarse)").matches) $("q").blur(); // a keyboard on the screen would hide the results
  change({ box: $("q").value, ...(outdated ? { like: [], unlike: [] } : {}) });
});
on("filters-open", "click", () => showPanel("filters", $("filters").hidden));
on("share", "input", () => changeSoon({ share: Number($("share").value) / 100 }));
on("threshold", "input", () => {
  const value = $("threshold").valueAsNumber;
  changeSoon({ threshold: Number.isFinite(value) ? value : null });
});
on("words", "change", () => change({ words: $("words").checked }));
on("rerank", "change", () => change({ rerank: $("rerank").checked }));
on("distinct", "change", () => change({ distinct: $("distinct").checked }));
on("using", "change", () => change({ using: $("using").value }));
on("more", "click", fetchMore);

// ---------------------------------------------------------------- pictures to search by

async function searchByPicture({ file, url }) {
  if (vector() && !vector().images) return remark("This index can be searched by words only: its model embeds no pictures.");
  showTab("search");
  if (!file) return searchByUrl(url);
  try {
    const picture = await readPicture(file);
    showPanel("picture", false);
    setPicture(picture);
  } catch (error) {
    remark(error.message);
  }
  return undefined;
}

function searchByUrl(url) {
  if (session.status && !session.status.limits.fetch_urls) return remark($("url-why").textContent);
  if (!/^https?:\/\/\S+$/i.test(url)) return remark("Invalid address: expected one that begins with https://");
  session.picture = null;
  showPanel("picture", false);
  return change({ url, uploaded: false });
}

on("picture-open", "click", () => showPanel("picture", $("picture-panel").hidden));
on("file", "change", () => {
  if ($("file").files[0]) searchByPicture({ file: $("file").files[0] });
  $("file").value = "";
});
on("url-use", "click", () => searchByUrl($("url").value.trim()));
on("url", "keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  searchByUrl($("url").value.trim());
});

// ---------------------------------------------------------------- links and files of what is shown

async function copyLink() {
  const missing = session.picture ? " Your picture is not part of it: it stays on this computer." : "";
  try {
    await navigator.clipboard.writeText(location.href);
    remark(`The link is copied.${missing}`);
  } catch {
    remark(`The link is in the address bar.${missing}`);
  }
}

on("share-link", "click", copyLink);
on("save-json", "click", () => save("results.json", toJson(hits.hits), "application/json"));
on("save-csv", "click", () => save("results.csv", toCsv(hits.hits), "text/csv"));

// ---------------------------------------------------------------- tabs, dialogs, colours and keys

// Leaving the search for the status and coming back finds it as it was.
on("tab-status", "click", (event) => {
  event.preventDefault();
  if (!$("status").hidden) return;
  history.pushState(null, "", "#tab=status");
  showTab("status");
});
on("tab-search", "click", (event) => {
  event.preventDefault();
  if (!$("search").hidden) return;
  const address = `${location.pathname}${location.search}${toHash(session.query)}`;
  history.pushState({ picture: session.picture?.number ?? null }, "", address);
  showTab("search");
});
on("home", "click", (event) => {
  event.preventDefault();
  session.picture = null;
  showTab("search");
  change({ ...EMPTY, using: session.query.using });
  $("q").focus();
});
on("skip", "click", (event) => {
  event.preventDefault();
  if (hits.hits.length) hits.focus();
  else $("q").focus();
});
on("help-open", "click", () => $("help").showModal());
on("help-close", "click", () => $("help").close());
for (const id of ["detail", "help"]) on(id, "click", (event) => event.target === $(id) && $(id).close());

function switchTheme() {
  const order = { light: "dark", dark: "", "": "light" };
  const next = order[document.documentElement.dataset.theme ?? ""];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Where storage is forbidden, the choice lasts as long as the page.
  }
  labelTheme();
}

function labelTheme() {
  const theme = document.documentElement.dataset.theme ?? "";
  const label = `Colours: ${{ light: "light", dark: "dark", "": "as in the system" }[theme]}`;
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}

on("theme", "click", switchTheme);
on("q", "keydown", (event) => {
  if (event.key !== "ArrowDown" || !hits.hits.length) return;
  event.preventDefault();
  hits.focus();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, textarea, select, dialog")) return;
  event.preventDefault();
  showTab("search");
  $("q").focus();
  $("q").select();
});
addEventListener("popstate", restore);

watchForPictures($("drop"), searchByPicture);
watchLive();
listenForKey();
labelTheme();
fetchStatus();
restore();
