"""A voice's name leads to its file; an archive of voices is unpacked once, and nothing but voices comes out of it."""

import gzip
import io
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workers.conftest import Make
from workers.checkpoints import voices
from workers.checkpoints.files import CheckpointError, files_in
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.locate import locate
from workers.checkpoints.voices import VOICES_ARCHIVE, find_voice, unpack_voices, voice_names


def archive_of(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name, body = name, content if isinstance(content, bytes) else b""
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def link(kind: bytes, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, to
    return info


def test_an_archive_beside_the_model_is_unpacked_into_the_cache_once(make: Make, tmp_path: Path) -> None:
    folder, cache = make(), tmp_path / "cache"
    archive_of(folder / VOICES_ARCHIVE, [("voices/NATF0.pt", b"first"), ("voices/VARM4.safetensors", b"second")])
    before = sorted(folder.rglob("*"))
    files = locate(str(folder), cache, silent)
    assert voice_names(files) == ["NATF0", "VARM4"]
    assert find_voice(files, "NATF0").read_bytes() == b"first"
    assert find_voice(files, "VARM4").read_bytes() == b"second"
    assert find_voice(files, "NATF0").is_relative_to(cache)
    assert sorted(folder.rglob("*")) == before, "the checkpoint's folder stays as it was"
    made = find_voice(files, "NATF0").stat().st_ino
    assert find_voice(locate(str(folder), cache, silent), "NATF0").stat().st_ino == made


def test_another_archive_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first = unpack_voices(archive_of(tmp_path / "a.tgz", [("voices/A.pt", b"1")]), tmp_path / "cache")
    second = unpack_voices(archive_of(tmp_path / "b.tgz", [("voices/B.pt", b"2")]), tmp_path / "cache")
    assert [path.name for folder in (first, second) for path in folder.iterdir()] == ["A.pt", "B.pt"]


def test_only_voices_are_unpacked(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | tarfile.TarInfo]] = [
        ("voices", link(tarfile.DIRTYPE, "")),
        ("./voices/NATF0.pt", b"a voice"),
        ("../escaped.pt", b"x"),
        ("voices/../../escaped.pt", b"x"),
        (f"{tmp_path}/voices/absolute.pt", b"x"),
        ("voices/._NATF0.pt", b"x"),
        ("voices/readme.txt", b"x"),
        ("voices/deeper/NATF1.pt", b"x"),
        ("voices/link.pt", link(tarfile.SYMTYPE, "/etc/passwd")),
        ("voices/hard.pt", link(tarfile.LNKTYPE, "voices/NATF0.pt")),
        ("voices/device.pt", link(tarfile.CHRTYPE, "")),
    ]
    folder = unpack_voices(archive_of(tmp_path / VOICES_ARCHIVE, members), tmp_path / "cache" / "here")
    assert [path.name for path in folder.iterdir()] == ["NATF0.pt"]
    found = {path.name for path in tmp_path.rglob("*.pt")}
    assert found == {"NATF0.pt"}


def refused(archive: Path) -> str:
    with pytest.raises(CheckpointError, match=r"^MOSHI_CHECKPOINT: .*voices\.tgz") as caught:
        unpack_voices(archive, archive.parent / "cache")
    assert "\n" not in str(caught.value)
    assert not [path for path in (archive.parent / "cache").iterdir() if path.suffix not in (".part", ".lock")]
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", gzip.compress(b"no tar at all" * 99)], ids=["empty", "text", "gzip"]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / VOICES_ARCHIVE).write_bytes(content)
    assert "cannot be unpacked" in refused(tmp_path / VOICES_ARCHIVE)


def test_an_archive_cut_short_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / VOICES_ARCHIVE, [("voices/A.pt", bytes(range(256)) * 4000)])
    path.write_bytes(path.read_bytes()[:-2000])
    assert "cannot be unpacked" in refused(path)


@pytest.mark.parametrize("limit", ["LARGEST_ARCHIVE", "MOST_VOICES"])
def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, limit, {"LARGEST_ARCHIVE": 9_999, "MOST_VOICES": 2}[limit])
    refused(archive_of(tmp_path / VOICES_ARCHIVE, [(f"voices/{n}.pt", bytes(1_000)) for n in range(10)]))


def extended(facts: bytes) -> bytes:
    """Return the header of a voice with these facts of pax."""
    before = tarfile.TarInfo("facts")
    before.type, before.size = tarfile.XHDTYPE, len(facts)
    return before.tobuf() + facts + bytes(-len(facts) % 512) + tarfile.TarInfo("voices/A.pt").tobuf()


def many_long_names() -> bytes:
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return (info.tobuf() + bytes(512)) * 3_000


@pytest.mark.parametrize(
    "content",
    [many_long_names(), extended(b"16 mtime=1e4000\n"), extended(b"27 GNU.sparse.map=a,b,c,de\n")],
    ids=["deep", "far future", "sparse"],
)
def test_headers_on_which_tarfile_stumbles_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / VOICES_ARCHIVE).write_bytes(gzip.compress(content + bytes(1024)))
    assert "cannot be unpacked" in refused(tmp_path / VOICES_ARCHIVE)


def test_a_header_as_large_as_the_memory_is_not_read(tmp_path: Path) -> None:
    size = 300 << 20
    (tmp_path / VOICES_ARCHIVE).write_bytes(gzip.compress(extended(bytes(size)), 1))
    tracemalloc.start()
    assert "more than 256 MiB" in refused(tmp_path / VOICES_ARCHIVE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 10


@pytest.mark.parametrize("name", ["", "../NATF0", "voices/NATF0", "/etc/passwd", "NATF0.pt", ".", "a b", "x" * 99])
def test_a_voice_is_a_name_never_a_path(make: Make, name: str) -> None:
    files = replace(files_in(make(), "here"), voices=Path("/"))
    with pytest.raises(CheckpointError, match="is no voice's name") as caught:
        find_voice(files, name)
    assert "\n" not in str(caught.value)


def test_an_unknown_voice_is_refused_with_those_that_exist(make: Make) -> None:
    folder = make()
    with pytest.raises(CheckpointError, match="has no voice NATF9; it has none"):
        find_voice(files_in(folder, "here"), "NATF9")
    (folder / "voices").mkdir()
    for name in ("NATM1.pt", "NATF0.safetensors", "notes.txt"):
        (folder / "voices" / name).write_text("")
    with pytest.raises(CheckpointError, match=r"has no voice NATF9; it has NATF0, NATM1$"):
        find_voice(files_in(folder, "here"), "NATF9")
