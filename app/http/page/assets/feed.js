// Where snapshots come from: a socket, or questions where sockets do not get through (some proxies).

import { ask } from "./format.js";

const SILENT_MS = 5000;
const ASK_EVERY_MS = 1000;
const TRY_SOCKET_EVERY_MS = 10000;

/** Call `take` with every snapshot and `tell` with "live", "asking", "lost" or "refused" when that changes. */
export function follow(take, tell) {
  let socket = null, asking = 0, silence = 0, retry = 0, state = "", first = true;

  function say(now) {
    if (state !== now) tell((state = now));
  }

  function deliver(snapshot, how) {
    first = false;
    take(snapshot);
    say(how);
  }

  function open() {
    clearTimeout(retry);
    const url = new URL("api/live", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const opened = (socket = new WebSocket(url));
    opened.onmessage = (message) => {
      clearTimeout(asking);
      clearTimeout(silence);
      silence = setTimeout(() => fail(opened), SILENT_MS);
      deliver(JSON.parse(message.data), "live");
    };
    opened.onclose = () => fail(opened);
    silence = setTimeout(() => fail(opened), SILENT_MS);
  }

  function fail(failed) {
    if (failed !== socket) return;
    socket = null;
    failed.close();
    clearTimeout(silence);
    if (document.hidden) return;
    retry = setTimeout(open, state === "live" ? ASK_EVERY_MS : TRY_SOCKET_EVERY_MS);
    question();
  }

  async function question() {
    clearTimeout(asking);
    try {
      const snapshot = await ask(`api/live${first ? "?first=true" : ""}`);
      if (socket?.readyState !== WebSocket.OPEN) deliver(snapshot, "asking");
    } catch (error) {
      first = true;
      say(error.status === 403 || error.status === 429 ? "refused" : "lost");
      if (!socket) { // try both again soon: the service may have been started anew
        clearTimeout(retry);
        retry = setTimeout(open, 2 * ASK_EVERY_MS);
        return;
      }
    }
    if (!socket && !document.hidden) asking = setTimeout(question, ASK_EVERY_MS);
  }

  function pause() {
    [asking, silence, retry].forEach(clearTimeout);
    const closing = socket;
    socket = null;
    closing?.close();
    first = true;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : socket || open()));
  open();
}
