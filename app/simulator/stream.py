"""Twilio's side of one stream, without I/O: packets out on the caller's clock, marks back when they are heard.

Theory of operation. `now` is in seconds since the call's first stream started; `due_s` is when the stream has to be
advanced next. A packet leaves when its last sample is spoken, at a time counted in samples since the stream opened, so
nothing drifts. What the server sends goes into the call's `PlayoutModel`.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

from app.audio.mulaw import PACKET_SAMPLES, SILENCE
from app.simulator.carrier import CarrierProtocol, ClearBuffer, Play, ServerEvent, SetMark
from app.simulator.playout import PlayoutModel
from app.simulator.trouble import STEADY, Scenario, through
from app.twilio.events import RATE_HZ, Connected, Event, MarkPlayed, Media, Started, Stopped
from app.twilio.protocol import StreamState

PACKET_MS = 20
ROUNDING_S = 1e-6
Message = str | bytes


@dataclass(frozen=True, slots=True)
class CallerScript:
    """What the caller does: `said` is mu-law from the start of the call, silence follows; they hang up at `ends_s`.

    Of `line` all applies but what happens inside the service (`held`, `engine_late`, `pipeline_lost`, `step_s`) and
    `travel_s`, which the network adds; `said` is silent where the line is.
    """

    said: bytes
    ends_s: float
    line: Scenario = STEADY


@dataclass(slots=True)
class StreamCounts:
    """Counters of one stream.

    `ragged_packets` have payloads that are no multiple of 160 bytes; `lateness_s` is how late each packet was sent (at
    `sent_s`), which tells how far this simulator can be trusted.
    """

    packets_sent: int = 0
    bytes_received: int = 0
    ragged_packets: int = 0
    lateness_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)


class Carrier(Protocol):
    """Writes the messages of the caller's side, reads the server's."""

    state: StreamState

    def send(self, event: Event) -> Message:
        """Serialize one message; an empty one is not sent."""

    def receive(self, message: Message) -> ServerEvent:
        """Return what the server wants. Raises `ProtocolViolation`."""


class CallerStream:
    """One stream of a call. Once it is `over` the caller has hung up or, if it is `cut`, the connection has broken."""

    def __init__(
        self,
        started: Started,
        script: CallerScript,
        playout: PlayoutModel,
        opened_s: float,
        carrier: Carrier | None = None,
    ) -> None:
        """Without a `carrier` the messages are Twilio's."""
        self.counts = StreamCounts()
        self.opened_s = self.now_s = opened_s
        self.cut = False
        self._carrier = carrier or CarrierProtocol()
        self.stream_sid = started.stream_sid
        self._started, self._script, self._playout = started, script, playout
        self._packet = 0
        self._ends_s = script.ends_s
        self._cut_s = script.line.cut_s if opened_s < script.line.cut_s else math.inf
        self._read_s = -math.inf
        self._random = random.Random(script.line.seed)  # noqa: S311 - trouble, not secrets
        self._next_packet_s = 0.0
        self._next_packet_s = self._when_next()

    @property
    def over(self) -> bool:
        return self.cut or self._carrier.state is StreamState.STOPPED

    def leave(self) -> None:
        """End the stream now, as when the REST API ends or redirects the call."""
        self._ends_s = min(self._ends_s, self.now_s)

    def reads_s(self, now: float) -> float:
        """Return when the next message of the server's may be read."""
        return self._script.line.reads_s(now, self._read_s)

    def open(self) -> list[Message]:
        """Return the first two messages."""
        return self._send(Connected(), self._started)

    def due_s(self) -> float:
        return self._next()[0]

    def advance(self, now: float) -> list[Message]:
        """Do all that is due by `now`, in the order in which it fell due; return the messages to send."""
        self.now_s = max(self.now_s, now)
        messages: list[Message] = []
        while not self.over:
            due, act = self._next()
            if due > self.now_s:
                break
            messages += act(due)
        return messages

    def _next(self) -> tuple[float, Callable[[float], list[Message]]]:
        """Return when something falls due next, and what to do then; of two at once the first in this list."""
        return min(
            (self._cut_s, self._cut),
            (self._playout.next_mark_s(), lambda due: self._return(self._playout.advance(due))),
            (self._next_packet_s, self._speak),
            (self._ends_s + ROUNDING_S, lambda _: self._send(Stopped())),
            key=itemgetter(0),
        )

    def receive(self, message: Message, now: float) -> list[Message]:
        """Handle one message of the server's; raises `ProtocolViolation` for what Twilio would refuse."""
        messages = self.advance(now)
        self._read_s = now
        if self.over:
            return messages
        return messages + self._obey(self._carrier.receive(message)) + self._return(self._playout.advance(self.now_s))

    def _obey(self, wanted: ServerEvent) -> list[Message]:
        match wanted:
            case Play(payload):
                self._playout.receive(payload, self.now_s)
                self.counts.bytes_received += len(payload)
                self.counts.ragged_packets += len(payload) % PACKET_SAMPLES != 0
            case SetMark(name):
                self._playout.mark(name, self.now_s)
            case ClearBuffer():
                return self._return(self._playout.clear(self.now_s))
        return []

    def _cut(self, _: float) -> list[Message]:
        self.cut = True
        return []

    def _speak(self, due: float) -> list[Message]:
        start = round(self.opened_s * RATE_HZ) + self._packet * PACKET_SAMPLES
        payload = self._script.said[start : start + PACKET_SAMPLES].ljust(PACKET_SAMPLES, bytes([SILENCE]))
        self._packet += 1
        self._next_packet_s = self._when_next()
        if self._script.line.suppressed and payload.count(SILENCE) == PACKET_SAMPLES:
            return []
        self.counts.packets_sent += 1
        self.counts.lateness_s.append(self.now_s - due)
        self.counts.sent_s.append(self.now_s)
        return self._send(Media(self._packet * PACKET_MS, payload))

    def _when_next(self) -> float:
        """Return when the next packet is sent: never before the previous one."""
        line = self._script.line
        due = self.opened_s + line.leaves_s(self._packet) + self._random.uniform(0, 2 * line.jitter_s)
        return max(self._next_packet_s, through(line.stalls, due))

    def _return(self, names: Sequence[str]) -> list[Message]:
        lost = self._script.line.marks_lost
        return self._send(*(MarkPlayed(name) for name in names if not lost or self._random.random() >= lost))

    def _send(self, *events: Event) -> list[Message]:
        return [message for event in events if (message := self._carrier.send(event))]
