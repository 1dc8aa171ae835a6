// Hits on the page: a grid of pictures or a list of passages, and one of them in full.

import { $, address, clean, count, el, icon } from "./dom.js";
import { key, requestBlob } from "./api.js";

const PICTURE_ENDING = /\.(jpe?g?|png|webp|gif|bmp|tiff?|avif|hei[cf])$/i;
const MAX_FETCHES = 6; // pictures that are fetched by script at once

const isPicture = (hit) => Boolean(hit.thumb) || (!hit.text && PICTURE_ENDING.test(hit.uri));

/** Whether most hits are pictures with little text. */
const mostlyPictures = (hits) =>
  hits.filter((hit) => isPicture(hit) && hit.text.length < 200).length * 2 > hits.length;

/** A title for people: the metadata's, a picture's text, or the file's name. */
export function title(hit) {
  for (const name of ["title", "caption"]) {
    if (typeof hit.metadata[name] === "string" && hit.metadata[name].trim()) return clean(hit.metadata[name], 200);
  }
  if (isPicture(hit) && hit.text.trim()) return clean(hit.text.trim(), 200);
  const last = hit.uri.replace(/[?#].*$/, "").split(/[/\\]/).filter(Boolean).pop() ?? hit.uri;
  try {
    return clean(decodeURIComponent(last), 200);
  } catch {
    return clean(last, 200);
  }
}

/** Text with the query's words marked. */
function highlight(text, words) {
  if (!words) return [text];
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(words)) {
    parts.push(text.slice(at, match.index), el("mark", {}, match[0]));
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)];
}

const score = (hit) => hit.score?.toFixed(3) ?? "";

/** The legs of a hybrid search that found the hit, and its rank in each. */
const legs = (hit) =>
  Object.entries(hit.legs ?? {})
    .sort(([, one], [, other]) => one - other)
    .map(([name, rank]) => `${name} ${rank}`)
    .join(" · ");

/** The rank of a reranked hit before that. */
const before = (hit) => (hit.rank_before ? `before reranking: ${hit.rank_before}` : "");

function addressOf(hit) {
  const link = address(hit.uri);
  const paged = link && hit.page !== null && /\.pdf$/i.test(hit.uri) ? `${link}#page=${Number(hit.page)}` : link;
  const shown = clean(hit.uri, 2000);
  return paged ? el("a", { href: paged, target: "_blank", rel: "noopener noreferrer" }, shown) : el("span", {}, shown);
}

function positionIn(hit) {
  const parts = [];
  if (hit.page !== null) parts.push(`page ${hit.page}`);
  if (hit.headings.length) parts.push(clean(hit.headings.join(" › "), 300));
  return parts;
}

// ---------------------------------------------------------------- pictures

let fetching = 0;
const waiting = [];

/** A thumbnail. Where an <img> cannot load it (a key is required, or the server is busy), a script fetches it. */
function thumbnail(hit, size, alt) {
  const frame = el("span", { class: "frame" });
  const path = `v1/thumbs/${encodeURIComponent(hit.id)}?size=${size}`;
  if (!hit.thumb) {
    frame.append(el("span", { class: "none" }, "No picture to show"));
    return frame;
  }
  const image = el("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("load", () => frame.classList.add("loaded"));
  image.addEventListener("error", () => {
    if (image.src.startsWith("blob:")) frame.replaceChildren(el("span", { class: "none" }, "No picture to show"));
    else fetchThumbnail(image, path, frame);
  });
  if (key.get()) whenNear(image, () => fetchThumbnail(image, path, frame));
  else image.src = path;
  frame.append(image);
  return frame;
}

const near = new IntersectionObserver(
  (entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(target);
      target.dispatchEvent(new Event("near"));
    }
  },
  { rootMargin: "600px" },
);

function whenNear(image, task) {
  image.addEventListener("near", task, { once: true });
  near.observe(image);
}

async function fetchThumbnail(image, path, frame) {
  if (fetching >= MAX_FETCHES) await new Promise((resolve) => waiting.push(resolve));
  fetching++;
  try {
    const url = URL.createObjectURL(await requestBlob(path));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    // A missing picture is no error of the search: its frame says so.
    frame.replaceChildren(el("span", { class: "none" }, "No picture to show"));
  } finally {
    fetching--;
    waiting.shift()?.();
  }
}

// ---------------------------------------------------------------- many

export class Hits {
  /** `act(name, number)` is to be set: it opens a hit, searches for more like it, votes (open, more, like, unlike). */
  constructor(feed) {
    Object.assign(this, { feed, act: () => {}, hits: [], active: 0, words: null });
    feed.addEventListener("keydown", (event) => this.#keyPressed(event));
    feed.addEventListener("focusin", (event) => {
      const at = [...feed.children].indexOf(event.target.closest("article"));
      if (at >= 0) this.#activate(at);
    });
  }

  clear(words = null) {
    this.feed.replaceChildren();
    Object.assign(this, { hits: [], active: 0, words });
  }

  add(hits, votes) {
    if (!this.hits.length) this.feed.className = mostlyPictures(hits) ? "grid" : "list";
    const grid = this.feed.className === "grid";
    const from = this.hits.length;
    this.hits.push(...hits);
    this.feed.append(...hits.map((hit, n) => (grid ? this.#tile(hit, from + n) : this.#entry(hit, from + n))));
    this.showVotes(votes);
    if (from === 0 && hits.length) this.#activate(0);
  }

  /** Mark the hits that are voted for and against. */
  showVotes({ like, unlike }) {
    const sets = { like: new Set(like), unlike: new Set(unlike) };
    for (const [n, article] of [...this.feed.children].entries()) {
      for (const name of ["like", "unlike"]) {
        article.querySelector(`button.${name}`).setAttribute("aria-pressed", sets[name].has(this.hits[n].id));
      }
    }
  }

  focus(at = this.active) {
    this.feed.children[at]?.focus();
  }

  #article(hit, n, ...inside) {
    const attributes = { tabindex: -1, "aria-posinset": n + 1, "aria-setsize": -1, "aria-labelledby": `hit-${n}` };
    return el("article", attributes, ...inside, this.#actions(hit, n));
  }

  #tile(hit, n) {
    const open = el("button", { type: "button", class: "open", tabindex: -1, "aria-label": "Open", onclick: () => this.act("open", n) });
    open.append(isPicture(hit) ? thumbnail(hit, 256, "") : el("span", { class: "frame words", dir: "auto" }, ...highlight(clean(hit.snippet), this.words)));
    return this.#article(
      hit,
      n,
      open,
      el("div", { class: "caption" }, el("h3", { id: `hit-${n}`, title: title(hit), dir: "auto" }, title(hit)), this.#numbers(hit)),
    );
  }

  #entry(hit, n) {
    const open = el("button", { type: "button", class: "title", tabindex: -1, onclick: () => this.act("open", n) }, title(hit));
    return this.#article(
      hit,
      n,
      hit.thumb ? el("div", { class: "aside" }, thumbnail(hit, 256, "")) : null,
      el(
        "div",
        { class: "passage" },
        el("h3", { id: `hit-${n}`, dir: "auto" }, open),
        el("p", { class: "where" }, ...positionIn(hit).map((part) => el("span", {}, part)), addressOf(hit)),
        el("p", { class: "snippet", dir: "auto" }, ...highlight(clean(hit.snippet), this.words)),
        this.#numbers(hit),
      ),
    );
  }

  #numbers(hit) {
    return el(
      "p",
      { class: "numbers" },
      el("span", { class: "score", title: "Score" }, el("span", { class: "unseen" }, "Score "), score(hit)),
      legs(hit) ? el("span", { class: "legs" }, legs(hit)) : null,
      before(hit) ? el("span", { class: "before" }, before(hit)) : null,
      hit.stands_for > 1 ? el("span", { class: "stands" }, `stands for ${count(hit.stands_for, "hit")}`) : null,
    );
  }

  #actions(hit, n) {
    const button = (name, label, pressed) =>
      el(
        "button",
        { type: "button", class: `quiet icon ${name}`, tabindex: -1, title: label, "aria-label": label, "aria-pressed": pressed, onclick: () => this.act(name, n) },
        icon(name),
      );
    return el(
      "div",
      { class: "actions" },
      button("more", "More like this", null),
      button("like", "This is what I mean", "false"),
      button("unlike", "This is not what I mean", "false"),
    );
  }

  /** Make one article the only stop of the Tab key, with its buttons. */
  #activate(at) {
    const stops = (n, index) => {
      const article = this.feed.children[n];
      for (const one of article ? [article, ...article.querySelectorAll("button, a")] : []) one.tabIndex = index;
    };
    stops(this.active, -1);
    this.active = at;
    stops(at, 0);
  }

  #keyPressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = { m: "more", "+": "like", "=": "like", "-": "unlike", "−": "unlike" };
    const articles = this.feed.children;
    const at = this.active;
    let to = null;
    if (event.key === "Enter" && event.target === articles[at]) this.act("open", at);
    else if (acts[event.key]) this.act(acts[event.key], at);
    else if (event.key === "ArrowRight") to = at + 1;
    else if (event.key === "ArrowLeft") to = at - 1;
    else if (event.key === "ArrowDown") to = at + this.#columns();
    else if (event.key === "ArrowUp") to = at - this.#columns();
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = articles.length - 1;
    else return;
    event.preventDefault();
    if (to === null) return;
    if (to < 0 && event.key === "ArrowUp") $("q").focus();
    else this.focus(Math.min(articles.length - 1, Math.max(0, to)));
  }

  /** The number of articles in a row. */
  #columns() {
    const tops = [...this.feed.children].slice(0, 50).map((article) => article.offsetTop);
    const next = tops.findIndex((top) => top > tops[0]);
    return next > 0 ? next : this.feed.className === "grid" ? tops.length : 1;
  }
}

// ---------------------------------------------------------------- one

/** The hit in full. `act` as above, without the number. */
export function renderDetail(hit, words, votes, act) {
  const facts = [
    ["Score", score(hit)],
    ["Address", addressOf(hit)],
    ["Page", hit.page === null ? null : String(hit.page)],
    ["Headings", hit.headings.length ? clean(hit.headings.join(" › "), 2000) : null],
    ["Found by", legs(hit)],
    ["Rank before reranking", hit.rank_before ? String(hit.rank_before) : ""],
    ["Stands for", hit.stands_for > 1 ? count(hit.stands_for, "hit") : null],
    ...Object.entries(hit.metadata).map(([name, value]) => [clean(name, 100), clean(plain(value), 4000)]),
    ["Id", clean(hit.id, 200)],
  ].filter(([, value]) => value !== null && value !== "");
  const button = (name, label) => {
    const pressed = name === "more" ? null : String(votes[name].includes(hit.id));
    return el("button", { type: "button", class: name, "aria-pressed": pressed, onclick: () => act(name) }, icon(name), label);
  };
  return el(
    "div",
    { class: hit.thumb ? "one seen" : "one" },
    hit.thumb ? thumbnail(hit, 512, title(hit)) : null,
    el(
      "div",
      { class: "about" },
      el("h2", { id: "detail-name", dir: "auto" }, title(hit)),
      hit.text && clean(hit.text.trim()) !== title(hit) ? el("p", { class: "whole", dir: "auto" }, ...highlight(clean(hit.text, 100_000), words)) : null,
      el("div", { class: "row" }, button("more", "More like this"), button("like", "This is it"), button("unlike", "Not this")),
      el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    ),
  );
}

const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
