// Filters: rows of conditions, and the JSON that the server takes; each is converted to the other where it can be.

import { FIELDS, fromText, nameOf, parts, SIGNS, together, toText } from "./conditions.js";
import { clean, el, icon } from "./dom.js";
import { parseObject } from "./query.js";

const NUMBERS = ["page", "ordinal"];
const MAX_NAMES = 100; // fields of metadata to choose from

const isOwn = (field) => Object.hasOwn(FIELDS, field);

/** Rows of {field, sign, value} as a filter; null where all are empty. Raises Error with a message for users. */
export const toFilter = (rows) => together(rows.filter(({ value }) => value.trim()).map(term));

function term({ field, sign, value }) {
  if (sign === "$prefix") {
    const text = isOwn(field) ? value : fromText(value);
    return { [field]: { $prefix: typeof text === "string" ? text : value.trim() } };
  }
  const values = sign === "$in" ? value.split(",").map((one) => typed(field, one)) : typed(field, value);
  return { [field]: sign === "$eq" ? values : { [sign]: values } };
}

function typed(field, value) {
  if (!isOwn(field)) return fromText(value);
  if (!NUMBERS.includes(field)) return value.trim();
  if (!/^\s*-?\d{1,15}\s*$/.test(value)) throw new Error(`${FIELDS[field]}: invalid whole number “${value.trim()}”.`);
  return Number(value);
}

/** A filter as rows; null where rows cannot express it. */
export function toRows(where) {
  const terms = parts(where);
  const rows = terms.map(row);
  try {
    const same = rows.every(Boolean) && JSON.stringify(toFilter(rows)) === JSON.stringify(together(terms));
    return same ? rows : null;
  } catch {
    return null; // a value of a wrong type
  }
}

function row(part) {
  const names = part && typeof part === "object" ? Object.keys(part) : [];
  const field = names[0];
  if (names.length !== 1 || field.startsWith("$") || part[field] === null) return null;
  const signs = typeof part[field] === "object" ? Object.entries(part[field]) : [["$eq", part[field]]];
  if (signs.length !== 1 || !Object.hasOwn(SIGNS, signs[0][0])) return null;
  const [sign, value] = signs[0];
  const text = isOwn(field) ? String : toText;
  return { field, sign, value: Array.isArray(value) ? value.map(text).join(", ") : text(value) };
}

export class Filters {
  /** `onChange` is called with the new filter. */
  constructor(parent, onChange) {
    Object.assign(this, { onChange, names: [] });
    this.rows = el("div", { class: "rows" });
    this.raw = el("textarea", { rows: 3, spellcheck: "false", "aria-label": "The filter as JSON", oninput: () => this.#jsonEdited() });
    this.wrong = el("p", { class: "wrong", role: "alert" });
    this.complex = el("p", { class: "dim", hidden: true }, "Rows cannot express this filter; edit it as JSON.");
    this.add = el("button", { type: "button", class: "quiet", onclick: () => this.#add().focus() }, "Add a condition");
    const clear = el("button", { type: "button", class: "quiet", onclick: () => this.#clear() }, "Clear");
    parent.append(
      this.complex,
      this.rows,
      el("div", { class: "row" }, this.add, clear),
      el("details", {}, el("summary", {}, "As JSON"), this.raw),
      this.wrong,
    );
  }

  /** Offer these fields of metadata, besides a chunk's own. */
  learn(names) {
    const fresh = [...names].filter((name) => !this.names.includes(name));
    this.names.push(...fresh.slice(0, MAX_NAMES - this.names.length));
    for (const select of this.rows.querySelectorAll("select.what")) select.replaceChildren(...options(this.#fields(select.value), select.value));
  }

  #fields(chosen) {
    const names = [...Object.keys(FIELDS), ...this.names];
    return (names.includes(chosen) ? names : [...names, chosen]).map((name) => [name, clean(nameOf(name), 40)]);
  }

  show(where) {
    const rows = toRows(where);
    this.rows.replaceChildren();
    this.complex.hidden = rows !== null;
    this.rows.hidden = this.add.hidden = rows === null;
    for (const one of rows?.length ? rows : [{ field: "uri", sign: "$prefix", value: "" }]) this.#add(one);
    this.raw.value = where ? format(where) : "";
    this.wrong.textContent = "";
  }

  #add({ field, sign, value } = { field: "page", sign: "$eq", value: "" }) {
    const input = el("input", { value, "aria-label": "Value", oninput: () => this.#rowsEdited(), spellcheck: "false" });
    const whole = el(
      "div",
      { class: "row condition", role: "group", "aria-label": "Condition" },
      el("select", { class: "what", "aria-label": "What", onchange: () => this.#rowsEdited() }, options(this.#fields(field), field)),
      el("select", { "aria-label": "How", onchange: () => this.#rowsEdited() }, options(Object.entries(SIGNS), sign)),
      input,
      el("button", { type: "button", class: "quiet icon", "aria-label": "Remove this condition", onclick: () => this.#remove(whole) }, icon("close")),
    );
    this.rows.append(whole);
    return input;
  }

  #remove(row) {
    row.remove();
    this.#rowsEdited();
    this.add.focus();
  }

  #clear() {
    this.show(null);
    this.onChange(null);
  }

  #rowsEdited() {
    try {
      const rows = [...this.rows.children].map((one) => {
        const [field, sign, value] = one.querySelectorAll("select, input");
        return { field: field.value, sign: sign.value, value: value.value };
      });
      const bad = rows.find(({ field, sign, value }) => value.trim() && sign === "$prefix" && [...NUMBERS, "type"].includes(field));
      if (bad) throw new Error(`${FIELDS[bad.field]}: it has no beginning; choose “is”.`);
      const where = toFilter(rows);
      this.wrong.textContent = "";
      this.raw.value = where ? format(where) : "";
      this.onChange(where);
    } catch (error) {
      this.wrong.textContent = error.message;
    }
  }

  #jsonEdited() {
    const text = this.raw.value.trim();
    const where = parseObject(text);
    if (text && text !== "{}" && !where) {
      this.wrong.textContent = "Invalid JSON: expected an object.";
      return;
    }
    this.show(where);
    this.raw.value = text; // as typed
    this.onChange(where);
  }
}

const format = (where) => JSON.stringify(where, null, 1);

const options = (names, chosen) => names.map(([name, shown]) => el("option", { value: name, selected: name === chosen }, shown));
