"""A caller of `/api/chat`: the simulator's caller, in Moshi's own protocol in place of Twilio's messages.

What they say and hear is resampled here as the service does it for a phone, so that latencies compare: those of both
have the 2.9 ms of the two filters.
"""

import json
import time

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from app.audio import mulaw
from app.audio.opus import PACKET_SAMPLES, ChatCodec, OpusCodec, PcmCodec
from app.audio.resample import Decimator, Interpolator
from app.calls.chat_protocol import Kind
from app.simulator.carrier import Play
from app.simulator.client import TIMEOUT_S, converse, dialled, handshake_failed, stream_report
from app.simulator.options import CallOptions, LegKind
from app.simulator.playout import PlayoutModel
from app.simulator.report import CallReport, Ending, Outcome, call_report
from app.simulator.stream import CallerScript, CallerStream
from app.twilio.events import CallSid, Event, Media, Started, Stopped, StreamSid
from app.twilio.protocol import StreamState
from app.twilio.signature import SOCKET_SCHEMES
from workers.messages import Pcm

FULL_SCALE = np.float32(1 / 32768)


class ChatCarrier:
    """Writes the client's messages, reads the server's; Opus leaves in packets of 40 ms, PCM at once."""

    def __init__(self, codec: ChatCodec) -> None:
        self.state = StreamState.STREAMING
        self._codec = codec
        self._packet = PACKET_SAMPLES if isinstance(codec, OpusCodec) else 1
        self._interpolator, self._decimator = Interpolator(), Decimator()
        self._said, self._heard = np.zeros(0, np.float32), np.zeros(0, np.float32)

    def send(self, event: Event) -> bytes:
        """Return a message of the caller's audio; b"" where there is none to send."""
        match event:
            case Media(_, payload):
                return self._encode(self._interpolator.push(mulaw.decode(payload) * FULL_SCALE))
            case Stopped():
                self.state = StreamState.STOPPED
        return b""

    def receive(self, message: str | bytes) -> Play:
        """Return what is to be played, at times nothing."""
        pcm = self._heard
        if isinstance(message, bytes) and message[:1] == Kind.AUDIO.message():
            pcm = np.concatenate([pcm, self._codec.decode(message[1:])])
        whole = len(pcm) // 3 * 3
        self._heard = pcm[whole:]
        return Play(mulaw.encode(self._decimator.push_int16(pcm[:whole])) if whole else b"")

    def _encode(self, pcm: Pcm) -> bytes:
        self._said = np.concatenate([self._said, pcm])
        if len(self._said) < self._packet:
            return b""
        packet, self._said = self._said, np.zeros(0, np.float32)
        return Kind.AUDIO.message(self._codec.encode(packet))


async def simulate_chat(options: CallOptions, script: CallerScript) -> CallReport:
    """Run one chat and report it; what the server does wrong is in `CallReport.outcome`, not an exception."""
    pcm = options.leg is LegKind.CHAT
    scheme, _, rest = dialled(options.base_url, options.dial_url).rstrip("/").partition("://")
    url = f"{SOCKET_SCHEMES[scheme]}://{rest}/api/chat" + ("?format=pcm" if pcm else "")
    playout = PlayoutModel()
    try:
        async with connect(url, compression=None, proxy=None, ping_interval=None, open_timeout=TIMEOUT_S) as socket:
            call_sid, zero_s = await _call_sid(socket), time.monotonic()
            started = Started(StreamSid(call_sid), call_sid, "")
            stream = CallerStream(started, script, playout, 0.0, ChatCarrier(PcmCodec() if pcm else OpusCodec()))
            ending = await converse(socket, stream, lambda: time.monotonic() - zero_s, lambda: None)
    except (WebSocketException, OSError) as error:
        return call_report("", handshake_failed(url, error), 0.0, script.said, playout, ())
    streams = (stream_report(url, stream, stream.now_s, socket),)
    ending = ending or Ending(Outcome.SERVER_HUNG_UP, "the server closed the chat")
    return call_report(call_sid, ending, stream.now_s, script.said, playout, streams, zero_s)


async def _call_sid(socket: ClientConnection) -> CallSid:
    """Wait for the handshake and the metadata, which name the call."""
    async for message in socket:
        if isinstance(message, bytes) and message[:1] == Kind.METADATA.message():
            return CallSid(json.loads(message[1:])["call_sid"])
    raise OSError("closed before it began")
