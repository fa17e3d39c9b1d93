// What a card and a call's page show alike: two meters, four figures, the state.

import { listen, heard, stop } from "./listen.js";
import { make, ms, write } from "./format.js";

const SILENT_DBFS = -60;
const KINDS = { ringing: "warn", connecting: "warn", on: "good", ending: "warn", over: "" };

/** Fill an empty box with meters; returns how to set them, in dBFS. */
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

/** Return the figures of a call that is on. */
export function figuresOf(call, frame_period_ms) {
  const step = call.stages_ms.step;
  const lost = call.overruns + call.dropped;
  return {
    "Mouth to ear": ms(call.latency_ms),
    Lead: ms(call.buffered_ms),
    "Last step": [ms(step), step > frame_period_ms ? "over" : ""],
    "Late, lost": [`${call.overruns}, ${call.dropped}`, lost ? "over" : ""],
  };
}

export function showState(pill, state) {
  write(pill, state);
  pill.className = `pill ${KINDS[state] ?? ""}`;
}

/** Begin or stop to hear a call; `changed` is called whenever what is heard has changed. */
export function toggleListening(sid, changed) {
  if (heard() === sid) stop();
  else listen(sid, changed);
  changed();
}

/** Show on a button whether this call is heard. */
export function showListening(button, sid) {
  const on = heard() === sid;
  button.setAttribute("aria-pressed", on);
  write(button, on ? "Listening" : "Listen");
}
