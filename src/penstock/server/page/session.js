// The state of the page: the query, the user's own picture, and the status of the server.

import { $, count, el } from "./dom.js";
import { EMPTY } from "./query.js";

export const session = {
  query: EMPTY,
  picture: null, // the user's own: {name, base64, preview, number}
  status: null, // of the server, once it is known
};

const vectors = () => session.status?.vectors ?? [];

/** The vector that is searched by; null while the status is not known. */
export const vector = () => vectors().find(({ name }) => name === session.query.using) ?? vectors()[0] ?? null;

/** The query, with a vector named if, and only if, the index has several; without words, where it has no full text, and
 * without a reranker, where the server has none. */
export function withVector(query) {
  if (!session.status) return query;
  if (query.words && !session.status.words) query = { ...query, words: false };
  if (query.rerank && !session.status.reranker) query = { ...query, rerank: false };
  const names = vectors().length > 1 ? vectors().map(({ name }) => name) : [""];
  return names.includes(query.using) ? query : { ...query, using: names[0] };
}

/** Take in the server's status. True where the query was about what the index does not have, and is changed. */
export function learn(status) {
  session.status = status;
  const several = status.vectors.length > 1;
  $("using-field").hidden = !several;
  $("words-field").hidden = !status.words;
  $("rerank-field").hidden = !status.reranker;
  if ([...$("using").options].map(({ value }) => value).join() !== status.vectors.map(({ name }) => name).join()) {
    $("using").replaceChildren(...status.vectors.map(({ name, model }) => el("option", { value: name, title: model }, name)));
  }
  const before = session.query;
  session.query = withVector(before);
  $("url-row").hidden = !status.limits.fetch_urls;
  $("url-why").hidden = status.limits.fetch_urls;
  showCapabilities();
  return session.query !== before;
}

/** Offer what the vector that is searched by allows. */
export function showCapabilities() {
  const used = vector();
  if (!used) return;
  $("using").value = used.name;
  document.body.classList.toggle("text-only", used.kind !== "Dense");
  $("picture-open").hidden = !used.images;
  $("q").placeholder = used.images ? "Words, or a picture" : "Search by words";
  const points = session.status.points;
  const names = used.images ? ["picture or passage", "pictures and passages"] : ["passage", "passages"];
  if (points !== null) $("greeting").textContent = `Search ${count(points, ...names)}`;
}
