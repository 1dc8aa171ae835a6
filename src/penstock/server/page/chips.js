// What is searched by besides the words in the box, as chips that can be taken away.

import { Trouble, ask } from "./api.js";
import { $, clean, el, icon } from "./dom.js";
import { title } from "./hits.js";
import { terms } from "./query.js";

const names = new Map(); // of points, by id

/** These have been seen, and need not be asked for. */
export function met(hits) {
  for (const hit of hits) names.set(hit.id, title(hit));
}

/** `change` is told what the question becomes; `unpicture` takes the user's own picture away. */
export function chips(state, picture, change, unpicture) {
  const made = [];
  if (picture) made.push(chip(picture.name, "By the picture", picture.seen, unpicture));
  else if (state.url) made.push(chip(state.url, "By the picture at", null, () => change({ url: "" })));
  for (const [kind, words] of [["like", "Like"], ["unlike", "Unlike"]]) {
    for (const id of state[kind]) {
      const whole = chip(names.get(id) ?? id.slice(0, 8), words, null, () => change({ [kind]: state[kind].filter((one) => one !== id) }), kind);
      if (!names.has(id)) learn(id, whole.querySelector(".what"));
      made.push(whole);
    }
  }
  for (const words of terms(state.box).minus) {
    made.push(el("li", { class: "chip minus" }, el("span", { class: "dim" }, "Without "), clean(words, 60)));
  }
  $("chips").replaceChildren(...made);
}

function chip(name, kind, image, remove, sort = "") {
  const label = `No longer: ${kind.toLowerCase()} ${clean(name, 60)}`;
  return el(
    "li",
    { class: `chip ${sort}` },
    image ? el("img", { src: image, alt: "" }) : null,
    el("span", { class: "dim" }, `${kind} `),
    el("span", { class: "what" }, clean(name, 60)),
    el("button", { type: "button", class: "quiet icon", "aria-label": label, onclick: remove }, icon("close")),
  );
}

/** The name of a point that came with a link. */
async function learn(id, place) {
  try {
    met([await ask(`v1/points/${encodeURIComponent(id)}`)]);
    place.textContent = clean(names.get(id), 60);
  } catch (error) {
    if (!(error instanceof Trouble)) throw error; // the search tells what is wrong with the id
  }
}
