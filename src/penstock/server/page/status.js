// The status tab: the index, its documents, and the run in progress.

import { clean, count, el } from "./dom.js";

const STATES = { done: "in the index", open: "unfinished", failed: "failing", skipped: "of no known type" };
const STAGES = { items: "prepare", chunks: "embed", points: "write", commits: "commit" };

export const size = (bytes) => {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (bytes < 1024) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} GiB`;
};

export function span(seconds) {
  const [unit, length] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]].find(([, one]) => seconds >= one) ?? ["second", 1];
  return count(Math.max(0, Math.round(seconds / length)), unit);
}

const ago = (moment, now) => (moment ? `${span(now - moment)} ago` : "never");

const facts = (pairs) =>
  el("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

const card = (name, ...inside) => el("section", { class: "card" }, el("h2", {}, name), ...inside);

const number = (value, name, kind = "") =>
  el("p", { class: `big ${kind}` }, el("strong", {}, value.toLocaleString("en")), el("span", {}, name));

function meter(share, label, kind = "") {
  const full = el("span", { class: `full ${kind}` });
  full.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  return el("span", { class: "meter", role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100) }, full);
}

/** Render /v1/status. `now` is in seconds. */
export function renderStatus(status, now = Date.now() / 1000) {
  return el(
    "div",
    { class: "cards" },
    status.trouble ? el("p", { class: "wrong whole", role: "alert" }, `The server has trouble: ${clean(status.trouble, 1000)}`) : null,
    status.pipeline ? pipeline(status.pipeline, now) : null,
    index(status, now),
    ...ledger(status.ledger, now),
    limits(status.limits),
  );
}

function index(status, now) {
  const { points, vectors } = status;
  const images = vectors.some((vector) => vector.images);
  return card(
    "Index",
    points === null ? el("p", { class: "wrong" }, "The index is unavailable at the moment.") : number(points, points === 1 ? "point" : "points"),
    facts([
      ["Location", status.index && clean(status.index, 2000)],
      ...(vectors.length > 1 ? vectors.map(named) : only(vectors[0])),
      ["Reranker", status.reranker && clean(status.reranker, 300)],
      ["Searched by", images ? "words and pictures" : "words"],
      ["Opened", ago(status.opened, now)],
      ["Penstock", clean(status.version, 50)],
    ]),
  );
}

const only = ({ model, dim }) => [["Model", clean(model, 300)], ["Dimensions", dim ? dim.toLocaleString("en") : null]];

const named = ({ name, model, dim, kind }) => [
  `Vector ${name}`,
  `${clean(model, 300)}, ${[dim ? `${dim.toLocaleString("en")} dimensions` : null, kind === "Dense" ? null : kind].filter(Boolean).join(", ")}`,
];

function ledger(counts, now) {
  if (!counts) return [card("Documents", el("p", { class: "dim" }, "This server was started without a ledger, or the key may not read it: only the points are known."))];
  if (counts.error) return [card("Documents", el("p", { class: "wrong" }, clean(counts.error, 1000)))];
  const documents = card(
    "Documents",
    number(counts.documents, counts.documents === 1 ? "document" : "documents"),
    states(counts),
    facts([
      ["Passages", counts.chunks.toLocaleString("en")],
      ["Acknowledged", `${counts.acknowledged.toLocaleString("en")} of them`],
      ["Failures", counts.failures ? el("strong", { class: "bad" }, count(counts.failures, "failure")) : "none"],
    ]),
    counts.failing?.length ? el("ul", { class: "failing" }, ...counts.failing.map(failure)) : null,
    counts.failures ? el("p", { class: "dim" }, el("code", {}, "penstock failures"), " lists them, ", el("code", {}, "penstock retry"), " tries them again.") : null,
  );
  return [documents, card("Last run", ...run(counts.runs?.[0], now))];
}

function failure({ uri, stage, cause }) {
  return el("li", {}, el("strong", {}, clean(uri, 300)), ` ${clean(stage, 40)}: ${clean(cause, 300)}`);
}

function states(counts) {
  const all = Math.max(1, counts.documents);
  const parts = Object.keys(STATES).filter((name) => counts[name]);
  const bar = el("div", { class: "states", "aria-hidden": "true" });
  for (const name of parts) {
    const part = el("span", { class: name });
    part.style.flexGrow = counts[name] / all;
    bar.append(part);
  }
  const entry = (name) => el("li", { class: name }, `${counts[name].toLocaleString("en")} ${STATES[name]}`);
  return el("div", {}, bar, el("ul", { class: "legend" }, ...parts.map(entry)));
}

function run(last, now) {
  if (!last) return [el("p", { class: "dim" }, "No run yet.")];
  const counts = last.report?.counts ?? {};
  const ended = last.ended ?? null;
  const some = (name) => (counts[name] === undefined ? null : counts[name].toLocaleString("en"));
  return [
    el("p", { class: "big" }, el("strong", {}, ended ? span(now - ended) : "now"), el("span", {}, ended ? "since the last run ended" : "a run is in progress")),
    facts([
      ["Ended as", clean(last.status ?? "running", 50)],
      ["Began", ago(last.started, now)],
      ["Took", ended ? span(ended - last.started) : null],
      ["Documents", some("documents")],
      ["Embedded", some("embedded") && `${some("embedded")} passages`],
      ["Deleted", some("deleted")],
      ["Failed", some("failed")],
    ]),
  ];
}

/** The run in progress, as `Progress.to_json()` describes it. */
function pipeline(progress, now) {
  const order = Object.keys(STAGES);
  const channels = Object.entries(progress.channels ?? {}).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const rows = channels.map(([name, { pieces, bytes, capacity }]) => {
    const stage = STAGES[name] ?? name;
    const slow = stage === progress.bottleneck;
    return el(
      "li",
      { class: slow ? "slow" : "" },
      el("span", { class: "stage" }, stage),
      meter(bytes / Math.max(1, capacity), `Waiting for ${stage}`, slow ? "warm" : ""),
      el("span", { class: "dim" }, `${count(pieces, "piece")}, ${size(bytes)} of ${size(capacity)}`),
      slow ? el("span", { class: "badge" }, "bottleneck") : null,
    );
  });
  return el(
    "section",
    { class: "card wide" },
    el("h2", {}, "Running now"),
    el(
      "div",
      { class: "row bigs" },
      number(progress.documents ?? 0, "documents"),
      number(progress.embedded ?? 0, "passages embedded"),
      number(progress.written ?? 0, "points written"),
      number(progress.failed ?? 0, "failed", progress.failed ? "bad" : ""),
    ),
    el(
      "ol",
      { class: "stages" },
      el(
        "li",
        {},
        el("span", { class: "stage" }, "memory"),
        meter(progress.in_flight / Math.max(1, progress.budget), "Memory in flight"),
        el("span", { class: "dim" }, `${size(progress.in_flight)} in flight of a budget of ${size(progress.budget)}`),
      ),
      ...rows,
    ),
    facts([
      ...(progress.live ? following(progress, progress.live, now) : []),
      ["Bottleneck", clean(progress.bottleneck ?? "none", 50)],
      ["Running for", span(progress.seconds)],
      ["Time left", progress.live ? null : progress.eta === null || progress.eta === undefined ? "unknown yet" : span(progress.eta)],
      ["Waits for", progress.waiting ? clean(progress.waiting, 500) : null],
    ]),
  );
}

/** A run that follows its source. */
function following(progress, live, now) {
  const within = ({ documents, p50, p95 }) => (documents ? `${p50.toFixed(2)} s, 95 % within ${p95.toFixed(2)} s` : null);
  const { heard, changed } = progress.freshness ?? {};
  return [
    ["In sync as of", live.in_sync ? ago(live.in_sync, now) : "not yet"],
    ["Last heard", live.heard ? ago(live.heard, now) : null],
    ["Listed whole", live.feed ? null : ago(live.listed, now)],
    ["Next listing", live.next_listing ? `in ${span(live.next_listing - now)}` : null],
    ["Last minute", `${Math.round((progress.minute?.documents ?? 0) * Math.min(60, progress.seconds)).toLocaleString("en")} documents`],
    ["Waiting", `${(progress.queued + live.hints).toLocaleString("en")}${progress.oldest ? `, the oldest for ${span(progress.oldest)}` : ""}`],
    ["Searchable after", heard && within(heard)],
    ["After a change", changed && within(changed)],
    ["To try again", live.retries ? `${count(live.retries, "document")}, the next in ${span((live.next_retry ?? now) - now)}` : null],
    ["Held", live.held ? el("strong", { class: "bad" }, `deletion of ${count(live.held.documents, "document")}: penstock approve lets it go`) : null],
    ["Trouble", live.trouble || live.away ? el("strong", { class: "bad" }, clean([live.trouble, live.away].filter(Boolean).join("; "), 500)) : null],
  ];
}

function limits(settings) {
  if (!settings) return null;
  return card(
    "Limits",
    facts([
      ["Request", size(settings.body)],
      ["Picture", `${(settings.pixels / 1e6).toLocaleString("en")} million pixels`],
      ["Time", span(settings.seconds)],
      ["Rate", settings.rate ? `${settings.rate} a second` : "unlimited"],
      ["At once", `${settings.queue.toLocaleString("en")} searches`],
      ["Addresses", settings.fetch_urls ? "fetched" : "not fetched"],
      ["Keys", settings.keys ? "required" : "not required"],
    ]),
  );
}
