"""Files on a disk become personas with prompts; what is wrong is one line."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.config import SettingsError
from app.server.persona_folder import MOST_FILE_BYTES, MOST_FILES, FolderState, PersonaFolder

ADA = 'numbers = ["+15551234567"]\ngreeting = "Hello! I am Ada."\nprompt = "You are Ada."\n'


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def read(folder: Path | None, default: str = "") -> PersonaFolder:
    reader = PersonaFolder(folder, default)
    reader.load()
    return reader


def load(folder: Path, default: str = "") -> FolderState:
    return read(folder, default).state


def tone(path: Path, seconds: float = 1.0, hz: float = 300.0) -> None:
    soundfile.write(path, 0.1 * np.sin(2 * np.pi * hz * np.arange(round(seconds * 16_000)) / 16_000), 16_000)


def test_a_folder_of_files_becomes_personas(tmp_path: Path) -> None:
    write(tmp_path, ada=ADA, bob='greeting = "Bob here."')
    (tmp_path / "notes.txt").write_text("no persona")
    (tmp_path / ".ada.toml").write_text("what an editor keeps beside it")
    state = load(tmp_path, "bob")
    assert list(state.personas.by_name) == ["ada", "bob"]
    assert state.personas.choose("", "+15551234567").greeting == "Hello! I am Ada."
    assert state.personas.choose("", "").name == "bob"
    assert {name: prompt.text for name, prompt in state.prompts.items()} == {"ada": "You are Ada."}, "bob needs none"


def test_without_a_folder_there_are_none() -> None:
    reader = read(None)
    assert (reader.state, reader.refresh()) == (FolderState(), False)


@pytest.fixture(scope="module")
def wrong_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    tone(folder / "long.wav", 600.0)
    tone(folder / "short.wav", 0.1)
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    (folder / "text.wav").write_text("no recording")
    return folder


@pytest.mark.parametrize(
    ("files", "default", "lines"),
    [
        ({"ada": "name ="}, "", ["ada.toml: is no TOML (Invalid value (at end of document))"]),
        ({"ada": "greting = 'Hello'"}, "", ["ada.toml: greting: is not a key"]),
        ({"ada": ADA, "bob": 'numbers = ["Bob"]', "eve": "x ="}, "", ["bob.toml: ", "eve.toml: is no TOML"]),
        ({"ada": ADA, "bob": ADA}, "", ["bob.toml: +15551234567 is answered by 'ada' already"]),
        ({"ada": ADA, "bob": 'name = "ada"'}, "", ["bob.toml: another file has the name 'ada'"]),
        ({"ada": ADA}, "bob", ["PERSONA=bob: there is no such persona in PERSONAS_DIR (there is ada)"]),
        ({"ada": "name ="}, "ada", ["ada.toml: is no TOML"]),
        ({"ada": "#" * (MOST_FILE_BYTES + 1)}, "", ["ada.toml: has more than 65,536 bytes"]),
        ({"ada": 'voice = "ada.wav"'}, "", ["ada.toml: voice: ada.wav is not in PERSONAS_DIR"]),
        ({"ada": 'voice = "silence"'}, "", ["ada.toml: voice: silence is silent"]),
        ({"ada": 'voice = "long"', "bob": 'voice = "short.wav"'}, "", ["ada.toml: voice: long lasts 600.0 s", "bob."]),
        ({"ada": 'voice = "text.wav"'}, "", ["ada.toml: voice: text.wav is no recording"]),
        ({"ada": 'voice = "../text.wav"'}, "", ["ada.toml: voice: is the name of a voice"]),
        ({"ada": 'voice = "a\\nb.wav"'}, "", ["ada.toml: voice: is the name of a voice"]),
        ({"ada": "a = " + "[" * 20_000}, "", ["ada.toml: is no TOML (maximum recursion depth"]),
        ({"ada": "a = " + "9" * 60_000}, "", ["ada.toml: is no TOML (Exceeds the limit"]),
        ({"ada": 'greeting = "\\u001b[31mHello"'}, "", ["ada.toml: greeting: has control characters"]),
        ({"ada": '"a\\nb" = 1'}, "", [r"ada.toml: 'a\nb': is not a key"]),
        ({"ada\nbob": "x ="}, "", [r"'ada\nbob.toml': the name of the file has control characters"]),
    ],
)
def test_each_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, wrong_recordings: Path, files: dict[str, str], default: str, lines: list[str]
) -> None:
    for recording in wrong_recordings.iterdir():
        (tmp_path / recording.name).hardlink_to(recording)
    write(tmp_path, **files)
    with pytest.raises(SettingsError) as refusal:
        load(tmp_path, default)
    found = str(refusal.value).splitlines()
    assert len(found) == len(lines)
    assert [line for line, begin in zip(found, lines, strict=True) if not line.startswith(begin)] == []


def test_what_is_no_file_or_no_text_or_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").mkdir()
    (tmp_path / "bob.toml").write_bytes(b'greeting = "\xff"')
    os.mkfifo(tmp_path / "eve.toml")
    (tmp_path / "kim.toml").symlink_to(tmp_path / "nothing")
    (tmp_path / "max.toml").symlink_to(tmp_path / "max.toml")
    with pytest.raises(SettingsError) as refusal:
        load(tmp_path)
    assert [line.partition(": ")[0] for line in str(refusal.value).splitlines()] == [
        f"{name}.toml" for name in ("ada", "bob", "eve", "kim", "max")
    ]
    with pytest.raises(SettingsError, match=r"PERSONAS_DIR=.*nothing: No such file or directory"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("voice", "files", "found"),
    [
        ("ada", ["ada.pt", "ada.safetensors", "ada.wav"], "ada.pt"),
        ("ada", ["ada.safetensors", "ada.wav"], "ada.safetensors"),
        ("ada.safetensors", ["ada.pt", "ada.safetensors"], "ada.safetensors"),
        ("NATF0", ["ada.pt"], None),
        ("NATF0.pt", [], None),
    ],
)
def test_a_voice_is_a_file_of_the_folder_or_comes_with_the_checkpoint(
    tmp_path: Path, voice: str, files: list[str], found: str | None
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"embeddings")
    write(tmp_path, ada=f'voice = "{voice}"')
    prompt = load(tmp_path).prompts["ada"]
    assert (prompt.voice, prompt.pcm) == (str(tmp_path / found) if found else voice, None)


def test_the_path_of_a_voice_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes everything else for the name of a voice."""
    monkeypatch.chdir(tmp_path)
    Path("ada.pt").write_bytes(b"embeddings")
    write(Path(), ada='voice = "ada"')
    assert load(Path()).prompts["ada"].voice == str(tmp_path / "ada.pt")


def test_too_many_files_are_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, ada=ADA)
    reader = read(tmp_path)
    write(tmp_path, **{f"p{number}": "wrong" for number in range(MOST_FILES)})
    assert not reader.refresh()
    assert list(reader.state.personas.by_name) == ["ada"]
    with pytest.raises(SettingsError, match=r"holds 1,001 files, more than 1,000$"):
        reader.load()


def test_a_recording_of_a_voice_comes_as_frames(tmp_path: Path) -> None:
    tone(tmp_path / "ada.wav")
    write(tmp_path, ada='voice = "ada"')
    prompt = load(tmp_path).prompts["ada"]
    assert prompt.voice == ""
    assert prompt.pcm is not None
    assert (prompt.pcm.shape, prompt.pcm.dtype.name) == ((13, 1_920), "float32")


def test_the_key_is_a_digest_of_text_and_voice_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "one.pt").write_bytes(b"one")
    (tmp_path / "same.pt").write_bytes(b"one")
    (tmp_path / "other.pt").write_bytes(b"other")
    tone(tmp_path / "said.wav")
    texts = {
        "a": 'prompt = "Hello."',
        "b": 'prompt = " Hello. "\ngreeting = "Hi."\nnotes = "as above"',
        "c": 'prompt = "Hello!"',
        "d": 'prompt = "Hello."\nvoice = "one"',
        "e": 'prompt = "Hello."\nvoice = "same"',
        "f": 'prompt = "Hello."\nvoice = "other"',
        "g": 'prompt = "Hello."\nvoice = "said"',
        "h": 'prompt = "Hello."\nvoice = "NATF0"',
        "i": 'voice = "one"',
        "j": f'prompt = "Hello."\nvoice = "{hashlib.sha256(b"one").hexdigest()}"',
    }
    write(tmp_path, **texts)
    keys = {name: prompt.key for name, prompt in load(tmp_path).prompts.items()}
    assert all(len(key) == 64 and int(key, 16) for key in keys.values())
    assert keys["a"] == keys["b"]
    assert keys["d"] == keys["e"]
    assert len(set(keys.values())) == len(texts) - 2


def test_what_is_edited_added_or_deleted_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, ada=ADA)
    (tmp_path / "voice.pt").write_bytes(b"one")
    reader = read(tmp_path)
    first = reader.state
    assert (reader.refresh(), reader.state is first) == (False, True)
    write(tmp_path, bob='prompt = "You are Bob."\nvoice = "voice"')
    assert (reader.refresh(), list(reader.state.personas.by_name)) == (True, ["ada", "bob"])
    key = reader.state.prompts["bob"].key
    (tmp_path / "voice.pt").write_bytes(b"two")
    assert (reader.refresh(), reader.state.prompts["bob"].key != key) == (True, True)
    (tmp_path / "ada.toml").unlink()
    assert (reader.refresh(), list(reader.state.personas.by_name)) == (True, ["bob"])
    assert not reader.refresh()


def test_a_file_of_the_same_length_and_time_that_takes_another_ones_place_is_read(tmp_path: Path) -> None:
    write(tmp_path, ada='greeting = "Hello."')
    reader = read(tmp_path)
    old, new = tmp_path / "ada.toml", tmp_path / "new"
    new.write_text('greeting = "Hallo."')
    os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    new.rename(old)
    assert reader.refresh()
    assert reader.state.personas.by_name["ada"].greeting == "Hallo."


def test_a_recording_is_decoded_once_as_long_as_it_stays(tmp_path: Path) -> None:
    tone(tmp_path / "ada.wav")
    write(tmp_path, ada='voice = "ada"\nprompt = "You are Ada."')
    reader = read(tmp_path)
    pcm = reader.state.prompts["ada"].pcm
    write(tmp_path, ada='voice = "ada"\nprompt = "You are Eve."')
    assert reader.refresh()
    assert reader.state.prompts["ada"].pcm is pcm


def test_a_wrong_edit_is_logged_once_and_the_last_good_state_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ada=ADA)
    reader = read(tmp_path, "ada")
    good = reader.state
    write(tmp_path, ada='greeting = "Hello', bob='greeting = "Bob here."')
    assert [reader.refresh() for _ in range(3)] == [False] * 3
    assert reader.state is good
    assert [record.getMessage() for record in caplog.records if "ada.toml: is no TOML" in record.getMessage()] != []
    assert len(caplog.records) == 1
    (tmp_path / "ada.toml").unlink()
    assert not reader.refresh(), "the default is missing"
    write(tmp_path, ada='greeting = "Hello."')
    assert reader.refresh()
    assert list(reader.state.personas.by_name) == ["ada", "bob"]


def test_a_file_that_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ada=ADA)
    reader = read(tmp_path)
    write(tmp_path, ada='greeting = "Hi."')
    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert not reader.refresh()
    assert reader.refresh()
    assert reader.state.personas.by_name["ada"].greeting == "Hi."


def test_a_folder_that_goes_away_for_a_while_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "personas"
    folder.mkdir()
    write(folder, ada=ADA)
    reader = read(folder)
    folder.rename(tmp_path / "away")
    assert (reader.refresh(), list(reader.state.personas.by_name)) == (False, ["ada"])
    (tmp_path / "away").rename(folder)
    reader.refresh()
    assert list(reader.state.personas.by_name) == ["ada"]
