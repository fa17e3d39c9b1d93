// A chat in Moshi's protocol: the first byte of a message is its kind. It is dialled again once, after the service restarts.

import { socketUrl } from "./format.js";

const HANDSHAKE = 0, AUDIO = 1, TEXT = 2, METADATA = 4, PING = 6;
const NORMAL_CLOSURE = 1000;
const TRIES = 60, TRY_EVERY_MS = 1000;
const MAX_UNSENT_BYTES = 48000; // a second; what a stalled connection would send later is of no use
const decoder = new TextDecoder();

/** Dial. `on` has state(name), audio(message), text(piece), metadata(facts), ended(words). */
export function dial(query, on) {
  let socket = null, live = false, mayRedial = true, over = false;

  function open() {
    socket = new WebSocket(socketUrl(`api/chat?${query}`));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => over || receive(data);
    socket.onclose = (event) => over || closed(event);
  }

  function receive(message) {
    const [kind] = new Uint8Array(message, 0, 1), body = () => decoder.decode(new Uint8Array(message, 1));
    if (kind === HANDSHAKE) {
      live = true;
      on.state("live");
    } else if (kind === AUDIO) on.audio(message);
    else if (kind === TEXT) on.text(body());
    else if (kind === METADATA) on.metadata(JSON.parse(body()));
    else if (kind === PING && !live) on.state("waiting");
  }

  async function closed({ code, reason }) {
    const wasLive = live;
    live = false;
    if (code === NORMAL_CLOSURE) end(`The call has ended${reason ? `: ${reason}` : ""}.`);
    else if (wasLive && mayRedial) await redial();
    else end(wasLive ? "The connection was lost again." : await whyNot());
  }

  async function redial() {
    mayRedial = false;
    on.state("lost");
    for (let tries = 0; tries < TRIES && !over; tries++) {
      await new Promise((resolve) => setTimeout(resolve, TRY_EVERY_MS));
      if ((await readiness())?.ready) return over || open();
    }
    end("The connection was lost, and the service did not come back.");
  }

  function end(words) {
    if (over) return;
    over = true;
    socket.close();
    on.ended(words);
  }

  open();
  return {
    send: (message) => live && socket.readyState === WebSocket.OPEN && socket.bufferedAmount < MAX_UNSENT_BYTES && socket.send(message),
    hangUp: () => end(""),
  };
}

async function readiness() {
  return fetch("readyz", { cache: "no-store" }).then((answer) => answer.json(), () => null);
}

/** Browsers do not say with which status a socket was refused. */
async function whyNot() {
  const service = await readiness();
  if (!service) return "The service does not answer.";
  if (service.draining) return "The service is being stopped and takes no more calls.";
  if (!service.ready && service.calls && !service.free_slots) return "All slots are taken. Try again when a call has ended.";
  if (!service.ready) return "The service is not ready yet. Try again in a moment.";
  return "The service did not take the call. Try again; if that does not help, reload this page: you may have to sign in.";
}
