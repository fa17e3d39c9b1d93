// A call's recording: waveform and player; the transcript seeks in it.

import { drawWaveform } from "./charts.js";
import { ask, byId, callPath, clock } from "./format.js";

const BUCKETS = 600;
let waveform = null, starts_s = 0, moved = () => {};
const player = byId("sound"), wave = byId("wave");

/**
 * Open a recording of a call by its name, "" for the last one; `start_s` is its start in the transcript's time.
 * Resolves to false while it is unfinished.
 */
export async function openSound(sid, name, start_s, whenMoved) {
  const which = `name=${encodeURIComponent(name)}`, source = callPath(sid, `recording?${which}`);
  const found = await ask(callPath(sid, `waveform?buckets=${BUCKETS}&${which}`));
  if (found.live) return false;
  waveform = { seconds: found.seconds, caller: pairs(found.caller), moshi: pairs(found.moshi) };
  [starts_s, moved] = [start_s, whenMoved];
  if (!player.src.endsWith(source)) player.src = source;
  byId("sound-text").textContent = `${clock(found.seconds)} long; caller left, Moshi right.`;
  player.hidden = wave.hidden = false;
  draw();
  return true;
}

/** Stop and hide the player. */
export function closeSound() {
  waveform = null;
  player.pause();
  player.removeAttribute("src");
  player.load();
  player.hidden = wave.hidden = true;
}

export const hasSound = () => waveform !== null;

/** Play from a moment of the transcript. */
export function playFrom(at_s) {
  player.currentTime = Math.max(0, at_s - starts_s);
  play();
}

function play() {
  player.play().catch(() => {}); // closed, or an error that the player shows
}

function pairs({ min, max }) {
  return min.map((low, place) => [low, max[place]]);
}

function draw() {
  if (waveform) drawWaveform(wave, waveform, waveform.seconds ? player.currentTime / waveform.seconds : 0);
}

for (const event of ["timeupdate", "seeked", "loadedmetadata"]) {
  player.addEventListener(event, () => {
    draw();
    moved(player.currentTime + starts_s);
  });
}
player.addEventListener("error", () => {
  if (!waveform || !player.currentTime) return;
  player.load(); // Chromium cannot seek in FLAC shorter than five seconds: play from the start
  play();
});
wave.addEventListener("click", (event) => {
  if (waveform) player.currentTime = (event.offsetX / wave.clientWidth) * waveform.seconds;
});
new ResizeObserver(draw).observe(wave);
