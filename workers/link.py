"""One end of a socket pair that carries messages between two processes of ours.

Nothing here waits. `send` hands over what the socket takes and retains the rest; whoever owns the link calls `flush`
when the descriptor is writable and `receive` when it is readable. What is retained is bounded: beyond `BACKLOG`
messages the oldest audio is dropped, never an `Open`, a `Close` or a `Failed`.

On the wire: a length in four bytes, a kind in one, then the message. `Frame`, `Codes` and `Speech`, of which a call
sends 12.5 a second and link, are their fields in marshal's format and the bytes of the array, which takes a quarter of
the time of pickle. All else is pickled; only processes that this service started itself hold the other end.
"""

import marshal
import pickle
import socket
from collections import deque
from struct import Struct
from typing import Any

import numpy as np

from workers.messages import Codes, Frame, Span, Speech, Stage

BACKLOG = 64
LENGTH = Struct(">I")
_BUFFER_BYTES = 1 << 18
_PICKLED, _FRAME, _CODES, _SPEECH = b"P", b"F", b"C", b"S"
_STAGES = tuple(Stage)
_DTYPES = (np.dtype("<f4"), np.dtype("<i4"))


class LinkClosed(Exception):
    """The process at the other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets whose buffers hold a few frames (macOS gives 8 KiB unless asked)."""
    left, right = socket.socketpair()
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return left, right


class Link:
    """A two-way link over `sock`, which it owns from now on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._head_sent = 0
        self._received = bytearray()
        self._space = memoryview(bytearray(_BUFFER_BYTES))
        self.dropped = 0
        """Audio messages dropped because the other end did not keep up."""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something waits for the descriptor to become writable."""
        return bool(self._unsent)

    @property
    def receiving(self) -> bool:
        """Whether a part of a message has come, and its rest has not."""
        return bool(self._received)

    def send(self, message: object) -> None:
        """Raises LinkClosed."""
        self._unsent.append((serialize(message), isinstance(message, Frame | Codes | Speech)))
        if len(self._unsent) > BACKLOG:
            self._drop_oldest_audio()
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now. Raises LinkClosed."""
        try:
            while self._unsent:
                data, _ = self._unsent[0]
                self._head_sent += self._socket.send(data[self._head_sent :] if self._head_sent else data)
                if self._head_sent == len(data):
                    self._unsent.popleft()
                    self._head_sent = 0
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> list[Any]:
        """Return the messages that have arrived whole. Raises LinkClosed once there are none and never will be."""
        try:
            size = self._socket.recv_into(self._space)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LinkClosed(str(error)) from error
        if not size:
            raise LinkClosed("end of stream")
        self._received += self._space[:size]
        return self._whole_messages()

    def close(self) -> None:
        self._socket.close()
        self._unsent.clear()

    def _drop_oldest_audio(self) -> None:
        first = 1 if self._head_sent else 0  # half a message on the wire must be finished
        audio = (index for index in range(first, len(self._unsent)) if self._unsent[index][1])
        if (oldest := next(audio, None)) is not None:
            del self._unsent[oldest]
            self.dropped += 1

    def _whole_messages(self) -> list[Any]:
        messages = []
        start = 0
        with memoryview(self._received) as received:
            while len(received) >= start + LENGTH.size:
                end = start + LENGTH.size + LENGTH.unpack_from(received, start)[0]
                if len(received) < end:
                    break
                messages.append(parse(received[start + LENGTH.size : end]))
                start = end
        del self._received[:start]
        return messages


def serialize(message: object) -> bytes:
    """Return a message with its length. Arrays are 1-D, float32 or int32; raises ValueError for another type."""
    if isinstance(message, Frame | Codes):
        kind, array = (_FRAME, message.pcm) if isinstance(message, Frame) else (_CODES, message.codes)
        dtype, data = (-1, b"") if array is None else (_DTYPES.index(array.dtype), array.tobytes())
        spans = [(_STAGES.index(span.stage), span.started_s, span.ended_s) for span in message.spans]
        named = message.slot, message.epoch, message.seq, message.text, message.dropped, message.tokens
        head = kind + marshal.dumps((dtype, len(data), spans, *named), 2)
    elif isinstance(message, Speech):
        data = message.codes.astype("<i4", copy=False).tobytes()
        head = _SPEECH + marshal.dumps((len(data), message.slot, message.epoch, message.seq), 2)
    else:
        head, data = _PICKLED + pickle.dumps(message, protocol=5), b""
    return b"".join((LENGTH.pack(len(head) + len(data)), head, data))


def parse(body: memoryview) -> object:
    """Return the message of which this is all but the length."""
    if body[:1] == _PICKLED:
        return pickle.loads(body[1:])  # noqa: S301
    if body[:1] == _SPEECH:
        size, slot, epoch, seq = marshal.loads(body[1:])  # noqa: S302
        return Speech(slot, epoch, seq, np.frombuffer(bytes(body[len(body) - size :]), "<i4"))
    dtype, size, numbered, slot, epoch, seq, text, dropped, tokens = marshal.loads(body[1:])  # noqa: S302
    array: Any = None if dtype < 0 else np.frombuffer(bytes(body[len(body) - size :]), _DTYPES[dtype])
    spans = tuple(Span(_STAGES[number], started_s, ended_s) for number, started_s, ended_s in numbered)
    return (Frame if body[:1] == _FRAME else Codes)(slot, epoch, seq, array, text, dropped, spans, tokens)
