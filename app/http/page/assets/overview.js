// The first view: the service in figures, the steps of the last minute, a card for each call.

import { hangUp } from "./actions.js";
import { drawSteps } from "./charts.js";
import { announce, byId, clock, describe, lines, ms, nameOf, write } from "./format.js";
import { buildMeters, figuresOf, showListening, showState, toggleListening } from "./parts.js";

const SPAN_S = 60;
const TELL_EVERY_S = 5;
const WAYS = { inbound: "", outbound: "called by us" };
const cards = new Map();
let steps = [], told_s = -Infinity;

/** Show a snapshot. */
export function showOverview(snapshot, transcripts) {
  showGauges(snapshot);
  showSteps(snapshot);
  const on = new Set(snapshot.calls.map((call) => call.call_sid));
  for (const sid of cards.keys()) if (!on.has(sid)) removeCard(sid);
  for (const call of snapshot.calls) showCard(call, transcripts.pieces(call.call_sid), snapshot.frame_period_ms);
  write(byId("count"), snapshot.calls.length ? String(snapshot.calls.length) : "");
  byId("nobody").hidden = snapshot.calls.length > 0;
}

function showGauges({ slots, free_slots, waiting, calls, processing_ms, lag_ms, frame_period_ms }) {
  const delays = calls.map((call) => call.latency_ms).filter((delay) => delay !== null);
  write(byId("free"), `${free_slots} of ${slots}`);
  write(byId("waiting"), String(waiting));
  write(byId("delay"), ms(delays.length ? Math.max(...delays) : null));
  write(byId("processing"), ms(processing_ms));
  write(byId("lag"), ms(lag_ms));
  byId("lag").className = lag_ms > frame_period_ms / 2 ? "over" : "";
}

function showSteps({ steps: late, now_s, frame_period_ms }) {
  if (steps.length && steps[steps.length - 1][0] > now_s) steps = []; // another machine's clock: a new service
  const last = steps.length ? steps[steps.length - 1][0] : -Infinity;
  steps.push(...late.filter(([at]) => at > last));
  steps = steps.filter(([at]) => at > now_s - SPAN_S);
  drawSteps(byId("steps"), steps, now_s, SPAN_S, frame_period_ms);
  const took = steps.map((step) => step[1]), over = took.filter((one) => one > frame_period_ms).length;
  const text = took.length
    ? `Steps of the last minute: worst ${ms(Math.max(...took))}, of ${frame_period_ms} ms that each may take; ${over || "none"} took longer.`
    : `No step in the last minute: there are steps while a call is on, one every ${frame_period_ms} ms.`;
  write(byId("steps-told"), text);
  if (Math.abs(now_s - told_s) < TELL_EVERY_S) return;
  told_s = now_s;
  byId("steps").setAttribute("aria-label", text);
}

function showCard(call, pieces, frame_period_ms) {
  const card = cards.get(call.call_sid) ?? addCard(call);
  card.call = call;
  showState(card.state, call.state === "on" ? "" : call.state);
  write(card.clock, clock(call.for_s));
  card.setLevels(call.caller_dbfs, call.moshi_dbfs);
  describe(card.figures, figuresOf(call, frame_period_ms));
  write(card.text, lines(pieces.slice(-80)).map(([, text]) => text).join(" … "));
  showListening(card.listen, call.call_sid);
  card.listen.disabled = !(call.state === "on" || call.state === "ending");
  card.hangup.disabled = call.state === "ending";
}

function addCard(call) {
  const root = byId("card").content.cloneNode(true).querySelector("li"), find = (selector) => root.querySelector(selector);
  const number = find(".number"), name = nameOf(call.number);
  number.textContent = name;
  number.href = `#/call/${encodeURIComponent(call.call_sid)}`;
  number.setAttribute("aria-label", `${name}, details`);
  find(".way").textContent = WAYS[call.direction];
  const card = { root, state: find(".pill"), clock: find(".clock"), text: find(".text span"), figures: find(".figures"), listen: find(".listen"), hangup: find(".hangup") };
  card.setLevels = buildMeters(find(".meters"));
  card.listen.setAttribute("aria-label", `Listen to ${name}`);
  card.hangup.setAttribute("aria-label", `Hang up on ${name}`);
  card.listen.addEventListener("click", () => toggleListening(call.call_sid, showAllListening));
  card.hangup.addEventListener("click", () => hangUp(card.call));
  byId("calls").append(root);
  cards.set(call.call_sid, card);
  announce(`Call with ${name} has begun`);
  return card;
}

function removeCard(sid) {
  const { root, call } = cards.get(sid);
  const hadFocus = root.contains(document.activeElement);
  root.remove();
  cards.delete(sid);
  if (hadFocus) byId("main").focus();
  announce(`Call with ${nameOf(call.number)} is over`);
}

function showAllListening() {
  for (const [sid, card] of cards) showListening(card.listen, sid);
}
