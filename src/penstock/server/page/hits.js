// Hits as people see them: a grid of pictures or a list of passages, and one of them in full.

import { $, address, clean, count, el, icon } from "./dom.js";
import { key, picture } from "./api.js";

const PICTURE = /\.(jpe?g?|png|webp|gif|bmp|tiff?|avif|hei[cf])$/i;
const AT_ONCE = 6; // pictures that are fetched by hand

const isPicture = (hit) => Boolean(hit.thumb) || (!hit.text && PICTURE.test(hit.uri));

/** Whether most of them are pictures that say little. */
export const pictures = (hits) =>
  hits.filter((hit) => isPicture(hit) && hit.text.length < 200).length * 2 > hits.length;

/** What people would call it. */
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
function marked(text, words) {
  if (!words) return [text];
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(words)) {
    parts.push(text.slice(at, found.index), el("mark", {}, found[0]));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

const score = (hit) => hit.score?.toFixed(3) ?? "";

function place(hit) {
  const link = address(hit.uri);
  const paged = link && hit.page !== null && /\.pdf$/i.test(hit.uri) ? `${link}#page=${Number(hit.page)}` : link;
  const shown = clean(hit.uri, 2000);
  return paged ? el("a", { href: paged, target: "_blank", rel: "noopener noreferrer" }, shown) : el("span", {}, shown);
}

function where(hit) {
  const parts = [];
  if (hit.page !== null) parts.push(`page ${hit.page}`);
  if (hit.headings.length) parts.push(clean(hit.headings.join(" › "), 300));
  return parts;
}

// ---------------------------------------------------------------- pictures

let fetching = 0;
const waiting = [];

/** A small picture. What cannot be loaded plainly (a key is wanted, or the server is busy) is fetched by hand. */
function thumb(hit, size, alt) {
  const frame = el("span", { class: "frame" });
  const path = `v1/thumbs/${encodeURIComponent(hit.id)}?size=${size}`;
  if (!hit.thumb) {
    frame.append(el("span", { class: "none" }, "No picture to show"));
    return frame;
  }
  const image = el("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("load", () => frame.classList.add("there"));
  image.addEventListener("error", () => {
    if (image.src.startsWith("blob:")) frame.replaceChildren(el("span", { class: "none" }, "No picture to show"));
    else byHand(image, path, frame);
  });
  if (key.get()) whenNear(image, () => byHand(image, path, frame));
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

async function byHand(image, path, frame) {
  if (fetching >= AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  fetching++;
  try {
    const url = URL.createObjectURL(await picture(path));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    // A picture that is gone is no trouble of the search: its place says so.
    frame.replaceChildren(el("span", { class: "none" }, "No picture to show"));
  } finally {
    fetching--;
    waiting.shift()?.();
  }
}

// ---------------------------------------------------------------- many

export class Hits {
  /** `act(name, hit)`: open, more, like, unlike. */
  constructor(feed, act) {
    Object.assign(this, { feed, act, hits: [], active: 0, words: null });
    feed.addEventListener("keydown", (event) => this.#pressed(event));
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
    if (!this.hits.length) this.feed.className = pictures(hits) ? "grid" : "list";
    const grid = this.feed.className === "grid";
    const from = this.hits.length;
    this.hits.push(...hits);
    this.feed.append(...hits.map((hit, n) => (grid ? this.#tile(hit, from + n) : this.#entry(hit, from + n))));
    this.vote(votes);
    if (from === 0 && hits.length) this.#activate(0);
  }

  /** Shows what is liked and what is not. */
  vote({ like, unlike }) {
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
    open.append(isPicture(hit) ? thumb(hit, 256, "") : el("span", { class: "frame words", dir: "auto" }, ...marked(clean(hit.snippet), this.words)));
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
      hit.thumb ? el("div", { class: "aside" }, thumb(hit, 256, "")) : null,
      el(
        "div",
        { class: "passage" },
        el("h3", { id: `hit-${n}`, dir: "auto" }, open),
        el("p", { class: "where" }, ...where(hit).map((part) => el("span", {}, part)), place(hit)),
        el("p", { class: "snippet", dir: "auto" }, ...marked(clean(hit.snippet), this.words)),
        this.#numbers(hit),
      ),
    );
  }

  #numbers(hit) {
    return el(
      "p",
      { class: "numbers" },
      el("span", { class: "score", title: "Score" }, el("span", { class: "unseen" }, "Score "), score(hit)),
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

  /** One article at a time is a stop of the Tab key, with its buttons. */
  #activate(at) {
    const stops = (n, index) => {
      const article = this.feed.children[n];
      for (const one of article ? [article, ...article.querySelectorAll("button, a")] : []) one.tabIndex = index;
    };
    stops(this.active, -1);
    this.active = at;
    stops(at, 0);
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = { m: "more", "+": "like", "=": "like", "-": "unlike", "−": "unlike" };
    const articles = this.feed.children;
    const at = this.active;
    let to = null;
    if (event.key === "Enter" && event.target === articles[at]) this.act("open", at);
    else if (acts[event.key]) this.act(acts[event.key], at);
    else if (event.key === "ArrowRight") to = at + 1;
    else if (event.key === "ArrowLeft") to = at - 1;
    else if (event.key === "ArrowDown") to = at + this.#across();
    else if (event.key === "ArrowUp") to = at - this.#across();
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = articles.length - 1;
    else return;
    event.preventDefault();
    if (to === null) return;
    if (to < 0 && event.key === "ArrowUp") $("q").focus();
    else this.focus(Math.min(articles.length - 1, Math.max(0, to)));
  }

  /** How many stand side by side. */
  #across() {
    const tops = [...this.feed.children].slice(0, 50).map((article) => article.offsetTop);
    const next = tops.findIndex((top) => top > tops[0]);
    return next > 0 ? next : this.feed.className === "grid" ? tops.length : 1;
  }
}

// ---------------------------------------------------------------- one

/** The hit in full. `act` as above, without a number. */
export function detail(hit, words, votes, act) {
  const told = [
    ["Score", score(hit)],
    ["Address", place(hit)],
    ["Page", hit.page === null ? null : String(hit.page)],
    ["Headings", hit.headings.length ? clean(hit.headings.join(" › "), 2000) : null],
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
    hit.thumb ? thumb(hit, 512, title(hit)) : null,
    el(
      "div",
      { class: "about" },
      el("h2", { id: "detail-name", dir: "auto" }, title(hit)),
      hit.text && clean(hit.text.trim()) !== title(hit) ? el("p", { class: "whole", dir: "auto" }, ...marked(clean(hit.text, 100_000), words)) : null,
      el("div", { class: "row" }, button("more", "More like this"), button("like", "This is it"), button("unlike", "Not this")),
      el("dl", { class: "facts" }, ...told.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    ),
  );
}

const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
