// The page: its two views, and the snapshots that they show.

import { drain } from "./actions.js";
import { closeCall, openCall, showCall } from "./callpage.js";
import { follow } from "./feed.js";
import { announce, byId, showMessage, showPill, write } from "./format.js";
import { showOverview } from "./overview.js";
import { showMore, showRecent } from "./recent.js";
import "./search.js";
import { Transcripts } from "./transcripts.js";

const LOG_LAGS_MS = [800, 4000];
const RECENT_EVERY_MS = 60000;
const CONNECTION = {
  live: "",
  polling: "",
  lost: "The service does not answer. The page shows its last state and keeps trying.",
  refused: "This session has expired. Reload this page to sign in.",
};
const transcripts = new Transcripts();
let on = new Set(), said = "", latest = null;

function onSnapshot(snapshot) {
  latest = snapshot;
  const now = new Set(snapshot.calls.map((call) => call.call_sid));
  snapshot.calls.forEach((call) => transcripts.add(call));
  transcripts.keepOnly(now);
  if ([...on].some((sid) => !now.has(sid))) LOG_LAGS_MS.forEach((lag) => setTimeout(recent, lag));
  on = now;
  showService(snapshot);
  if (byId("call").hidden) showOverview(snapshot, transcripts);
  else showCall(snapshot, transcripts);
  document.title = `${now.size ? `(${now.size}) ` : ""}Moshi on the phone`;
}

function showService({ ready, draining, free_slots, model, calls, pipeline }) {
  const full = !free_slots && calls.length && pipeline === "ready";
  const [text, kind] = draining ? ["draining", "warn"] : ready ? ["ready", "good"] : !full ? ["not ready", "bad"] : ["all slots taken", "warn"];
  showPill(byId("state"), text, kind);
  byId("state").title = `Pipeline: ${pipeline}`;
  write(byId("model"), model);
  byId("drain").disabled = draining;
  if (said && said !== text) announce(`The service is ${text}`);
  said = text;
}

function onState(connection) {
  showMessage(byId("lost"), CONNECTION[connection]);
  if (connection === "lost" || connection === "refused") {
    showPill(byId("state"), "no connection", "bad");
    byId("drain").disabled = true;
  } else recent();
}

function route() {
  if (location.hash && !location.hash.startsWith("#/")) return; // the link past the header
  const wanted = /^#\/call\/([^/]+)(?:\/([\d.]+))?$/.exec(location.hash);
  byId("overview").hidden = Boolean(wanted);
  byId("call").hidden = !wanted;
  if (wanted) openCall(decodeURIComponent(wanted[1]), wanted[2] ? Number(wanted[2]) : null);
  else {
    closeCall();
    recent();
  }
  if (latest) onSnapshot(latest);
  window.scrollTo(0, 0);
}

function recent() {
  return showRecent(on);
}

/** Add the address to the commands unless it is the default one. */
function nameService() {
  if (location.port === "5001") return;
  for (const code of document.querySelectorAll(".simulate")) code.textContent = code.textContent.replace("simulate", `simulate ${location.origin}`);
}

byId("more").addEventListener("click", () => showMore(on));
byId("drain").addEventListener("click", () => drain(on.size));
window.addEventListener("hashchange", route);
setInterval(() => document.hidden || byId("call").hidden === false || recent(), RECENT_EVERY_MS);
nameService();
route();
follow(onSnapshot, onState);
