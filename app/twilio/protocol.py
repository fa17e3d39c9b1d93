"""Our side of Twilio's media stream, without I/O.

Theory of operation. Twilio is the WebSocket client. It sends `connected`, then `start` once, then `media`, `dtmf` and
`mark` in any order, then `stop`, and closes: the table `NEXT`. What it does not allow is a violation; unknown kinds of
message are allowed everywhere. From `start` on we may send media, marks and clear, each with the stream's SID. What
crosses with `stop` on the way is lost, and no mistake.

The caller of this module passes every message to `receive` in order, ends the call on `ProtocolViolation`, and sends
what `media`, `mark` and `clear` return as text, unchanged, in order.
"""

from enum import Enum, auto

from app.twilio import wire
from app.twilio.events import Connected, DtmfPressed, Event, MarkPlayed, Media, Started, Stopped, Unknown

MAX_MESSAGE_BYTES = 65_536


class StreamState(Enum):
    NEW = auto()
    CONNECTED = auto()
    STREAMING = auto()
    STOPPED = auto()


NEXT: dict[StreamState, dict[type[Event], StreamState]] = {
    StreamState.NEW: {Connected: StreamState.CONNECTED},
    StreamState.CONNECTED: {Started: StreamState.STREAMING},
    StreamState.STREAMING: {
        Media: StreamState.STREAMING,
        DtmfPressed: StreamState.STREAMING,
        MarkPlayed: StreamState.STREAMING,
        Stopped: StreamState.STOPPED,
    },
    StreamState.STOPPED: {},
}


class StreamProtocol:
    """Read Twilio's messages as events, write ours; one object for one socket.

    `state` and `stream_sid` (None before the start) tell where the stream is.
    """

    def __init__(self) -> None:
        self.state = StreamState.NEW
        self.stream_sid: str | None = None

    def receive(self, message: str | bytes) -> Event:
        """Return the event that one WebSocket message stands for.

        Raises `ProtocolViolation`, and nothing else, whatever the message is; the state is then as before, and the
        caller must end the call.
        """
        fields = wire.read_message(message, MAX_MESSAGE_BYTES)
        event = wire.parse_event(fields)
        if isinstance(event, Unknown):
            return event
        following = NEXT[self.state].get(type(event))
        if following is None:
            sentence = f"{type(event).__name__} is not allowed in state {self.state.name}."
            raise wire.ProtocolViolation(wire.Reason.OUT_OF_ORDER, sentence)
        if not isinstance(event, Connected):
            stream_sid = event.stream_sid if isinstance(event, Started) else self.stream_sid
            if wire.read_text(fields, "streamSid") != stream_sid:
                raise wire.ProtocolViolation(wire.Reason.WRONG_STREAM, "The message belongs to another stream.")
            self.stream_sid = stream_sid
        self.state = following
        return event

    def media(self, payload: bytes) -> str:
        """Serialize audio for the caller: mu-law at 8 kHz without header, best in multiples of 160 bytes."""
        return self._serialize("media", media={"payload": wire.write_payload(payload)})

    def mark(self, name: str) -> str:
        """Serialize a mark: it comes back as `MarkPlayed` once all audio before it has been played, or cleared."""
        return self._serialize("mark", mark={"name": name})

    def clear(self) -> str:
        """Serialize the command that empties Twilio's buffer; every outstanding mark comes back at once."""
        return self._serialize("clear")

    def _serialize(self, kind: str, **body: wire.Fields) -> str:
        if self.stream_sid is None:
            raise wire.ProtocolMisuse(f"{kind} cannot be sent in state {self.state.name}.")
        return wire.write_message({"event": kind, "streamSid": self.stream_sid, **body})
