"""The voices that come with a checkpoint: PersonaPlex's `voices.tgz`, unpacked, and files in a folder `voices`."""

import gzip
import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from workers.checkpoints.files import VOICES, CheckpointError, Files
from workers.checkpoints.made_once import made_once

VOICES_ARCHIVE = "voices.tgz"
KINDS = (".pt", ".safetensors")
LARGEST_ARCHIVE = 256 << 20
"""Bytes unpacked: NVIDIA's 18 voices have a few hundred embeddings of 8 KiB each."""
MOST_VOICES = 256
HEADERS = 4 << 20
"""Bytes of an archive beside its files."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def voices_wanted(present: list[str]) -> list[str]:
    """Return what a place that holds the files `present` has of voices: the archive, or else its voices one by one."""
    loose = [name for name in present if name.startswith(f"{VOICES}/") and name.endswith(KINDS)]
    return [VOICES_ARCHIVE] if VOICES_ARCHIVE in present else sorted(loose)[:MOST_VOICES]


def find_voice(files: Files, name: str) -> Path:
    """Return the file of one of the checkpoint's voices. Raises CheckpointError, in one line."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name!r:.80} is no voice's name: letters, digits, - and _, without .pt")
    present = [files.voices / f"{name}{kind}" for kind in KINDS] if files.voices else []
    for path in present:
        if path.is_file():
            return path
    raise CheckpointError(f"the checkpoint has no voice {name}; it has {', '.join(voice_names(files)) or 'none'}")


def voice_names(files: Files) -> list[str]:
    """Return the names of the checkpoint's voices, sorted."""
    present = files.voices.iterdir() if files.voices else ()
    return sorted({path.stem for path in present if path.suffix in KINDS and _NAME.fullmatch(path.stem)})


def unpack_voices(archive: Path, cache: Path) -> Path:
    """Return a folder in `cache` with the voices of a `.tgz`, unpacked once by its content. Raises CheckpointError."""
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return made_once(cache / f"voices-{digest[:16]}", lambda folder: _unpack(archive, folder)) / VOICES
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged archive can raise almost anything
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            reason = f"{error.filename or archive}: {error.strerror or error}"
            raise CheckpointError(f"CACHE_DIR={cache}: {archive.name} cannot be unpacked ({reason})") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "delete the file and fetch it anew"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {archive} cannot be unpacked ({reason}); {hint}") from error


def _unpack(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        hint = "unpack it beside the model, or take Python 3.11.4 or later"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {archive} cannot be unpacked safely; {hint}")
    _check_size(archive)
    (folder / VOICES).mkdir(parents=True)
    with tarfile.open(archive, "r:gz") as tar:
        for member in _voices_in(tar, archive):
            tar.extract(member, folder, filter="data")


def _check_size(archive: Path) -> None:
    """Refuse what unpacks to more than voices do: `tarfile` reads some headers whole, however long they are."""
    with gzip.open(archive) as file:
        size = 0
        while part := file.read(1 << 20):
            size += len(part)
            if size > LARGEST_ARCHIVE + HEADERS:
                raise _too_much(archive)


def _too_much(archive: Path) -> CheckpointError:
    limit = f"more than {LARGEST_ARCHIVE >> 20} MiB or {4 * MOST_VOICES} files"
    return CheckpointError(f"MOSHI_CHECKPOINT: {archive} holds {limit}; fetch it anew, from NVIDIA")


def _voices_in(tar: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files voices/NAME.pt and NAME.safetensors; nothing else is unpacked, links least of all."""
    size = 0
    for count, member in enumerate(tar, 1):
        size += max(0, member.size)
        if size > LARGEST_ARCHIVE or count > 4 * MOST_VOICES:
            raise _too_much(archive)
        path = Path(member.name)
        if member.isreg() and path.parent == Path(VOICES) and path.suffix in KINDS and _NAME.fullmatch(path.stem):
            yield member
