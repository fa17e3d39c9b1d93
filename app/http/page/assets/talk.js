// The talk page: one call with Moshi by the browser's microphone.

import { insecure, openAudio } from "./audio.js";
import { dial } from "./chat.js";
import { ask, byId, clock, describe, make, ms, showLines, showMessage, showPill, turnsOf, write } from "./format.js";
import { buildMeters } from "./meters.js";

const MEASURE_EVERY_MS = 2000;
const ROUND_TRIPS = 5;
const KEPT = 10; // reports of the buffer, a second
const STATES = {
  ready: ["ready", ""],
  microphone: ["waiting for the microphone", "warn"],
  calling: ["calling", "warn"],
  waiting: ["all slots are taken: waiting", "warn"],
  live: ["active", "good"],
  lost: ["connection lost: calling again", "warn"],
  ended: ["ended", ""],
  failed: ["no call", "bad"],
};
const token = new URLSearchParams(location.search).get("token");
const persona = byId("persona"), callButton = byId("call"), muteButton = byId("mute");
const setLevels = buildMeters(byId("live").querySelector(".meters"), "You", "Moshi");
let call = null; // of the call that is on: audio, chat, sid, times, parts of the latency

function showState(name) {
  showPill(byId("state"), ...STATES[name]);
}

function showWrong(words) {
  showMessage(byId("wrong"), words);
}

function showControls() {
  write(callButton, call ? "Hang up" : "Call Moshi");
  callButton.className = call ? "danger" : "primary";
  persona.disabled = call !== null;
  byId("hint").hidden = call !== null;
  muteButton.hidden = byId("live").hidden = !call?.audio;
}

async function begin() {
  const mine = (call = { pieces: [], buffers: [], roundTrips: [], service_ms: null, muted: false });
  showWrong("");
  showState("microphone");
  showControls();
  showSaid();
  showMuted();
  try {
    const audio = await openAudio((message) => mine.chat?.send(message), (report) => showReport(mine, report));
    if (call !== mine) return audio.close();
    mine.audio = audio;
  } catch (error) {
    return end(mine, error.message);
  }
  mine.lock = navigator.wakeLock?.request("screen").catch(() => null);
  showState("calling");
  showControls();
  mine.chat = dial(queryOf({ format: "pcm", persona: persona.value }), {
    state: (name) => onState(mine, name),
    audio: (message) => mine.audio.play(message),
    text: (piece) => onText(mine, piece),
    metadata: (facts) => onMetadata(mine, facts),
    ended: (words) => end(mine, words),
  });
}

const queryOf = (fields) => new URLSearchParams(Object.entries({ ...fields, token }).filter(([, value]) => value));

function onState(mine, name) {
  showState(name);
  mine.audio.begin();
  mine.sid = null;
  if (name === "live") mine.live_ms ??= performance.now();
}

function onText(mine, piece) {
  const at_s = (performance.now() - mine.live_ms) / 1000;
  mine.pieces.push(["moshi", piece, at_s, at_s]);
  showSaid(mine.pieces);
}

function onMetadata(mine, { call_sid, recorded }) {
  mine.sid = call_sid;
  write(byId("recorded"), recorded ? "This call is recorded." : "");
  measure(mine, call_sid);
}

function end(mine, words) {
  if (call !== mine) return;
  call = null;
  mine.audio?.close();
  mine.lock?.then((lock) => lock?.release());
  showState(mine.live_ms ? "ended" : words ? "failed" : "ready");
  showWrong(words);
  write(byId("recorded"), byId("recorded").dataset.before);
  showControls();
}

/** Levels ten times a second, the clock, the latency. */
function showReport(mine, { caller_dbfs, moshi_dbfs, buffer_ms, underruns, dropped_ms }) {
  if (call !== mine) return;
  setLevels(caller_dbfs, moshi_dbfs);
  if (mine.live_ms) write(byId("clock"), clock((performance.now() - mine.live_ms) / 1000));
  if (buffer_ms !== null) mine.buffers = [...mine.buffers, buffer_ms].slice(-KEPT);
  showLatency(mine, `${underruns} gaps, ${Math.round(dropped_ms)} ms dropped`);
}

function showLatency(mine, gaps) {
  const parts = {
    Service: mine.service_ms,
    "Round trip": mine.roundTrips.length ? Math.min(...mine.roundTrips) : null,
    "Playback buffer": mine.buffers.length ? mine.buffers.reduce((sum, one) => sum + one) / mine.buffers.length : null,
    "Sound device": mine.audio?.device_ms() ?? null,
  };
  const known = Object.values(parts), whole = known.includes(null) ? null : known.reduce((sum, one) => sum + one);
  write(byId("latency"), ms(whole));
  describe(byId("parts"), { ...Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, ms(part)])), Playback: gaps });
}

/** Request the service's part, and time the request without the time that a connection takes. */
async function measure(mine, sid) {
  if (call !== mine || mine.sid !== sid) return;
  const url = new URL(`talk/${sid}/latency?${queryOf({})}`, document.baseURI).href;
  try {
    mine.service_ms = (await ask(url)).latency_ms;
    const timing = performance.getEntriesByName(url).at(-1);
    performance.clearResourceTimings();
    if (timing) mine.roundTrips = [...mine.roundTrips, timing.responseStart - timing.requestStart].slice(-ROUND_TRIPS);
  } catch {
    mine.service_ms = null;
  }
  setTimeout(measure, MEASURE_EVERY_MS, mine, sid);
}

/** Show pieces of words; a line ends in a pause. */
function showSaid(pieces = []) {
  const turns = turnsOf(pieces).map(({ words }) => [words[0][2], words.map(([, piece]) => piece).join("").trim()]);
  const said = turns.filter(([, text]) => text);
  showLines(byId("said"), said, (line, [at_s, text]) => {
    if (!line.children.length) line.append(make("time", {}, clock(at_s)), make("span"));
    write(line.lastElementChild, text);
  });
  byId("said-nothing").hidden = said.length > 0;
}

function showMuted() {
  muteButton.setAttribute("aria-pressed", call?.muted ?? false);
  write(muteButton, call?.muted ? "Muted" : "Mute");
}

callButton.addEventListener("click", () => {
  if (!call) begin();
  else if (call.chat) call.chat.hangUp();
  else end(call, "");
});
muteButton.addEventListener("click", () => {
  call.muted = !call.muted;
  call.audio.mute(call.muted);
  showMuted();
});
byId("recorded").dataset.before = byId("recorded").textContent;
persona.closest(".field").hidden = persona.options.length < 2;
showControls();
showState("ready");
callButton.disabled = insecure() !== "";  // until now, so that no click is lost
if (callButton.disabled) {
  showWrong(insecure());
  showState("failed");
}
