"""One end of a socket pair that carries messages between two processes of ours.

Nothing here waits. `send` hands over what the socket takes and keeps the rest; whoever owns the link calls `flush`
when the descriptor is writable and `receive` when it is readable. What is kept is bounded: beyond `BACKLOG` messages
the oldest audio is dropped, never an `Open`, a `Close` or a `Failed`.
"""

import socket
from collections import deque

from workers.messages import Codes, Frame
from workers.wire import LENGTH, parse, serialize

BACKLOG = 64
_BUFFER_BYTES = 1 << 18


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

    def send(self, message: object) -> None:
        """Send, or keep for `flush`. Raises LinkClosed."""
        self._unsent.append((serialize(message), isinstance(message, Frame | Codes)))
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

    def receive(self) -> list[object]:
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
        for place in range(first, len(self._unsent)):
            if self._unsent[place][1]:
                del self._unsent[place]
                self.dropped += 1
                return

    def _whole_messages(self) -> list[object]:
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
