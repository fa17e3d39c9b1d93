// Level meters.

import { make } from "./format.js";

const SILENT_DBFS = -60;

/** Fill an empty box with a meter for each name; returns the function that sets them, in dBFS. */
export function buildMeters(box, ...names) {
  const bars = names.map((name) => {
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
