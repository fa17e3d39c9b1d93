"""Finds, fetches or makes the checkpoint that MOSHI_CHECKPOINT names: `hf://owner/repo`, a folder, or `synthetic:…`."""

from pathlib import Path

from workers.checkpoints.files import CheckpointError, Files, ReportProgress, files_in


def locate(spec: str, cache: Path, progress: ReportProgress, quantize: int | None = None) -> Files:
    """Return the files that `spec` names, whole. Raises CheckpointError.

    `cache` is where synthetic checkpoints are made; downloads go to Hugging Face's own cache. Of several models in one
    place the one that `quantize` (None, 4 or 8) asks for is taken.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "hf":
        from workers.checkpoints.download import fetch

        return files_in(fetch(rest.removeprefix("//"), progress, quantize), spec, quantize)
    if scheme == "synthetic":
        return files_in(_make(rest, cache, progress), spec, quantize)
    return files_in(Path(spec).expanduser(), spec, quantize)


def _make(rest: str, cache: Path, progress: ReportProgress) -> Path:
    from workers.checkpoints.synthetic import make_synthetic

    try:
        return make_synthetic(rest, cache, progress=progress)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        reason = f"{error.filename or cache}: {error.strerror or error}"
        raise CheckpointError(f"CACHE_DIR={cache} cannot be written ({reason}); name another folder") from error
