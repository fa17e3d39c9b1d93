"""The client's side of one conversation: messages and sound in, messages and events out. No I/O, no clock.

Servers differ. Rust sends metadata before the handshake; PersonaPlex plays its prompts first, for 10 to 20 s; PyTorch
and MLX keep a client waiting in silence while another one talks, and process sound from before the handshake in one
burst, which stays as latency. So nothing is sent, and nothing but an error is acted on, until the handshake.
"""

from dataclasses import dataclass

from app.audio.opus import ChatCodec, OpusCodec
from app.calls.chat_protocol import Kind
from app.server.remote.messages import EncodedAudio, ErrorText, Handshake, TextPiece, parse
from app.server.remote.pacer import Pacer
from workers.messages import Pcm

READY_WITHIN_S = 60.0
"""Without a message; a server with a queue sends pings meanwhile."""
SILENT_FOR_S = 10.0
"""As Kyutai's browser client: a server that has sent nothing for so long is gone."""


class ServerSilent(Exception):
    """The server has stopped sending; the message is one line."""


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    samples: Pcm


Event = Handshake | DecodedAudio | TextPiece | ErrorText


class ChatClient:
    """`now` in seconds, monotonic. The server breaks the protocol: what it sent is ignored."""

    def __init__(
        self,
        now: float,
        live: bool,
        fills: bool = False,
        codec: ChatCodec | None = None,
        silent_for_s: float = SILENT_FOR_S,
    ) -> None:
        self.ready = False
        self.pacer = Pacer(live, fills)
        self._silent_for_s = silent_for_s
        self._last_s = now
        self._codec = codec or OpusCodec()

    def receive(self, data: bytes | str, now: float) -> Event | None:
        self._last_s = now
        match parse(data):
            case Handshake() as handshake if not self.ready:
                self.ready = True
                return handshake
            case EncodedAudio(audio) if self.ready:
                return DecodedAudio(self._codec.decode(audio))
            case TextPiece() as piece if self.ready:
                return piece
            case ErrorText() as error:
                return error
            case _:
                return None

    def start(self, now: float) -> None:
        """Audio begins, silence until there is some; only from now on must the server send."""
        self._last_s = now
        self.pacer.start(now)

    def add_audio(self, samples: Pcm) -> None:
        """Add what was said; before the handshake it is dropped."""
        if self.ready:
            self.pacer.push(samples)

    def send(self, now: float) -> list[tuple[bytes, Pcm]]:
        """Return the messages that are due, each with the sound in it."""
        return [(self.encode(packet), packet) for packet in self.pacer.pull(now)]

    def encode(self, packet: Pcm) -> bytes:
        """Return the message of a packet, or of several."""
        return Kind.AUDIO.message(self._codec.encode(packet))

    def check(self, now: float) -> None:
        """Raise ServerSilent if the server has sent nothing for too long."""
        silent_s = now - self._last_s
        if self.ready and silent_s > self._silent_for_s:
            raise ServerSilent(f"the server has sent nothing for {self._silent_for_s:.0f} s")
        if not self.ready and silent_s > READY_WITHIN_S:
            raise ServerSilent(
                f"the server was not ready within {READY_WITHIN_S:.0f} s: it may be in another conversation"
            )
