// The parts of the query besides the words in the box, as chips that can be removed.

import { ApiError, requestJson } from "./api.js";
import { describe, parts, together } from "./conditions.js";
import { $, clean, el, icon } from "./dom.js";
import { title } from "./hits.js";
import { parseBox } from "./query.js";

const titles = new Map(); // of points, by id

/** Remember the titles of hits, so that they need not be fetched. */
export function rememberTitles(hits) {
  for (const hit of hits) titles.set(hit.id, title(hit));
}

/** `change` is called with the changes of the query; `removePicture` removes the user's own picture. */
export function showChips(query, picture, change, removePicture) {
  const items = [];
  if (picture) items.push(chip(picture.name, "By the picture", picture.preview, removePicture));
  else if (query.url) items.push(chip(query.url, "By the picture at", null, () => change({ url: "" })));
  for (const [kind, words] of [["like", "Like"], ["unlike", "Unlike"]]) {
    for (const id of query[kind]) {
      const whole = chip(titles.get(id) ?? id.slice(0, 8), words, null, () => change({ [kind]: query[kind].filter((one) => one !== id) }), kind);
      if (!titles.has(id)) fetchTitle(id, whole.querySelector(".what"));
      items.push(whole);
    }
  }
  const conditions = parts(query.where);
  for (const [n, part] of conditions.entries()) {
    items.push(chip(describe(part), "Only", null, () => change({ where: together(conditions.filter((_, m) => m !== n)) }), "only"));
  }
  for (const words of parseBox(query.box).minus) {
    items.push(el("li", { class: "chip minus" }, el("span", { class: "dim" }, "Without "), clean(words, 60)));
  }
  $("chips").replaceChildren(...items);
}

function chip(name, kind, image, remove, sort = "") {
  const label = `Remove: ${kind.toLowerCase()} ${clean(name, 60)}`;
  return el(
    "li",
    { class: `chip ${sort}` },
    image ? el("img", { src: image, alt: "" }) : null,
    el("span", { class: "dim" }, `${kind} `),
    el("span", { class: "what" }, clean(name, 60)),
    el("button", { type: "button", class: "quiet icon", "aria-label": label, onclick: remove }, icon("close")),
  );
}

/** Show the title of a point that came with a link. */
async function fetchTitle(id, element) {
  try {
    rememberTitles([await requestJson(`v1/points/${encodeURIComponent(id)}`)]);
    element.textContent = clean(titles.get(id), 60);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // the search reports what is wrong with the id
  }
}
