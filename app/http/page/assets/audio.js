// The microphone and the loudspeaker of a chat.

const WANTED = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const REFUSED = {
  NotAllowedError: "The microphone is blocked. Allow it for this site in the browser's settings (the sign beside the address), then call again.",
  NotFoundError: "No microphone was found. Connect one, then call again.",
  NotReadableError: "The microphone cannot be opened: another program may be using it.",
};
const INSECURE = "The microphone needs https or localhost: browsers give it to no other page. Open this page by its https address, or, on the machine itself, by the name localhost.";

/** Why there can be no microphone on this page; "" if there can. */
export function insecure() {
  return window.isSecureContext && navigator.mediaDevices ? "" : INSECURE;
}

/** Open both, in the handler of a click: `onMessage` gets messages of audio, `onReport` levels and the buffer. Throws an Error in words. */
export async function openAudio(onMessage, onReport) {
  const context = new AudioContext({ latencyHint: "interactive" });
  context.resume();
  try {
    await context.audioWorklet.addModule("page/worklet.js").catch(() => {
      throw new Error("The service does not answer.");
    });
    return connect(context, await microphone(), onMessage, onReport);
  } catch (error) {
    context.close();
    throw error;
  }
}

async function microphone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: WANTED });
  } catch (error) {
    throw new Error(REFUSED[error.name] ?? `The microphone cannot be opened: ${error.message}.`);
  }
}

function connect(context, stream, onMessage, onReport) {
  const node = new AudioWorkletNode(context, "chat-audio", { outputChannelCount: [1], channelCount: 1, channelCountMode: "explicit" });
  const [track] = stream.getAudioTracks();
  node.port.onmessage = ({ data }) => (data instanceof ArrayBuffer ? onMessage(data) : onReport(data));
  context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  return {
    play: (message) => node.port.postMessage(message, [message]),
    begin: () => node.port.postMessage(null),
    mute: (muted) => (track.enabled = !muted),
    /** What the browser says of its own part, in ms. */
    device_ms: () => 1000 * ((track.getSettings().latency ?? 0) + context.baseLatency + (context.outputLatency ?? 0)),
    close() {
      track.stop();
      node.port.onmessage = null;
      context.close();
    },
  };
}
