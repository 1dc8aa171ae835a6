// Filters: rows of conditions, and the JSON that the server takes; each is converted to the other where it can be.

import { el, icon } from "./dom.js";
import { parseObject } from "./query.js";

const FIELDS = { uri: "Address", page: "Page", ordinal: "Position in its document", text: "Text", id: "Id" };
const NUMBERS = ["page", "ordinal"];
const SIGNS = {
  $eq: "is",
  $ne: "is not",
  $in: "is one of",
  $prefix: "begins with",
  $gte: "is at least",
  $lte: "is at most",
};
const LAST = "\u{10ffff}"; // the last character of all: texts that begin with x lie between x and x + LAST

/** Rows of {field, sign, value} as a filter; null where all are empty. Raises Error with a message for users. */
export function toFilter(rows) {
  const terms = rows.filter(({ value }) => value.trim()).map(term);
  return terms.length > 1 ? { $and: terms } : (terms[0] ?? null);
}

function term({ field, sign, value }) {
  if (sign === "$prefix") return { [field]: { $gte: value, $lt: value + LAST } };
  const values = sign === "$in" ? value.split(",").map((one) => typed(field, one)) : typed(field, value);
  return { [field]: sign === "$eq" ? values : { [sign]: values } };
}

function typed(field, value) {
  if (!NUMBERS.includes(field)) return value.trim();
  if (!/^\s*-?\d{1,15}\s*$/.test(value)) throw new Error(`${FIELDS[field]}: invalid whole number “${value.trim()}”.`);
  return Number(value);
}

/** A filter as rows; null where rows cannot express it. */
export function toRows(where) {
  if (!where) return [];
  const names = Object.keys(where);
  const parts = names.length === 1 && names[0] === "$and" ? where.$and : names.map((name) => ({ [name]: where[name] }));
  if (!Array.isArray(parts)) return null;
  const rows = parts.map(row);
  const same = rows.every(Boolean) && canonical(toFilter(rows)) === canonical(parts.length > 1 ? { $and: parts } : parts[0]);
  return same ? rows : null;
}

const canonical = (value) => JSON.stringify(value);

function row(part) {
  const names = part && typeof part === "object" ? Object.keys(part) : [];
  const field = names[0];
  if (names.length !== 1 || !Object.hasOwn(FIELDS, field)) return null;
  const condition = part[field];
  if (condition === null || typeof condition !== "object") return { field, sign: "$eq", value: String(condition) };
  const signs = Object.keys(condition);
  if (signs.join() === "$gte,$lt" && condition.$lt === condition.$gte + LAST) {
    return { field, sign: "$prefix", value: condition.$gte };
  }
  if (signs.length !== 1 || !Object.hasOwn(SIGNS, signs[0])) return null;
  const value = condition[signs[0]];
  return { field, sign: signs[0], value: Array.isArray(value) ? value.join(", ") : String(value) };
}

export class Filters {
  /** `onChange` is called with the new filter. */
  constructor(parent, onChange) {
    this.onChange = onChange;
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
    const options = (names, chosen) =>
      Object.entries(names).map(([name, shown]) => el("option", { value: name, selected: name === chosen }, shown));
    const input = el("input", { value, "aria-label": "Value", oninput: () => this.#rowsEdited(), spellcheck: "false" });
    const whole = el(
      "div",
      { class: "row condition", role: "group", "aria-label": "Condition" },
      el("select", { "aria-label": "What", onchange: () => this.#rowsEdited() }, options(FIELDS, field)),
      el("select", { "aria-label": "How", onchange: () => this.#rowsEdited() }, options(SIGNS, sign)),
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
      const bad = rows.find(({ field, sign, value }) => value.trim() && sign === "$prefix" && NUMBERS.includes(field));
      if (bad) throw new Error(`${FIELDS[bad.field]}: a number has no beginning; choose “is”.`);
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

/** JSON with every character visible. */
const format = (where) => JSON.stringify(where, null, 1).replaceAll(LAST, "\\udbff\\udfff");
