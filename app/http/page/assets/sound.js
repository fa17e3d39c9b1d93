// A call's recording: its waveform, and a player that the transcript can steer.

import { drawWave } from "./charts.js";
import { ask, byId, clock } from "./format.js";

const BUCKETS = 600;
let peaks = null, starts_s = 0, moved = () => {};
const player = byId("sound"), wave = byId("wave");

/**
 * Look for a recording of a call by its name, "" for the last one; `start_s` is where it begins on the transcript's
 * clock. False while it is unfinished.
 */
export async function openSound(sid, name, start_s, whenMoved) {
  const path = `api/calls/${encodeURIComponent(sid)}`, which = `name=${encodeURIComponent(name)}`;
  const found = await ask(`${path}/peaks?buckets=${BUCKETS}&${which}`);
  if (found.live) return false;
  peaks = { seconds: found.seconds, caller: pairs(found.caller), moshi: pairs(found.moshi) };
  [starts_s, moved] = [start_s, whenMoved];
  const source = `${path}/recording?${which}`;
  if (!player.src.endsWith(source)) player.src = source;
  byId("sound-told").textContent = `${clock(found.seconds)} long; caller left, Moshi right.`;
  player.hidden = wave.hidden = false;
  draw();
  return true;
}

/** Stop and put away what is there. */
export function closeSound() {
  peaks = null;
  player.pause();
  player.removeAttribute("src");
  player.load();
  player.hidden = wave.hidden = true;
}

export const hasSound = () => peaks !== null;

/** Play from a moment on the transcript's clock. */
export function playFrom(at_s) {
  player.currentTime = Math.max(0, at_s - starts_s);
  play();
}

function play() {
  player.play().catch(() => {}); // put away, or not to be played: the player itself shows it
}

function pairs({ min, max }) {
  return min.map((low, place) => [low, max[place]]);
}

function draw() {
  if (peaks) drawWave(wave, peaks, peaks.seconds ? player.currentTime / peaks.seconds : 0);
}

for (const event of ["timeupdate", "seeked", "loadedmetadata"]) {
  player.addEventListener(event, () => {
    draw();
    moved(player.currentTime + starts_s);
  });
}
player.addEventListener("error", () => {
  if (!peaks || !player.currentTime) return;
  player.load(); // Chromium cannot seek in FLAC of less than five seconds: from the beginning, then
  play();
});
wave.addEventListener("click", (event) => {
  if (peaks) player.currentTime = (event.offsetX / wave.clientWidth) * peaks.seconds;
});
new ResizeObserver(draw).observe(wave);
