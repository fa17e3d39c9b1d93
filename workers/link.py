"""One end of a socket pair that carries messages between two processes of ours.

Nothing here waits. `send` hands over what the socket takes and keeps the rest; whoever owns the link calls `flush`
when the descriptor is writable and `receive` when it is readable. What is kept is bounded: beyond `BACKLOG` messages
the oldest audio is dropped, never an `Open`, a `Close` or a `Failed`.

On the wire a message is its length in four bytes, big-endian, and its pickle. Only processes that this service started
itself hold the other end.
"""

import os
import pickle
import socket
import struct
from collections import deque

from workers.messages import Codes, Frame

BACKLOG = 64
_HEADER = struct.Struct(">I")
_RECEIVE_BYTES = 1 << 18


class LinkClosed(Exception):
    """The process at the other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets whose buffers hold a few frames (macOS gives 8 KiB unless asked)."""
    left, right = socket.socketpair()
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RECEIVE_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    return left, right


def _close_all(descriptors: list[int] | deque[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


class Link:
    """A two-way link over `sock`, which it owns from now on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unsent: deque[tuple[bytes, list[int], bool]] = deque()
        self._head_sent = 0
        self._inbox = bytearray()
        self._descriptors: deque[int] = deque()
        self.dropped = 0
        """Audio messages dropped because the other end did not keep up."""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something waits for the descriptor to become writable."""
        return bool(self._unsent)

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Send, or keep for `flush`. A descriptor goes along as a copy. Raises LinkClosed."""
        body = pickle.dumps(message, protocol=5)
        descriptors = [] if descriptor is None else [os.dup(descriptor)]
        self._unsent.append((_HEADER.pack(len(body)) + body, descriptors, isinstance(message, Frame | Codes)))
        if len(self._unsent) > BACKLOG:
            self._drop_oldest_audio()
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now. Raises LinkClosed."""
        try:
            while self._unsent:
                self._send_head()
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> list[object]:
        """Return the messages that have arrived whole. Raises LinkClosed once there are none and never will be."""
        try:
            more, descriptors, _, _ = socket.recv_fds(self._socket, _RECEIVE_BYTES, 4)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LinkClosed(str(error)) from error
        if not more:
            raise LinkClosed("end of stream")
        self._descriptors.extend(descriptors)
        self._inbox += more
        return self._whole_messages()

    def take_socket(self) -> socket.socket:
        """Return the socket that came along with the oldest message that brought one."""
        return socket.socket(fileno=self._descriptors.popleft())

    def close(self) -> None:
        self._socket.close()
        for _, descriptors, _ in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()
        _close_all(self._descriptors)

    def _send_head(self) -> None:
        wire, descriptors, _ = self._unsent[0]
        rest = memoryview(wire)[self._head_sent :]
        if descriptors and not self._head_sent:
            sent = socket.send_fds(self._socket, [rest], descriptors)
            _close_all(descriptors)
        else:
            sent = self._socket.send(rest)
        self._head_sent += sent
        if self._head_sent == len(wire):
            self._unsent.popleft()
            self._head_sent = 0

    def _drop_oldest_audio(self) -> None:
        first = 1 if self._head_sent else 0  # half a message on the wire must be finished
        for place in range(first, len(self._unsent)):
            if self._unsent[place][2]:
                del self._unsent[place]
                self.dropped += 1
                return

    def _whole_messages(self) -> list[object]:
        messages = []
        start = 0
        while len(self._inbox) >= start + _HEADER.size:
            (length,) = _HEADER.unpack_from(self._inbox, start)
            end = start + _HEADER.size + length
            if len(self._inbox) < end:
                break
            messages.append(pickle.loads(memoryview(self._inbox)[start + _HEADER.size : end]))  # noqa: S301
            start = end
        del self._inbox[:start]
        return messages
