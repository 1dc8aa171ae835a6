// Values to narrow a search by, with their counts: buttons that add a condition to the filter, or take it away.

import { ApiError, requestJson } from "./api.js";
import { equality, fieldsOf, has, nameOf, parts, toggle, toText } from "./conditions.js";
import { clean, count, el } from "./dom.js";

const STANDARD = ["type", "extension", "language", "media_type", "folder"];
const ONE_EACH = ["name", "title", "caption", "size", "created", "modified", "width", "height"]; // of every document another
const OWN = ["uri", "page", "ordinal", "text", "id"]; // of a chunk, whose values are not counted
const LONGEST_NAME = 200;
const MAX_FIELDS = 10; // of one request
const MAX_VALUES = 10;
const SHOWN = 3; // fields that are not folded away
const LONGEST = 80; // characters of a value that makes a good button
const FEW = 12; // values that a field of the hits may have, however many of them it has only once

export class Facets {
  /** `onChange` is called with the new filter. */
  constructor(parent, onChange) {
    Object.assign(this, { parent, onChange, asked: "", counts: new Map(), refused: false, open: false });
  }

  clear() {
    this.parent.hidden = true;
  }

  /** Show values of the fields that these hits have, counted over all that the filter lets pass. */
  async show(where, hits, signal) {
    if (this.refused) return;
    const names = fieldsToCount(where, hits);
    const asked = JSON.stringify([names, where]);
    try {
      if (asked !== this.asked) {
        const body = { names, limit: MAX_VALUES, ...(where ? { where } : {}) };
        const { facets } = await requestJson("v1/facets", { body, signal });
        this.counts = new Map(Object.entries(facets));
        this.asked = asked;
      }
      if (!signal.aborted) this.#render(where, names);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.refused = error.status === 400; // the store cannot count
      this.asked = "";
      this.clear(); // the search itself is in order, so that nothing is said
    }
  }

  #render(where, names) {
    const focused = this.parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const groups = [];
    for (const name of names) {
      const values = (this.counts.get(name) ?? []).filter(({ value }) => String(value).length <= LONGEST);
      if (values.length > 1 || values.some(({ value }) => has(where, name, value))) groups.push(this.#group(where, name, values));
    }
    const rest = groups.splice(SHOWN);
    const more = el("details", { open: this.open, ontoggle: () => (this.open = more.open) }, el("summary", {}, "More to narrow by"), rest);
    this.parent.replaceChildren(...groups, ...(rest.length ? [more] : []));
    this.parent.hidden = !groups.length;
    if (focused === undefined) return;
    const buttons = [...this.parent.querySelectorAll("button")];
    (buttons.find((button) => button.dataset.key === focused) ?? buttons[0])?.focus();
  }

  #group(where, name, values) {
    const shown = clean(nameOf(name), 40);
    const buttons = values.map(({ value, count: number }) => {
      const text = clean(toText(value), LONGEST);
      return el(
        "button",
        {
          type: "button",
          class: "facet",
          "aria-pressed": String(has(where, name, value)),
          "aria-label": `${text}, ${count(number, "passage")}`,
          title: text,
          "data-key": JSON.stringify([name, value]),
          onclick: () => this.onChange(toggle(where, name, value)),
        },
        el("span", { class: "value" }, text),
        el("span", { class: "number" }, number.toLocaleString("en")),
      );
    });
    return el("div", { class: "facets-of", role: "group", "aria-label": shown }, el("span", { class: "dim" }, shown), el("div", { class: "values" }, buttons));
  }
}

/** Fields of the filter, the usual ones, and those of the hits of which several share a value. */
function fieldsToCount(where, hits) {
  const active = parts(where).map((part) => equality(part)?.field);
  const others = [...fieldsOf(hits)].filter(([name, held]) => !ONE_EACH.includes(name) && shared(held.flat()));
  others.sort(([, a], [, b]) => b.length - a.length);
  const names = [...active.filter(countable), ...STANDARD, ...others.map(([name]) => name)];
  return [...new Set(names)].filter((name) => name.length <= LONGEST_NAME).slice(0, MAX_FIELDS);
}

const countable = (name) => name && !OWN.includes(name);

function shared(values) {
  if (values.some((value) => String(value).length > LONGEST)) return false;
  const different = new Set(values).size;
  return different <= FEW || different * 2 <= values.length;
}
