// Actions on a result: open it in full, search for more like it, vote for or against it.

import { $ } from "./dom.js";
import { renderDetail, title } from "./hits.js";
import { remark } from "./messages.js";
import { EMPTY } from "./query.js";
import { change, hits } from "./search.js";
import { session } from "./session.js";

const FOCUS_MS = 5000; // that results are waited for, to give one of them the focus

let shown = -1; // which hit is open

hits.act = act;

function act(name, n) {
  const hit = hits.hits[n];
  if (!hit) return;
  if (name === "open") open(n);
  else if (name === "more") searchLike(hit);
  else vote(name, hit);
}

function searchLike(hit) {
  const focused = $("detail").open || $("results").contains(document.activeElement);
  $("detail").close();
  if (focused) focusResult(0);
  session.picture = null;
  const { using, words, rerank, where, distinct, threshold } = session.query;
  change({ ...EMPTY, like: [hit.id], using, words, rerank, where, distinct, threshold });
  scrollTo({ top: 0 });
  remark(`More like ${title(hit)}`);
}

/** Vote for or against a hit; the same vote again takes it back. */
function vote(name, hit) {
  const { query } = session;
  const other = name === "like" ? "unlike" : "like";
  const voted = query[name].includes(hit.id);
  const changes = {
    [name]: voted ? query[name].filter((id) => id !== hit.id) : [...query[name], hit.id],
    [other]: query[other].filter((id) => id !== hit.id),
  };
  hits.showVotes({ ...query, ...changes });
  remark(voted ? "The vote is taken back." : name === "like" ? "More of this kind." : "Less of this kind.");
  const at = $("results").contains(document.activeElement) ? hits.active : null;
  change(changes);
  // A vote by keyboard leaves the focus where it was.
  if (at !== null) focusResult(at);
}

/** Focus a result once the next ones are shown. */
function focusResult(at) {
  const observer = new MutationObserver(() => {
    if (!$("results").children.length) return;
    observer.disconnect();
    hits.focus(Math.min(at, hits.hits.length - 1));
  });
  observer.observe($("results"), { childList: true });
  setTimeout(() => observer.disconnect(), FOCUS_MS);
}

function open(n) {
  shown = n;
  $("before").disabled = n === 0;
  $("after").disabled = n === hits.hits.length - 1;
  const content = renderDetail(hits.hits[n], hits.words, session.query, (name) => {
    if (name !== "more") $("detail").close();
    act(name, n);
  });
  $("detail-body").replaceChildren(content);
  if (!$("detail").open) $("detail").showModal();
}

function step(by) {
  if (hits.hits[shown + by]) open(shown + by);
}

$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("detail-close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("close", () => {
  $("detail-body").replaceChildren();
  hits.focus(shown);
});
$("detail").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
