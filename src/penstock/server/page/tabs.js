// The two tabs, search and status. The status is fetched again and again while it is in sight.

import { ApiError, requestJson } from "./api.js";
import { $, el } from "./dom.js";
import { askForKey } from "./messages.js";
import { search } from "./search.js";
import { learn } from "./session.js";
import { renderStatus } from "./status.js";

const POLL_MS = 3000;

let timer = 0;

export function showTab(name) {
  const status = name === "status";
  $("search").hidden = status;
  $("status").hidden = !status;
  $("skip").hidden = status;
  for (const one of ["search", "status"]) $(`tab-${one}`).toggleAttribute("aria-current", one === name);
  $(`tab-${name}`).setAttribute("aria-current", "page");
  clearTimeout(timer);
  if (status) fetchStatus();
}

export async function fetchStatus() {
  clearTimeout(timer);
  if (document.hidden) return undefined; // continued when the page is visible again
  try {
    const status = await requestJson("v1/status");
    const changed = learn(status);
    $("status-body").replaceChildren(renderStatus(status));
    if (changed && !$("search").hidden) search();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) {
      const from = $("status").hidden ? "search" : "status";
      showTab("search");
      return askForKey(() => (from === "status" ? showTab(from) : fetchStatus()));
    }
    $("status-body").replaceChildren(el("p", { class: "wrong", role: "alert" }, error.message));
  }
  if (!$("status").hidden) timer = setTimeout(fetchStatus, POLL_MS);
  return undefined;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !$("status").hidden) fetchStatus();
});
