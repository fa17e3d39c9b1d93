// One call: while it is on, and after it.

import { hangUp } from "./actions.js";
import { drawLine } from "./charts.js";
import { announce, ask, byId, clock, describe, fineClock, make, ms, nameOf, partyOf, showLines, showMessage, SPEAKERS, textOf, turnsOf, when, write } from "./format.js";
import { buildMeters } from "./meters.js";
import { figuresOf, showListening, showState, toggleListening } from "./parts.js";
import { endOf, howLong } from "./recent.js";
import { closeSay, openSay, showSay } from "./say.js";
import { closeSound, hasSound, openSound, playFrom } from "./sound.js";

const DETAIL_EVERY_S = 5;
const SOUND_AGAIN_MS = 1500;
const LOG_AGAIN_MS = [1000, 2000, 4000, 8000];
const setLevels = buildMeters(byId("call-live").querySelector(".meters"), "Caller", "Moshi");
let sid = "", wanted_s = null, call = null, wasOn = false, requested_s = -Infinity, latencies_ms = [], shown = -1, visit = 0;

/** Show the page of a call, with what was said at `at_s` in view. */
export function openCall(wanted, at_s = null) {
  closeCall();
  sid = wanted;
  wanted_s = at_s;
  write(byId("h-call"), "Call");
  showState(byId("call-state"), "");
  describe(byId("facts"), { SID: sid });
  byId("h-call").focus();
  openSay(sid);
  showDetail(sid);
  showLog(visit);
}

/** Leave the page. */
export function closeCall() {
  visit += 1;
  [sid, call, wasOn, requested_s, latencies_ms, shown] = ["", null, false, -Infinity, [], -1];
  closeSound();
  closeSay();
  for (const id of ["call-live", "call-wrong", "call-listen", "call-hangup", "vtt"]) byId(id).hidden = true;
  for (const id of ["happened", "call-clock", "sound-text", "latencies-text", "streams"]) byId(id).replaceChildren();
  byId("latencies").hidden = true;
  byId("said").firstElementChild.replaceChildren();
}

/** Show a snapshot. */
export function showCall(snapshot, transcripts) {
  call = snapshot.calls.find((one) => one.call_sid === sid) ?? null;
  for (const id of ["call-live", "call-listen", "call-hangup"]) byId(id).hidden = !call;
  if (call) {
    showLive(snapshot);
    if (transcripts.isTorn(sid) || snapshot.now_s - requested_s > DETAIL_EVERY_S) {
      requested_s = snapshot.now_s;
      showDetail(sid, transcripts);
    }
    const words = transcripts.words(sid);
    if (words.length !== shown) showSaid(words);
    shown = words.length;
  } else if (wasOn) {
    announce("The call is over");
    showState(byId("call-state"), "ended");
    for (const wait_ms of [0, ...LOG_AGAIN_MS]) setTimeout(showDetail, wait_ms, sid); // the caller's last words are late
    showLog(visit);
  }
  wasOn = call !== null;
}

function showLive({ frame_period_ms }) {
  write(byId("h-call"), nameOf(call.number));
  showState(byId("call-state"), call.state);
  write(byId("call-clock"), clock(call.for_s));
  setLevels(call.caller_dbfs, call.moshi_dbfs);
  describe(byId("call-live").querySelector(".figures"), figuresOf(call, frame_period_ms));
  showSay(call);
  showListening(byId("call-listen"), sid);
  byId("call-listen").disabled = !["active", "resuming", "ending"].includes(call.state);
  byId("call-hangup").disabled = call.state === "ending";
  write(byId("sound-text"), "If calls are recorded, this one can be heard here when it is over.");
}

/** Request the whole transcript and the latencies from the running service. */
async function showDetail(wanted, transcripts) {
  try {
    const known = transcripts?.known(wanted) ?? 0;
    const detail = await ask(`api/live/${encodeURIComponent(wanted)}?after=${known}`);
    if (wanted !== sid) return;
    latencies_ms = detail.latencies_ms;
    transcripts?.fill(sid, detail.transcript);
    write(byId("h-call"), nameOf(detail.number));
    if (!known) showSaid(detail.transcript.words);
    drawLatencies();
  } catch (error) {
    if (wanted === sid && error.status === 404 && !call) write(byId("latencies-text"), "Known for the last calls of the running service only.");
  }
}

function drawLatencies() {
  byId("latencies").hidden = !latencies_ms.length;
  drawLine(byId("latencies"), latencies_ms);
  const text = latencies_ms.length
    ? `From ${ms(Math.min(...latencies_ms))} to ${ms(Math.max(...latencies_ms))}, estimated; of the whole call or its last five minutes.`
    : "No audio of Moshi has been played yet.";
  write(byId("latencies-text"), text);
  byId("latencies").setAttribute("aria-label", text);
}

/** Request the call from the call log; one that has just ended is written a little later. */
async function showLog(now, tries = 0) {
  const again = () => tries < LOG_AGAIN_MS.length && setTimeout(() => visit === now && showLog(now, tries + 1), LOG_AGAIN_MS[tries]);
  try {
    const kept = await ask(`api/history/${encodeURIComponent(sid)}`);
    if (visit !== now) return;
    showMessage(byId("call-wrong"), "");
    showKept(kept);
    if (kept.ended_at) await showSound(kept, now);
    else if (!call) again();
  } catch (error) {
    if (visit !== now || call) return;
    again();
    showMessage(byId("call-wrong"), `The call log: ${error.message}.`);
  }
}

function showKept(kept) {
  write(byId("h-call"), partyOf(kept));
  if (kept.ended_at && !call) {
    showState(byId("call-state"), "ended");
    write(byId("call-clock"), howLong(kept));
    showSaid(kept.transcript.map(({ speaker, text, start_s, stop_s }) => [speaker, text, start_s, stop_s]));
    showVtt(kept);
    showWanted();
  }
  byId("happened").replaceChildren(...kept.events.map((event) =>
    make("li", {}, moment(event.at_s, fineClock), make("span", {}, event.detail ? `${event.kind}: ${event.detail}` : event.kind))));
  describe(byId("facts"), factsOf(kept));
}

function factsOf(kept) {
  const three = (name) => [50, 95, 99].map((percent) => ms(kept[`${name}_p${percent}_ms`])).join(", ");
  const facts = {
    SID: kept.call_sid,
    "From, to": `${nameOf(kept.caller_masked)}, ${nameOf(kept.called_masked)} (${kept.direction || "inbound"})`,
    When: when(kept.reserved_at),
    End: kept.ended_by ? `${endOf(kept)}, by the ${kept.ended_by}` : endOf(kept),
    Model: `${kept.checkpoint}, slot ${kept.slot}`,
    Persona: kept.persona || "–",
    "First audio": ms(kept.first_sound_ms),
    "Mouth-to-ear latency": `${three("latency")} (p50, p95, p99)`,
    "Processing a frame": `${three("processing")} (p50, p95, p99)`,
    ...Object.fromEntries(Object.entries(kept.counters).map(([name, count]) => [name.replaceAll("_", " "), String(count)])),
  };
  return Object.fromEntries(Object.entries(facts).filter(([, text]) => !text.startsWith("–")));
}

/** Show a recording of a call: that of `stream`, or the last one. */
async function showSound(kept, now, stream = kept.streams?.findLast((one) => one.recording)) {
  const first = kept.events.find((event) => event.kind === "stream started");
  const start_s = stream?.started_at ? (Date.parse(stream.started_at) - Date.parse(kept.reserved_at)) / 1000 : first?.at_s ?? 0;
  showStreams(kept, now, stream);
  try {
    const whole = await openSound(kept.call_sid, stream?.recording ?? "", start_s, showPlace);
    if (visit !== now) closeSound();
    else if (whole) redoTimes();
    else {
      write(byId("sound-text"), "The recording is being finished.");
      setTimeout(() => visit === now && showSound(kept, now, stream), SOUND_AGAIN_MS);
    }
  } catch (error) {
    if (visit === now) write(byId("sound-text"), error.status === 404 ? notRecorded(kept) : `Cannot be played: ${error.message}.`);
  }
}

/** List the streams of a call that came back, each with its recording. */
function showStreams(kept, now, shown) {
  const streams = kept.streams ?? [];
  const rows = streams.length < 2 ? [] : streams.map((stream) => {
    const text = `Stream ${stream.number}, ${when(stream.reserved_at)}: ${endOf(stream)}`;
    if (!stream.recording) return make("li", {}, `${text}. ${notRecorded(stream)}`);
    const button = make("button", { type: "button", "aria-pressed": String(stream === shown) }, "Recording");
    button.addEventListener("click", () => showSound(kept, now, stream));
    return make("li", {}, `${text} `, button);
  });
  byId("streams").replaceChildren(...rows);
}

const notRecorded = ({ recording_fault }) => (recording_fault ? `Not recorded: ${recording_fault}.` : "Not recorded.");

/** A time, as a button where there is a recording to play. */
function moment(at_s, written = clock) {
  const text = written(at_s);
  if (!hasSound()) return make("time", { "data-at": at_s }, text);
  const button = make("button", { type: "button", "data-at": at_s, "aria-label": `Play from ${text}` }, text);
  button.addEventListener("click", () => playFrom(at_s));
  return button;
}

function redoTimes() {
  for (const time of byId("call").querySelectorAll("time[data-at], button[data-at]")) {
    time.replaceWith(moment(Number(time.dataset.at), byId("happened").contains(time) ? fineClock : clock));
  }
  byId("said").classList.toggle("heard", hasSound());
}

/** Show the transcript, reusing the turns that are there. */
function showSaid(words) {
  const turns = turnsOf(words);
  showLines(byId("said"), turns, (line, turn) => {
    const known = `${turn.speaker} ${turn.words[0][2]} ${textOf(turn)}`;
    if (line.dataset.known === known) return;
    line.dataset.known = known;
    line.className = turn.speaker;
    const said = turn.words.flatMap(([, text, start_s]) => [make("span", { "data-word": start_s }, text), " "]);
    line.replaceChildren(moment(turn.words[0][2]), make("b", {}, SPEAKERS[turn.speaker]), make("p", {}, ...said));
  }, call !== null);
  byId("said-nothing").hidden = turns.length > 0;
  write(byId("said-nothing"), call ? "Nothing yet." : "Nothing.");
}

function showVtt(kept) {
  byId("vtt").hidden = !kept.transcript.length;
  byId("vtt").href = `api/history/${encodeURIComponent(kept.call_sid)}/transcript.vtt`;
}

/** Bring what a search has found into view, once. */
function showWanted() {
  if (wanted_s === null) return;
  showPlace(wanted_s);
  byId("said").querySelector("li[aria-current]")?.scrollIntoView({ block: "center" });
  wanted_s = null;
}

/** Mark the turn and the words that are being played. */
function showPlace(at_s) {
  const begins = (line) => Number(line.querySelector("[data-at]").dataset.at);
  mark([...byId("said").querySelectorAll("li")].findLast((line) => begins(line) <= at_s + 0.001), "li");
  const words = [...byId("said").querySelectorAll("[data-word]")].filter((word) => Number(word.dataset.word) <= at_s + 0.001);
  mark(words.reduce((last, word) => (!last || Number(word.dataset.word) >= Number(last.dataset.word) ? word : last), null), "[data-word]");
}

function mark(current, kind) {
  for (const one of byId("said").querySelectorAll(`${kind}[aria-current]`)) if (one !== current) one.removeAttribute("aria-current");
  current?.setAttribute("aria-current", "true");
}

byId("said").addEventListener("click", ({ target }) => {
  if (target.dataset.word && hasSound()) playFrom(Number(target.dataset.word));
});
byId("call-listen").addEventListener("click", () => toggleListening(sid, () => showListening(byId("call-listen"), sid)));
byId("call-hangup").addEventListener("click", () => call && hangUp(call));
new ResizeObserver(() => latencies_ms.length && drawLine(byId("latencies"), latencies_ms)).observe(byId("latencies"));
