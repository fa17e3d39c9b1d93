// Snapshots over a WebSocket, or by polling where WebSockets do not get through (some proxies).

import { ask, socketUrl } from "./format.js";

const SILENT_MS = 5000;
const POLL_EVERY_MS = 1000;
const TRY_SOCKET_EVERY_MS = 10000;

/** Call `onSnapshot` with every snapshot and `onState` with "live", "polling", "lost" or "refused" when that changes. */
export function follow(onSnapshot, onState) {
  let socket = null, polling = 0, silence = 0, retry = 0, state = "", first = true;

  function setState(now) {
    if (state !== now) onState((state = now));
  }

  function deliver(snapshot, how) {
    first = false;
    onSnapshot(snapshot);
    setState(how);
  }

  function open() {
    clearTimeout(retry);
    const opened = (socket = new WebSocket(socketUrl("api/live")));
    opened.onmessage = (message) => {
      clearTimeout(polling);
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
    retry = setTimeout(open, state === "live" ? POLL_EVERY_MS : TRY_SOCKET_EVERY_MS);
    poll();
  }

  async function poll() {
    clearTimeout(polling);
    try {
      const snapshot = await ask(`api/live${first ? "?first=true" : ""}`);
      if (socket?.readyState !== WebSocket.OPEN) deliver(snapshot, "polling");
    } catch (error) {
      first = true;
      setState(error.status === 403 || error.status === 429 ? "refused" : "lost");
      if (!socket) { // the service may have been restarted: try both again soon
        clearTimeout(retry);
        retry = setTimeout(open, 2 * POLL_EVERY_MS);
        return;
      }
    }
    if (!socket && !document.hidden) polling = setTimeout(poll, POLL_EVERY_MS);
  }

  function pause() {
    [polling, silence, retry].forEach(clearTimeout);
    const closing = socket;
    socket = null;
    closing?.close();
    first = true;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : socket || open()));
  open();
}
