// Recent calls, from the call log.

import { ask, byId, clock, make, ms, pageOf, partyOf, showMessage, when } from "./format.js";

const AT_FIRST = 20;
const AT_MOST = 500;
let limit = AT_FIRST;

/** Request the last calls and show them, without those that are active. */
export async function showRecent(on) {
  try {
    const calls = await ask(`api/history?limit=${limit}`), over = calls.filter((call) => !on.has(call.call_sid));
    showMessage(byId("recent-wrong"), "");
    byId("recent").hidden = !over.length;
    byId("recent-none").hidden = over.length > 0;
    byId("recent").tBodies[0].replaceChildren(...over.map(row));
    byId("more").hidden = calls.length < limit || limit >= AT_MOST;
  } catch (error) {
    showMessage(byId("recent-wrong"), `Recent calls cannot be shown: ${error.message}.`);
    byId("recent").hidden = !byId("recent").tBodies[0].rows.length;
  }
}

/** Show more calls from now on. */
export function showMore(on) {
  limit = Math.min(AT_MOST, limit * 5);
  return showRecent(on);
}

function row(call) {
  const name = partyOf(call), outbound = call.direction.startsWith("outbound");
  const details = make("a", { href: pageOf(call.call_sid), "aria-label": `${name}, ${when(call.reserved_at)}, details` }, name);
  return make("tr", {},
    make("td", { class: "when" }, when(call.reserved_at)),
    make("td", { class: "with" }, details, outbound ? make("span", { class: "quiet" }, " called by us") : ""),
    make("td", { class: "number long" }, howLong(call)),
    make("td", { class: "end" }, endOf(call)),
    make("td", { class: "number" }, ms(call.latency_p50_ms)),
    make("td", { class: "number" }, call.ended_at ? String(call.counters.underruns ?? 0) : "–"));
}

export function endOf(call) {
  if (!call.ended_at) return "active";
  return call.end_detail ? `${call.end_reason} (${call.end_detail})` : call.end_reason;
}

export function howLong(call) {
  return call.ended_at ? clock((new Date(call.ended_at) - new Date(call.reserved_at)) / 1000) : "–";
}
