"""Microphone and loudspeaker, with a fake of `sounddevice`: no machine that runs tests has them."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.audio.playback_buffer import FRAME
from app.cli.talk.devices import BLOCK, open_devices
from app.cli.talk.sound import TalkFailed


class PortAudioError(Exception):
    pass


class Stream:
    opened: dict[str, Callable[..., None]]
    error: Exception | None = None

    def __init__(self, *, callback: Callable[..., None], samplerate: int, channels: int, **_: Any) -> None:
        assert (samplerate, channels) == (24_000, 1)
        if self.error:
            raise self.error
        self.callback = callback

    def __enter__(self) -> None:
        self.opened[type(self).__name__] = self.callback

    def __exit__(self, *_: object) -> None:
        del self.opened[type(self).__name__]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., None]]:
    streams: dict[str, Callable[..., None]] = {}
    names = ("InputStream", "OutputStream")
    kinds = {name: type(name, (Stream,), {"opened": streams}) for name in names}
    stand_in = types.SimpleNamespace(PortAudioError=PortAudioError, **kinds)
    monkeypatch.setitem(sys.modules, "sounddevice", stand_in)
    return streams


def test_what_the_microphone_records_is_read(opened: dict[str, Callable[..., None]]) -> None:
    with open_devices() as sound:
        for value in (1, 2):
            opened["InputStream"](np.full((BLOCK, 1), value, np.float32), BLOCK, None, None)
        said = sound.read(0.0)
        np.testing.assert_array_equal(said, np.repeat(np.array([1, 2], np.float32), BLOCK))
        assert len(sound.read(0.0)) == 0
        assert not sound.ended()
    assert not opened, "both streams are closed"


def test_what_the_server_sent_is_played(opened: dict[str, Callable[..., None]]) -> None:
    with open_devices() as sound:
        sound.add_heard(np.ones(FRAME, np.float32))
        played = np.zeros((BLOCK, 1), np.float32)
        for _ in range(3):
            opened["OutputStream"](played, BLOCK, None, None)
        assert (played == 1).all()


def test_no_microphone_is_one_line(monkeypatch: pytest.MonkeyPatch, opened: object) -> None:
    monkeypatch.setattr(Stream, "error", PortAudioError("Error querying device -1"))
    with pytest.raises(TalkFailed, match=r"Error querying device -1.*--wav"), open_devices():
        pass


def test_without_the_package_or_portaudio_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(TalkFailed, match=r"pip install 'moshi-bridge\[talk\]'"), open_devices():
        pass
    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(TalkFailed, match=r"\A[^\n]*apt install libportaudio2[^\n]*\Z"), open_devices():
        pass
