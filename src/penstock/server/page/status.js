// How things are: the index, its documents, and the run that is going on.

import { clean, count, el } from "./dom.js";

const STATES = { done: "in the index", open: "half done", failed: "failing", skipped: "of no known type" };
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

/** All of /v1/status. `now` is in seconds. */
export function render(told, now = Date.now() / 1000) {
  return el(
    "div",
    { class: "cards" },
    told.trouble ? el("p", { class: "wrong whole", role: "alert" }, `The index has moved and could not be followed: ${clean(told.trouble, 1000)}`) : null,
    told.pipeline ? pipeline(told.pipeline) : null,
    index(told, now),
    ...ledger(told.ledger, now),
    limits(told.limits),
  );
}

function index(told, now) {
  const model = told.model;
  return card(
    "Index",
    told.points === null ? el("p", { class: "wrong" }, "The index cannot be asked at the moment.") : number(told.points, told.points === 1 ? "point" : "points"),
    facts([
      ["Place", clean(told.index, 2000)],
      ["Model", clean(model.model, 300)],
      ["Dimensions", model.dim ? model.dim.toLocaleString("en") : null],
      ["Searched by", model.images ? "words and pictures" : "words"],
      ["Opened", ago(told.opened, now)],
      ["Penstock", clean(told.version, 50)],
    ]),
  );
}

function ledger(told, now) {
  if (!told) return [card("Documents", el("p", { class: "dim" }, "This server was not told where the ledger is, so it knows the points alone."))];
  if (told.error) return [card("Documents", el("p", { class: "wrong" }, clean(told.error, 1000)))];
  const documents = card(
    "Documents",
    number(told.documents, told.documents === 1 ? "document" : "documents"),
    states(told),
    facts([
      ["Passages", told.chunks.toLocaleString("en")],
      ["Acknowledged", `${told.acknowledged.toLocaleString("en")} of them`],
      ["Failures", told.failures ? el("strong", { class: "bad" }, count(told.failures, "failure")) : "none"],
    ]),
    told.failing?.length ? el("ul", { class: "failing" }, ...told.failing.map(failure)) : null,
    told.failures ? el("p", { class: "dim" }, el("code", {}, "penstock failures"), " lists them, ", el("code", {}, "penstock retry"), " tries them again.") : null,
  );
  return [documents, card("Last run", ...run(told.runs?.[0], now))];
}

function failure({ uri, stage, cause }) {
  return el("li", {}, el("strong", {}, clean(uri, 300)), ` ${clean(stage, 40)}: ${clean(cause, 300)}`);
}

function states(told) {
  const all = Math.max(1, told.documents);
  const parts = Object.keys(STATES).filter((name) => told[name]);
  const bar = el("div", { class: "states", "aria-hidden": "true" });
  for (const name of parts) {
    const part = el("span", { class: name });
    part.style.flexGrow = told[name] / all;
    bar.append(part);
  }
  const entry = (name) => el("li", { class: name }, `${told[name].toLocaleString("en")} ${STATES[name]}`);
  return el("div", {}, bar, el("ul", { class: "legend" }, ...parts.map(entry)));
}

function run(last, now) {
  if (!last) return [el("p", { class: "dim" }, "Nothing has been run yet.")];
  const counts = last.report?.counts ?? {};
  const ended = last.ended ?? null;
  const some = (name) => (counts[name] === undefined ? null : counts[name].toLocaleString("en"));
  return [
    el("p", { class: "big" }, el("strong", {}, ended ? span(now - ended) : "now"), el("span", {}, ended ? "since the last run ended" : "a run goes on")),
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

/** A run that is going on, as `Progress.to_json()` tells it. */
function pipeline(told) {
  const order = Object.keys(STAGES);
  const channels = Object.entries(told.channels ?? {}).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const rows = channels.map(([name, { pieces, bytes, capacity }]) => {
    const stage = STAGES[name] ?? name;
    const slow = stage === told.bottleneck;
    return el(
      "li",
      { class: slow ? "slow" : "" },
      el("span", { class: "stage" }, stage),
      meter(bytes / Math.max(1, capacity), `Waiting for ${stage}`, slow ? "warm" : ""),
      el("span", { class: "dim" }, `${count(pieces, "piece")}, ${size(bytes)} of ${size(capacity)}`),
      slow ? el("span", { class: "tag" }, "bottleneck") : null,
    );
  });
  return el(
    "section",
    { class: "card wide" },
    el("h2", {}, "Running now"),
    el(
      "div",
      { class: "row bigs" },
      number(told.documents ?? 0, "documents"),
      number(told.embedded ?? 0, "passages embedded"),
      number(told.written ?? 0, "points written"),
      number(told.failed ?? 0, "failed", told.failed ? "bad" : ""),
    ),
    el(
      "ol",
      { class: "stages" },
      el(
        "li",
        {},
        el("span", { class: "stage" }, "memory"),
        meter(told.in_flight / Math.max(1, told.budget), "Memory in flight"),
        el("span", { class: "dim" }, `${size(told.in_flight)} in flight of a budget of ${size(told.budget)}`),
      ),
      ...rows,
    ),
    facts([
      ["Bottleneck", clean(told.bottleneck ?? "none", 50)],
      ["Running for", span(told.seconds)],
      ["To go", told.eta === null || told.eta === undefined ? "not known yet" : span(told.eta)],
      ["Waits for", told.waiting ? clean(told.waiting, 500) : null],
    ]),
  );
}

function limits(told) {
  if (!told) return null;
  return card(
    "Limits",
    facts([
      ["Request", size(told.body)],
      ["Picture", `${(told.pixels / 1e6).toLocaleString("en")} million pixels`],
      ["Time", span(told.seconds)],
      ["Rate", told.rate ? `${told.rate} a second` : "as many as you like"],
      ["At once", `${told.queue.toLocaleString("en")} searches`],
      ["Addresses", told.fetch_urls ? "fetched" : "not fetched"],
      ["Keys", told.keys ? "wanted" : "not wanted"],
    ]),
  );
}
