// What is searched for: read from the box, sent as JSON, kept in the address.

export const NOTHING = Object.freeze({
  box: "",
  share: 0.5, // how much the picture counts, against the words
  url: "", // of a picture
  uploaded: false, // a picture of the user's own, which no address can hold
  like: Object.freeze([]),
  unlike: Object.freeze([]),
  where: null,
  distinct: false,
  threshold: null,
});

const PARTS = /("[^"]*")|(?:^|\s)-(?:"([^"]+)"|([\p{L}\p{N}]\S*))/gu;

/** The box's words, and those with a minus sign before them. What is in quotes is left as it is. */
export function terms(box) {
  const minus = [];
  const text = box.replace(PARTS, (found, kept, quoted, word) => {
    if (kept) return found;
    minus.push((quoted ?? word).trim());
    return " ";
  });
  return { text: text.replace(/\s+/g, " ").trim(), minus: minus.filter(Boolean) };
}

/** Why it cannot be searched for, in words; null where it can. */
export function lacking(state) {
  if (terms(state.box).text || state.url || state.uploaded || state.like.length) return null;
  if (terms(state.box).minus.length) return "Say also what to look for, not only what to leave out.";
  if (state.unlike.length) return "Say also what to look for, not only what it should be unlike.";
  return "";
}

/** The body of a request. `picture` is one of the user's own, in base64. */
export function body(state, picture = null, cursor = null, k = 40) {
  const { text, minus } = terms(state.box);
  const asked = { k };
  if (text) asked.text = text;
  if (picture) asked.image = picture;
  else if (state.url) asked.image_url = state.url;
  if (text && (picture || state.url)) {
    asked.text_weight = round(1 - state.share);
    asked.image_weight = round(state.share);
  }
  if (minus.length) asked.minus = minus;
  if (state.like.length) asked.like = state.like;
  if (state.unlike.length) asked.unlike = state.unlike;
  if (state.where) asked.where = state.where;
  if (state.threshold !== null) asked.threshold = state.threshold;
  if (state.distinct) asked.distinct = true;
  if (cursor) asked.cursor = cursor;
  return asked;
}

const round = (number) => Math.round(number * 100) / 100;

export function toHash(state) {
  const told = new URLSearchParams();
  if (state.box.trim()) told.set("q", state.box.trim());
  if (state.url) told.set("url", state.url);
  if (state.uploaded) told.set("picture", "own");
  if (state.share !== NOTHING.share) told.set("share", round(state.share));
  for (const id of state.like) told.append("like", id);
  for (const id of state.unlike) told.append("unlike", id);
  if (state.where) told.set("where", JSON.stringify(state.where));
  if (state.distinct) told.set("distinct", "1");
  if (state.threshold !== null) told.set("least", state.threshold);
  const text = told.toString();
  return text ? `#${text}` : "";
}

/** From an address, which anybody may have written: what makes no sense in it is left out. */
export function fromHash(hash) {
  const told = new URLSearchParams(hash.replace(/^#/, ""));
  const ids = (name) => [...new Set(told.getAll(name).filter((id) => id && id.length <= 200))].slice(0, 100);
  const share = number(told.get("share"));
  return {
    box: (told.get("q") ?? "").slice(0, 20_000),
    url: /^https?:\/\//i.test(told.get("url") ?? "") ? told.get("url").slice(0, 4096) : "",
    uploaded: told.get("picture") === "own",
    share: share === null ? NOTHING.share : Math.min(1, Math.max(0, share)),
    like: ids("like"),
    unlike: ids("unlike"),
    where: object(told.get("where")),
    distinct: told.get("distinct") === "1",
    threshold: number(told.get("least")),
  };
}

function number(text) {
  const found = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(found) ? found : null;
}

/** An object of JSON that is not empty, or null. */
export function object(text) {
  try {
    const found = JSON.parse(text);
    const good = found !== null && typeof found === "object" && !Array.isArray(found) && Object.keys(found).length;
    return good ? found : null;
  } catch {
    return null;
  }
}

/** Finds the query's words in a text, endings aside; short ones only where there are no others. As the server does. */
export function wordsOf(text) {
  const all = [...new Set(text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [])].slice(0, 200);
  const long = all.filter((word) => word.length > 3);
  const words = (long.length ? long : all).sort((a, b) => b.length - a.length);
  return words.length ? new RegExp(`(?<![\\p{L}\\p{N}_])(?:${words.join("|")})[\\p{L}\\p{N}_]*`, "giu") : null;
}
