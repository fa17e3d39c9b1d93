"""Finds, fetches or makes the checkpoint that MOSHI_CHECKPOINT or TRANSCRIBE names.

`hf://owner/repo`, a folder, or `synthetic:…`.
"""

from dataclasses import replace
from pathlib import Path

from workers.checkpoints.files import (
    SETTING,
    CheckpointError,
    Files,
    Lora,
    ReportProgress,
    files_in,
    lora_in,
    read_config,
)
from workers.checkpoints.voices import VOICES_ARCHIVE, unpack_voices


def locate(spec: str, cache: Path, progress: ReportProgress, quantize: int | None = None, lora: str = "") -> Files:
    """Return the files that `spec` names, whole, with the LoRA that `lora` names. Raises CheckpointError.

    `cache` is where synthetic checkpoints are made and voices unpacked; downloads go to Hugging Face's own cache. Of
    several models in one place the one that `quantize` (None, 4 or 8) asks for is taken.
    """
    files = _locate(spec, cache, progress, quantize)
    if not lora and (name := read_config(files.config).get("lora_name")):
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: belongs to a LoRA, {name}: set MOSHI_LORA to the same place")
    archive = files.model.parent / VOICES_ARCHIVE
    voices = files.voices or (unpack_voices(archive, cache) if archive.is_file() else None)
    return replace(files, voices=voices, lora=_locate_lora(lora, progress) if lora else None)


def _locate_lora(spec: str, progress: ReportProgress) -> Lora:
    if not spec.startswith("hf:"):
        return lora_in(Path(spec).expanduser(), spec)
    from workers.checkpoints.download import fetch_lora

    return lora_in(fetch_lora(spec.removeprefix("hf:").removeprefix("//"), progress), spec)


def locate_stt(spec: str, cache: Path, progress: ReportProgress, quantize: int | None = None) -> Files:
    """Return the files of the speech-to-text that TRANSCRIBE names, as `locate` does."""
    return _locate(spec, cache, progress, quantize, "TRANSCRIBE")


def _locate(spec: str, cache: Path, progress: ReportProgress, quantize: int | None, setting: str = SETTING) -> Files:
    scheme, _, rest = spec.partition(":")
    if scheme == "hf":
        from workers.checkpoints.download import fetch

        return files_in(fetch(rest.removeprefix("//"), progress, quantize, setting), spec, quantize, setting)
    if scheme == "synthetic":
        return files_in(_make(rest, cache, progress, setting), spec, quantize, setting)
    return files_in(Path(spec).expanduser(), spec, quantize, setting)


def _make(rest: str, cache: Path, progress: ReportProgress, setting: str) -> Path:
    from workers.checkpoints.synthetic import make_synthetic

    try:
        return make_synthetic(rest, cache, progress=progress, setting=setting)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        reason = f"{error.filename or cache}: {error.strerror or error}"
        raise CheckpointError(f"CACHE_DIR={cache} cannot be written ({reason}); name another folder") from error
