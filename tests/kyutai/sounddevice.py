"""A `sounddevice` without a device, for Kyutai's client and ours: its streams call back at the pace of speech.

What is said is read from the file `SAID`, what is heard is written to `HEARD`, both raw float32; `EMPTY` gets a byte a
block, 1 if the client had nothing to play. Audio that is due is never left out, so the device runs as long as the file.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Callback = Callable[[Any, int, None, None], None]


class PortAudioError(Exception):
    pass


class Block(np.ndarray[Any, np.dtype[np.float32]]):
    """The client fills a block with zeros when it has nothing to play."""

    empty = 0

    def fill(self, value: Any) -> None:
        self.empty = 1
        super().fill(value)


class Stream:
    def __init__(self, *, samplerate: float, channels: int, blocksize: int, callback: Callback, **_: Any) -> None:
        self._block_s, self._shape, self._callback = blocksize / samplerate, (blocksize, channels), callback
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
            due_s += self._block_s
            self._pass_block()

    def _pass_block(self) -> None:
        raise NotImplementedError


class InputStream(Stream):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._said = np.fromfile(os.environ["SAID"], np.float32)

    def _pass_block(self) -> None:
        size, channels = self._shape
        block, self._said = self._said[:size], self._said[size:]
        if len(block) < size:
            self._stopped.set()
            return
        self._callback(block.reshape(size, channels), size, None, None)


class OutputStream(Stream):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._heard, self._empty = (_opened(name) for name in ("HEARD", "EMPTY"))

    def _pass_block(self) -> None:
        block = np.zeros(self._shape, np.float32).view(Block)
        self._callback(block, len(block), None, None)
        self._heard.write(block.tobytes())
        self._empty.write(bytes([block.empty]))


def _opened(name: str) -> BinaryIO:
    return Path(os.environ[name]).open("wb", buffering=0)
