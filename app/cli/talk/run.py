"""`moshi-bridge talk`: a conversation with a Moshi server from this terminal."""

from pathlib import Path

from rich.console import Console

from app.audio.playback_buffer import MS
from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.cli.talk.connection import converse
from app.cli.talk.devices import open_devices
from app.cli.talk.screen import WAITING, Screen
from app.cli.talk.sound import AudioEndpoint, FileSound, TalkFailed, open_file
from app.cli.talk.target import Wanted, find_target
from app.config import Settings, SettingsError
from app.server.remote.connection import Target
from app.server.signals import run_until_stopped

HEADPHONES = "Wear headphones: Moshi would hear itself from a loudspeaker."


def run_talk(settings: Settings, server: Wanted, wav: Path | None, out: Path | None, seconds: float | None) -> int:
    """Talk by microphone, or say a file for so many seconds and save the conversation; return the exit status."""
    try:
        target = find_target(settings, server)
        if wav:
            return _say_file(target, open_file(wav, seconds), out)
        if out or seconds:
            raise ValueError("--out and --seconds are for --wav")
        return _talk(target)
    except (SettingsError, ValueError, OSError) as error:
        return fail(error, EXIT_SETTINGS)


def _talk(target: Target) -> int:
    try:
        with open_devices() as sound:
            print(HEADPHONES)
            whole = _hold(target, sound)
    except KeyboardInterrupt:
        return 0
    except TalkFailed as error:
        return fail(error, EXIT_FAILED)
    if not whole:
        print("The server ended the conversation.")
    return 0


def _say_file(target: Target, sound: FileSound, out: Path | None) -> int:
    why = ""
    try:
        why = "" if _hold(target, sound) else "the server ended the conversation before its time"
    except TalkFailed as error:
        why = str(error)
    except KeyboardInterrupt:
        why = "interrupted"
    if out and sound.length_s:
        sound.save(out)
    print(_summary(sound))
    if not why and sound.first_sound_s is None:
        why = "nothing was heard"
    return fail(why, EXIT_FAILED) if why else 0


def _hold(target: Target, sound: AudioEndpoint) -> bool:
    """Return False if the server ended the conversation in order. Raises TalkFailed."""
    console = Console(highlight=False)
    with console.status(WAITING) as status:
        screen = Screen(console, status)
        try:
            return run_until_stopped(converse(target, sound, screen))
        finally:
            screen.finish()


def _summary(sound: FileSound) -> str:
    first = "nothing heard" if sound.first_sound_s is None else f"first sound after {sound.first_sound_s:.2f} s"
    buffer = sound.buffer
    return f"{sound.length_s:.1f} s, {first}, {buffer.underruns} underruns, {buffer.dropped // MS} ms dropped"
