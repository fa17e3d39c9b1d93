// Parts of a card and of a call's page: figures, state, listening.

import { listen, listenedTo, stop } from "./listen.js";
import { ms, showPill, write } from "./format.js";

const KINDS = { ringing: "warn", connecting: "warn", active: "good", resuming: "warn", ending: "warn", ended: "" };

/** Return the figures of an active call. */
export function figuresOf(call, frame_period_ms) {
  const step = call.stages_ms.step;
  const lost = call.overruns + call.dropped;
  return {
    Latency: ms(call.latency_ms),
    "Playout buffer": ms(call.buffered_ms),
    "Engine step": [ms(step), step > frame_period_ms ? "over" : ""],
    "Late, dropped": [`${call.overruns}, ${call.dropped}`, lost ? "over" : ""],
  };
}

export function showState(pill, state) {
  showPill(pill, state, KINDS[state] ?? "");
}

/** Start or stop listening to a call; `changed` is called when that changes. */
export function toggleListening(sid, changed) {
  if (listenedTo() === sid) stop();
  else listen(sid, changed);
  changed();
}

/** Show on a button whether this call is listened to. */
export function showListening(button, sid) {
  const on = listenedTo() === sid;
  button.setAttribute("aria-pressed", on);
  write(button, on ? "Listening" : "Listen");
}
