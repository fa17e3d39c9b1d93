// Plays a call to the operator: caller left, Moshi right.

import { callPath, socketUrl } from "./format.js";

const RATE_HZ = 8000;
const BUFFER_S = 0.15; // absorbs jitter
const MAX_BUFFER_S = 1; // audio beyond it is skipped
/** The sample of each mu-law code, -1 to 1. */
export const LINEAR = Float32Array.from({ length: 256 }, (_, code) => {
  const bits = ~code & 0xff, exponent = (bits >> 4) & 7;
  const magnitude = ((((bits & 15) << 3) + 132) << exponent) - 132;
  return (bits & 0x80 ? -magnitude : magnitude) / 32768;
});

let context = null, current = null;

/** The call that is listened to, "" for none. */
export function listenedTo() {
  return current?.sid ?? "";
}

/** Listen to a call instead of another; `changed` is called when it ends. */
export function listen(sid, changed) {
  stop();
  context ??= new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" });
  context.resume();
  const socket = new WebSocket(socketUrl(callPath(sid, "events?audio=true")));
  current = { sid, socket, next: { in: 0, out: 0 }, samples: 0 };
  socket.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.event === "audio" && current?.socket === socket) play(event.direction, event.payload);
    if (event.event === "disconnected") socket.close(); // words may follow, sound does not
  };
  socket.onclose = () => {
    if (current?.socket !== socket) return;
    current = null;
    changed();
  };
}

/** Stop listening. */
export function stop() {
  const stopped = current;
  current = null;
  stopped?.socket.close();
}

function play(direction, payload) {
  const codes = atob(payload), side = direction === "in" ? 0 : 1;
  if (!codes.length) return;
  const sound = context.createBuffer(2, codes.length, RATE_HZ), samples = sound.getChannelData(side);
  for (let place = 0; place < codes.length; place++) samples[place] = LINEAR[codes.charCodeAt(place)];
  const source = new AudioBufferSourceNode(context, { buffer: sound });
  source.connect(context.destination);
  const ahead = current.next[direction] - context.currentTime;
  if (ahead < 0) current.next[direction] = Math.round((context.currentTime + BUFFER_S) * RATE_HZ) / RATE_HZ;
  else if (ahead > MAX_BUFFER_S) return;
  source.start(current.next[direction]);
  current.next[direction] += codes.length / RATE_HZ;
  current.samples += codes.length;
  document.documentElement.dataset.heard = current.samples;
}
