// Filters: rows that people fill in, and the JSON that the server takes; each is made from the other where it can be.

import { el, icon } from "./dom.js";
import { object } from "./query.js";

const FIELDS = { uri: "Address", page: "Page", ordinal: "Place in its document", text: "Text", id: "Id" };
const NUMBERS = ["page", "ordinal"];
const SIGNS = {
  $eq: "is",
  $ne: "is not",
  $in: "is one of",
  $prefix: "begins with",
  $gte: "is at least",
  $lte: "is at most",
};
const LAST = "\u{10ffff}"; // the last character there is: what begins with x lies between x and x + LAST

/** [{field, sign, value}] as a filter; null where nothing is asked. Raises Error in words. */
export function made(rows) {
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
  if (!/^\s*-?\d{1,15}\s*$/.test(value)) throw new Error(`${FIELDS[field]}: “${value.trim()}” is no whole number.`);
  return Number(value);
}

/** The rows that a filter is made of; null where it says more than rows can. */
export function rowsOf(where) {
  if (!where) return [];
  const names = Object.keys(where);
  const parts = names.length === 1 && names[0] === "$and" ? where.$and : names.map((name) => ({ [name]: where[name] }));
  if (!Array.isArray(parts)) return null;
  const rows = parts.map(row);
  const same = rows.every(Boolean) && canonical(made(rows)) === canonical(parts.length > 1 ? { $and: parts } : parts[0]);
  return same ? rows : null;
}

const canonical = (value) => JSON.stringify(value);

function row(part) {
  const names = part && typeof part === "object" ? Object.keys(part) : [];
  const field = names[0];
  if (names.length !== 1 || !Object.hasOwn(FIELDS, field)) return null;
  const wanted = part[field];
  if (wanted === null || typeof wanted !== "object") return { field, sign: "$eq", value: String(wanted) };
  const signs = Object.keys(wanted);
  if (signs.join() === "$gte,$lt" && wanted.$lt === wanted.$gte + LAST) {
    return { field, sign: "$prefix", value: wanted.$gte };
  }
  if (signs.length !== 1 || !Object.hasOwn(SIGNS, signs[0])) return null;
  const value = wanted[signs[0]];
  return { field, sign: signs[0], value: Array.isArray(value) ? value.join(", ") : String(value) };
}

export class Filters {
  /** `changed` is told the new filter. */
  constructor(place, changed) {
    this.changed = changed;
    this.rows = el("div", { class: "rows" });
    this.raw = el("textarea", { rows: 3, spellcheck: "false", "aria-label": "The filter as JSON", oninput: () => this.#typed() });
    this.wrong = el("p", { class: "wrong", role: "alert" });
    this.foreign = el("p", { class: "dim", hidden: true }, "This filter says more than rows can show; it is to be changed as JSON.");
    this.add = el("button", { type: "button", class: "quiet", onclick: () => this.#add().focus() }, "Add a condition");
    const clear = el("button", { type: "button", class: "quiet", onclick: () => this.#clear() }, "Clear");
    place.append(
      this.foreign,
      this.rows,
      el("div", { class: "row" }, this.add, clear),
      el("details", {}, el("summary", {}, "As JSON"), this.raw),
      this.wrong,
    );
  }

  show(where) {
    const rows = rowsOf(where);
    this.rows.replaceChildren();
    this.foreign.hidden = rows !== null;
    this.rows.hidden = this.add.hidden = rows === null;
    for (const one of rows?.length ? rows : [{ field: "uri", sign: "$prefix", value: "" }]) this.#add(one);
    this.raw.value = where ? written(where) : "";
    this.wrong.textContent = "";
  }

  #add({ field, sign, value } = { field: "page", sign: "$eq", value: "" }) {
    const options = (names, chosen) =>
      Object.entries(names).map(([name, shown]) => el("option", { value: name, selected: name === chosen }, shown));
    const input = el("input", { value, "aria-label": "Value", oninput: () => this.#filled(), spellcheck: "false" });
    const whole = el(
      "div",
      { class: "row condition", role: "group", "aria-label": "Condition" },
      el("select", { "aria-label": "What", onchange: () => this.#filled() }, options(FIELDS, field)),
      el("select", { "aria-label": "How", onchange: () => this.#filled() }, options(SIGNS, sign)),
      input,
      el("button", { type: "button", class: "quiet icon", "aria-label": "Remove this condition", onclick: () => this.#remove(whole) }, icon("close")),
    );
    this.rows.append(whole);
    return input;
  }

  #remove(row) {
    row.remove();
    this.#filled();
    this.add.focus();
  }

  #clear() {
    this.show(null);
    this.changed(null);
  }

  #filled() {
    try {
      const rows = [...this.rows.children].map((one) => {
        const [field, sign, value] = one.querySelectorAll("select, input");
        return { field: field.value, sign: sign.value, value: value.value };
      });
      const bad = rows.find(({ field, sign, value }) => value.trim() && sign === "$prefix" && NUMBERS.includes(field));
      if (bad) throw new Error(`${FIELDS[bad.field]}: a number begins with nothing; choose “is”.`);
      const where = made(rows);
      this.wrong.textContent = "";
      this.raw.value = where ? written(where) : "";
      this.changed(where);
    } catch (error) {
      this.wrong.textContent = error.message;
    }
  }

  #typed() {
    const text = this.raw.value.trim();
    const where = object(text);
    if (text && text !== "{}" && !where) {
      this.wrong.textContent = "This is no object of JSON yet.";
      return;
    }
    this.show(where);
    this.raw.value = text; // as it was typed
    this.changed(where);
  }
}

/** As JSON whose every character can be seen. */
const written = (where) => JSON.stringify(where, null, 1).replaceAll(LAST, "\\udbff\\udfff");
