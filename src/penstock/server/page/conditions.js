// Conditions of a filter: its parts, their values as people type them, and what they mean in words.

export const FIELDS = {
  uri: "Address",
  page: "Page",
  ordinal: "Position in its document",
  text: "Text",
  id: "Id",
  type: "Type",
};
export const SIGNS = {
  $eq: "is",
  $ne: "is not",
  $in: "is one of",
  $prefix: "begins with",
  $gte: "is at least",
  $lte: "is at most",
};
const OTHERS = { $gt: "is above", $lt: "is below", $nin: "is none of", $all: "has all of" };
const PREFIX = "metadata."; // of a field whose name is also one of a chunk's own

const isMapping = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isScalar = (value) => ["string", "number", "boolean"].includes(typeof value);

/** The conditions that all must hold. */
export function parts(where) {
  if (!where) return [];
  const names = Object.keys(where);
  if (names.length === 1 && names[0] === "$and" && Array.isArray(where.$and)) return where.$and;
  return names.map((name) => ({ [name]: where[name] }));
}

export const together = (terms) => (terms.length > 1 ? { $and: terms } : (terms[0] ?? null));

/** The field and the value of a condition that asks for one to be equal; null for any other. */
export function equality(part) {
  const [field, ...more] = isMapping(part) ? Object.keys(part) : [];
  const value = field && !more.length ? part[field] : null;
  return field && !field.startsWith("$") && isScalar(value) ? { field, value } : null;
}

/** Whether a field is to be equal to a value. */
export const has = (where, field, value) => parts(where).some((part) => same(equality(part), field, value));

const same = (one, field, value) => one !== null && one.field === field && one.value === value;

/** The filter with the condition that a field be equal to a value, or without it if it has it. */
export function toggle(where, field, value) {
  const others = parts(where).filter((part) => !same(equality(part), field, value));
  return together(has(where, field, value) ? others : [...others, { [field]: value }]);
}

// ---------------------------------------------------------------- values

/** JSON stands for its value, so that "3" is a text and 3 a number; all else is a text. */
export function fromText(text) {
  try {
    const value = JSON.parse(text);
    return isScalar(value) ? value : text.trim();
  } catch {
    return text.trim();
  }
}

export const toText = (value) => (typeof value === "string" && fromText(value) === value ? value : JSON.stringify(value));

/** A condition in words; what words do not express, as JSON. */
export function describe(part) {
  const [field, ...more] = isMapping(part) ? Object.keys(part) : [];
  if (!field || more.length || field.startsWith("$")) return JSON.stringify(part);
  const name = nameOf(field);
  const wanted = part[field];
  if (isScalar(wanted)) return `${name} is ${toText(wanted)}`;
  if (wanted === null) return `${name} is not there`;
  const words = { ...SIGNS, ...OTHERS };
  const wordsFor = ([sign, value]) => {
    if (sign === "$exists") return value ? "is there" : "is not there";
    if (!Object.hasOwn(words, sign)) return null;
    return `${words[sign]} ${Array.isArray(value) ? value.map(toText).join(", ") : toText(value)}`;
  };
  const said = (Array.isArray(wanted) ? [["$in", wanted]] : Object.entries(wanted)).map(wordsFor);
  return said.length && said.every(Boolean) ? `${name} ${said.join(" and ")}` : JSON.stringify(part);
}

export const nameOf = (field) => (Object.hasOwn(FIELDS, field) ? FIELDS[field] : field);

// ---------------------------------------------------------------- fields of metadata

/** The fields of metadata that hits have, by their names in a filter, each with its values; one entry a hit. */
export function fieldsOf(hits) {
  const found = new Map();
  for (const { metadata } of hits) leaves(metadata, [], found);
  return found;
}

function leaves(metadata, path, found) {
  for (const [name, value] of Object.entries(metadata)) {
    if (!name || name.startsWith("$") || name.includes(".")) continue;
    if (isMapping(value)) {
      leaves(value, [...path, name], found);
      continue;
    }
    const values = (Array.isArray(value) ? value : [value]).filter(isScalar);
    const key = fieldName([...path, name]);
    if (values.length) found.set(key, [...(found.get(key) ?? []), values]);
  }
}

function fieldName(path) {
  const name = path.join(".");
  return Object.hasOwn(FIELDS, name) || name.startsWith(PREFIX) ? PREFIX + name : name;
}
