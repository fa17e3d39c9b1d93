// The overview: figures of the service, the engine's steps in the last minute, a card per call.

import { hangUp } from "./actions.js";
import { drawSteps } from "./charts.js";
import { announce, byId, clock, describe, make, ms, nameOf, pageOf, textOf, turnsOf, write } from "./format.js";
import { buildMeters } from "./meters.js";
import { showNodes } from "./nodes.js";
import { figuresOf, showListening, showState, toggleListening } from "./parts.js";

const SPAN_S = 60;
const ANNOUNCE_EVERY_S = 5;
const WAYS = { inbound: "", outbound: "called by us" };
const wayOf = ({ direction, persona }) => [WAYS[direction], persona].filter(Boolean).join(", ");
const cards = new Map();
let steps = [], announced_s = -Infinity;

/** Show a snapshot. */
export function showOverview(snapshot, transcripts) {
  showGauges(snapshot);
  showNodes(snapshot.cluster);
  showSteps(snapshot);
  const on = new Set(snapshot.calls.map((call) => call.call_sid));
  for (const sid of cards.keys()) if (!on.has(sid)) removeCard(sid);
  for (const call of snapshot.calls) showCard(call, transcripts.words(call.call_sid), snapshot.frame_period_ms);
  write(byId("count"), snapshot.calls.length ? String(snapshot.calls.length) : "");
  byId("nobody").hidden = snapshot.calls.length > 0;
}

function showGauges({ slots, free_slots, waiting, calls, processing_ms, lag_ms, frame_period_ms }) {
  const latencies = calls.map((call) => call.latency_ms).filter((latency) => latency !== null);
  write(byId("free"), `${free_slots} of ${slots}`);
  write(byId("waiting"), String(waiting));
  write(byId("latency"), ms(latencies.length ? Math.max(...latencies) : null));
  write(byId("processing"), ms(processing_ms));
  write(byId("lag"), ms(lag_ms));
  byId("lag").className = lag_ms > frame_period_ms / 2 ? "over" : "";
}

function showSteps({ steps: late, now_s, frame_period_ms }) {
  if (steps.length && steps[steps.length - 1][0] > now_s) steps = []; // the service was restarted: another clock
  const last = steps.length ? steps[steps.length - 1][0] : -Infinity;
  steps.push(...late.filter(([at]) => at > last));
  steps = steps.filter(([at]) => at > now_s - SPAN_S);
  drawSteps(byId("steps"), steps, now_s, SPAN_S, frame_period_ms);
  const took = steps.map((step) => step[1]), over = took.filter((one) => one > frame_period_ms).length;
  const text = took.length
    ? `Engine steps in the last minute: at most ${ms(Math.max(...took))} of the frame period of ${frame_period_ms} ms; ${over || "none"} over it.`
    : `No engine step in the last minute: the engine steps every ${frame_period_ms} ms while a call is active.`;
  write(byId("steps-text"), text);
  if (Math.abs(now_s - announced_s) < ANNOUNCE_EVERY_S) return;
  announced_s = now_s;
  byId("steps").setAttribute("aria-label", text);
}

function showCard(call, words, frame_period_ms) {
  const card = cards.get(call.call_sid) ?? addCard(call);
  card.call = call;
  showState(card.state, call.state === "active" ? "" : call.state);
  write(card.clock, clock(call.for_s));
  card.setLevels(call.caller_dbfs, call.moshi_dbfs);
  describe(card.figures, figuresOf(call, frame_period_ms));
  if (card.shown !== words.length) {
    card.shown = words.length;
    card.text.replaceChildren(...turnsOf(words.slice(-60)).map((turn) => make("span", { class: turn.speaker }, `${textOf(turn)} `)));
  }
  showListening(card.listen, call.call_sid);
  card.listen.disabled = !["active", "resuming", "ending"].includes(call.state);
  card.hangup.disabled = call.state === "ending";
}

function addCard(call) {
  const root = byId("card").content.cloneNode(true).querySelector("li"), find = (selector) => root.querySelector(selector);
  const number = find(".number"), name = nameOf(call.number);
  number.textContent = name;
  number.href = pageOf(call.call_sid);
  number.setAttribute("aria-label", `${name}, details`);
  find(".way").textContent = wayOf(call);
  const card = { root, state: find(".pill"), clock: find(".clock"), text: find(".text span"), figures: find(".figures"), listen: find(".listen"), hangup: find(".hangup") };
  card.setLevels = buildMeters(find(".meters"), "Caller", "Moshi");
  card.listen.setAttribute("aria-label", `Listen to ${name}`);
  card.hangup.setAttribute("aria-label", `Hang up on ${name}`);
  card.listen.addEventListener("click", () => toggleListening(call.call_sid, showAllListening));
  card.hangup.addEventListener("click", () => hangUp(card.call));
  byId("calls").append(root);
  cards.set(call.call_sid, card);
  announce(`Call with ${name} started`);
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
