// Parts of a card and of a call's page: level meters, figures, state.

import { listen, listenedTo, stop } from "./listen.js";
import { make, ms, write } from "./format.js";

const SILENT_DBFS = -60;
const KINDS = { ringing: "warn", connecting: "warn", active: "good", resuming: "warn", ending: "warn", ended: "" };

/** Fill an empty box with two meters; returns the function that sets them, in dBFS. */
export function buildMeters(box) {
  const bars = ["Caller", "Moshi"].map((name) => {
    const bar = make("i");
    const meter = make("div", { class: `meter ${name.toLowerCase()}`, role: "meter", "aria-label": `${name}'s level`, "aria-valuemin": SILENT_DBFS, "aria-valuemax": 0, "aria-valuenow": SILENT_DBFS }, bar);
    box.append(make("span", { "aria-hidden": "true" }, name), meter);
    return { bar, meter };
  });
  return (...levels) => levels.forEach((dbfs, place) => {
    bars[place].bar.style.transform = `scaleX(${Math.max(0, Math.min(1, 1 - dbfs / SILENT_DBFS)).toFixed(3)})`;
    bars[place].meter.setAttribute("aria-valuenow", Math.round(dbfs));
    bars[place].meter.setAttribute("aria-valuetext", `${Math.round(dbfs)} decibels`);
  });
}

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
  write(pill, state);
  pill.className = `pill ${KINDS[state] ?? ""}`;
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
