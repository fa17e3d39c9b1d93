import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.config import SettingsError
from app.telemetry.recording.store import RecordingStore

ANN, BOB = "CA" + "a" * 32, "CA" + "b" * 32
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def put(folder: Path, *names: str) -> RecordingStore:
    for name in names:
        (folder / name).touch()
    return RecordingStore(folder)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_recording_of_a_call_is_found_and_the_finished_one_first(tmp_path: Path) -> None:
    names = [f"20260102T120000Z-{ANN}.flac", f"20260102T130000Z-{ANN}.flac", f"20260102T130000Z-{ANN}.wav"]
    store = put(tmp_path, *names, f"20260102T140000Z-{BOB}.wav", f"20260102T130000Z-{ANN}.tokens")
    assert store.audio_of(ANN) == tmp_path / names[1]
    assert store.of_calls({ANN}) == {f"20260102T120000Z-{ANN}", f"20260102T130000Z-{ANN}"}
    assert store.of_calls({ANN[:-1]}) == set()
    assert store.audio_of(BOB) == tmp_path / f"20260102T140000Z-{BOB}.wav"


def test_each_recording_of_a_call_that_came_back_is_found_by_its_name_and_no_other_call_s_is(tmp_path: Path) -> None:
    first, second, other = f"20260102T120000Z-{ANN}", f"20260102T120001Z-{ANN}", f"20260102T120000Z-{BOB}"
    store = put(tmp_path, *(f"{name}{end}" for name in (first, second, other) for end in (".flac", ".tokens")))
    assert store.audio_of(ANN, first) == tmp_path / f"{first}.flac"
    assert store.audio_of(ANN, second) == store.audio_of(ANN) == tmp_path / f"{second}.flac"
    assert [store.audio_of(ANN, name) for name in (other, "..", f"{first}.flac")] == [None] * 3
    assert (store.names(ANN), store.names(second)) == ([first, second], [second])


def test_a_chat_is_found_as_a_call_is(tmp_path: Path) -> None:
    chat = "chat-" + "c" * 32
    store = put(tmp_path, name := f"20260102T120000Z-{chat}.flac")
    assert store.audio_of(chat) == tmp_path / name
    assert store.of_calls({chat}) == {name.removesuffix(".flac")}


@pytest.mark.parametrize("asked", ["", "CA", "..", "../secret", "/etc/passwd", "*", f"{ANN}.flac", "secret", "\0"])
def test_nothing_but_a_whole_sid_finds_a_recording(tmp_path: Path, asked: str) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    put(tmp_path, "secret.flac", "20260102T120000Z-secret.flac")
    assert put(folder, f"20260102T120000Z-{ANN}.flac", "odd.flac").audio_of(asked) is None


def test_all_that_belongs_to_a_recording_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    name = f"20260102T120000Z-{ANN}"
    store = put(tmp_path, f"{name}.flac", f"{name}.wav", f"{name}.tokens", f"{name}.part", "other.txt", f"{name}.txt")
    put(tmp_path, f"20260102T120000Z-{BOB}.flac")
    assert store.delete([name, "", "../other", "nothing"]) == 1
    assert left(tmp_path) == [f"20260102T120000Z-{ANN}.txt", f"20260102T120000Z-{BOB}.flac", "other.txt"]


def test_what_is_old_is_deleted_by_when_it_was_last_written(tmp_path: Path) -> None:
    old, new = f"20260101T120000Z-{ANN}", f"20260102T120000Z-{BOB}"
    store = put(tmp_path, f"{old}.flac", f"{old}.tokens", f"{new}.flac", f"{new}.tokens")
    put(tmp_path, "song.flac", f"{ANN}.wav")
    for path in tmp_path.iterdir():
        moment_s = NOON.timestamp() + (1 if path.name == f"{new}.flac" else -1)
        os.utime(path, (moment_s, moment_s))
    assert store.count_old(NOON) == (1, 2)
    assert store.delete_old(NOON) == 1
    assert left(tmp_path) == [f"{new}.flac", f"{new}.tokens", f"{ANN}.wav", "song.flac"], "others' files stay"


def test_the_folder_is_made_for_this_user_alone_and_one_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    RecordingStore(tmp_path / "a" / "recordings").make()
    assert (tmp_path / "a" / "recordings").stat().st_mode & 0o777 == 0o700
    assert left(tmp_path / "a" / "recordings") == []
    nowhere = RecordingStore(tmp_path / "nowhere")
    assert (nowhere.audio_of(ANN), nowhere.delete([ANN])) == (None, 0)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="RECORDINGS_DIR="):
        RecordingStore(tmp_path / "file").make()
