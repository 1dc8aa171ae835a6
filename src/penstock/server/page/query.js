// The query: parsed from the box, sent as JSON, kept in the address.

export const EMPTY = Object.freeze({
  box: "",
  share: 0.5, // how much the picture counts, against the words
  url: "", // of a picture
  uploaded: false, // a picture of the user's own, which no address can hold
  using: "", // the vector to search by, where the index has several
  like: Object.freeze([]),
  unlike: Object.freeze([]),
  where: null,
  words: false, // whether the full text is searched as well
  rerank: false, // whether the server's reranker orders the best hits
  distinct: false,
  threshold: null,
});

const PARTS = /("[^"]*")|(?:^|\s)-(?:"([^"]+)"|([\p{L}\p{N}]\S*))/gu;

/** The box's text, and the words with a minus sign before them. Quoted text is left as it is. */
export function parseBox(box) {
  const minus = [];
  const text = box.replace(PARTS, (match, kept, quoted, word) => {
    if (kept) return match;
    minus.push((quoted ?? word).trim());
    return " ";
  });
  return { text: text.replace(/\s+/g, " ").trim(), minus: minus.filter(Boolean) };
}

/** What the query lacks to be searched for, in words; null where it lacks nothing. */
export function missing(query) {
  if (parseBox(query.box).text || query.url || query.uploaded || query.like.length) return null;
  if (parseBox(query.box).minus.length) return "Add what to look for, not only what to leave out.";
  if (query.unlike.length) return "Add what to look for, not only what it should be unlike.";
  return "";
}

/** Whether there are words, and a picture beside them leaves them any weight. */
function countsWords(query) {
  const picture = query.url || query.uploaded;
  return Boolean(parseBox(query.box).text) && !(picture && query.share === 1);
}

/** Whether ranks are fused, which have no scores to compare. Without words there are none to look for. */
export const isHybrid = (query) => query.words && countsWords(query);

/** Whether the server's reranker orders and scores the hits. Without words there is nothing to hold them against. */
export const isReranked = (query) => query.rerank && countsWords(query);

/** Whether hits have scores that a lowest one can be compared with. */
export const hasScores = (query) => !isHybrid(query) || isReranked(query);

/** The body of a request. `picture` is one of the user's own, in base64. */
export function toBody(query, picture = null, cursor = null, k = 40) {
  const { text, minus } = parseBox(query.box);
  const request = { k };
  if (text) request.text = text;
  if (picture) request.image = picture;
  else if (query.url) request.image_url = query.url;
  if (text && (picture || query.url)) {
    request.text_weight = round(1 - query.share);
    request.image_weight = round(query.share);
  }
  if (isHybrid(query)) request.hybrid = query.using ? { [query.using]: 1, words: 1 } : true;
  else if (query.using) request.using = query.using;
  if (minus.length) request.minus = minus;
  if (query.like.length) request.like = query.like;
  if (query.unlike.length) request.unlike = query.unlike;
  if (query.where) request.where = query.where;
  if (isReranked(query)) request.rerank = true;
  if (query.threshold !== null && hasScores(query)) request.threshold = query.threshold;
  if (query.distinct) request.distinct = true;
  if (cursor) request.cursor = cursor;
  return request;
}

const round = (number) => Math.round(number * 100) / 100;

export function toHash(query) {
  const params = new URLSearchParams();
  if (query.box.trim()) params.set("q", query.box.trim());
  if (query.url) params.set("url", query.url);
  if (query.uploaded) params.set("picture", "own");
  if (query.using) params.set("using", query.using);
  if (query.share !== EMPTY.share) params.set("share", round(query.share));
  for (const id of query.like) params.append("like", id);
  for (const id of query.unlike) params.append("unlike", id);
  if (query.where) params.set("where", JSON.stringify(query.where));
  if (query.words) params.set("words", "1");
  if (query.rerank) params.set("rerank", "1");
  if (query.distinct) params.set("distinct", "1");
  if (query.threshold !== null) params.set("least", query.threshold);
  const text = params.toString();
  return text ? `#${text}` : "";
}

/** The query in an address, which anybody may have written: invalid parts are left out. */
export function fromHash(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const ids = (name) => [...new Set(params.getAll(name).filter((id) => id && id.length <= 200))].slice(0, 100);
  const share = number(params.get("share"));
  return {
    box: (params.get("q") ?? "").slice(0, 20_000),
    url: /^https?:\/\//i.test(params.get("url") ?? "") ? params.get("url").slice(0, 4096) : "",
    uploaded: params.get("picture") === "own",
    using: /^[a-z][a-z0-9_]{0,31}$/.test(params.get("using") ?? "") ? params.get("using") : "",
    share: share === null ? EMPTY.share : Math.min(1, Math.max(0, share)),
    like: ids("like"),
    unlike: ids("unlike"),
    where: parseObject(params.get("where")),
    words: params.get("words") === "1",
    rerank: params.get("rerank") === "1",
    distinct: params.get("distinct") === "1",
    threshold: number(params.get("least")),
  };
}

function number(text) {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}

/** Parse a JSON object; null where it is anything else, or empty. */
export function parseObject(text) {
  try {
    const value = JSON.parse(text);
    const valid = value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length;
    return valid ? value : null;
  } catch {
    return null;
  }
}

/** A pattern of the query's words, endings aside; short ones only where it has no others. As the server does. */
export function wordsOf(text) {
  const all = [...new Set(text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [])].slice(0, 200);
  const long = all.filter((word) => word.length > 3);
  const words = (long.length ? long : all).sort((a, b) => b.length - a.length);
  return words.length ? new RegExp(`(?<![\\p{L}\\p{N}_])(?:${words.join("|")})[\\p{L}\\p{N}_]*`, "giu") : null;
}
