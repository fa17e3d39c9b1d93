"""The stage times of the last frames of a call, packed: no object that the garbage collector would visit.

A full pass stops all calls for a millisecond or more for ten thousand objects, and comes the more often the more are
made and kept. As objects these would be 16,000 for each call of five minutes.
"""

import struct
from collections import deque
from collections.abc import Iterator

from workers.messages import Span, Stage

_SPAN = struct.Struct("<Bdd")
_STAGES = tuple(Stage)
FrameSpans = tuple[Span, ...]


class StageTimes:
    """The spans of the last `most` frames, the oldest first."""

    def __init__(self, most: int) -> None:
        self._frames: deque[bytes] = deque(maxlen=most)

    def append(self, spans: FrameSpans) -> None:
        packed = (_SPAN.pack(_STAGES.index(span.stage), span.started_s, span.ended_s) for span in spans)
        self._frames.append(b"".join(packed))

    def clear(self) -> None:
        self._frames.clear()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, at: int) -> FrameSpans:
        return _unpack(self._frames[at])

    def __iter__(self) -> Iterator[FrameSpans]:
        return map(_unpack, self._frames)

    def __reversed__(self) -> Iterator[FrameSpans]:
        return map(_unpack, reversed(self._frames))

    def __copy__(self) -> "StageTimes":
        copied = StageTimes(0)
        copied._frames = self._frames.copy()
        return copied


def _unpack(packed: bytes) -> FrameSpans:
    return tuple(Span(_STAGES[number], began_s, ended_s) for number, began_s, ended_s in _SPAN.iter_unpack(packed))
