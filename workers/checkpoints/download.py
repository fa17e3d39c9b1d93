"""Checkpoints from Hugging Face: only the files that are needed, with progress in bytes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from workers.checkpoints.files import (
    CONFIG,
    LORA,
    SETTING,
    CheckpointError,
    ReportProgress,
    missing_of,
    names_wanted,
    read_config,
)
from workers.checkpoints.voices import voices_wanted

log = logging.getLogger(__name__)


def fetch(repo: str, progress: ReportProgress, quantize: int | None = None, setting: str = SETTING) -> Path:
    """Return the folder in Hugging Face's cache that holds the checkpoint, downloading what is missing.

    When Hugging Face cannot be reached, or answers with an error, what an earlier start has downloaded is used, if it
    is whole. Raises CheckpointError.
    """

    def is_whole(folder: Path) -> bool:
        present = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        config = read_config(folder / CONFIG if CONFIG in present else None, setting)
        return not missing_of(names_wanted(config, present, quantize), present)

    return _explain(setting, repo, lambda: _download(repo, progress, quantize, setting), is_whole)


def fetch_lora(repo: str, progress: ReportProgress) -> Path:
    """Return the folder in Hugging Face's cache that holds a LoRA and its config, as `fetch` does."""
    return _explain("MOSHI_LORA", repo, lambda: _download_lora(repo, progress), lambda folder: (folder / LORA).exists())


def _explain(name: str, repo: str, download: Callable[[], Path], is_whole: Callable[[Path], bool]) -> Path:
    """Return what `download` returns, or what was downloaded earlier; for the setting `name`.

    Raises CheckpointError with what to do.
    """
    try:
        return download()
    except HFValidationError as error:
        raise _no_name(repo, name) from error
    except (HfHubHTTPError, NetworkError, OSError) as error:
        reason = _reason(error, repo)
        if (folder := cached(repo, name)) and is_whole(folder):
            if not isinstance(error, OfflineModeIsEnabled):
                log.warning("%s=hf://%s: %s; what was downloaded earlier is used", name, repo, reason)
            return folder
        raise CheckpointError(f"{name}=hf://{repo}: {reason}") from error


def _reason(error: Exception, repo: str) -> str:
    match error:
        case GatedRepoError():
            licence = f"accept its licence at https://huggingface.co/{repo}"
            return f"gated; {licence}, then type .venv/bin/hf auth login (or set HF_TOKEN)"
        case RepositoryNotFoundError():
            return "no such repository (or a private one: set HF_TOKEN)"
        case HfHubHTTPError():
            return f"Hugging Face answered with an error ({_line(error)}); try again"
        case _:
            return f"cannot be reached ({_line(error)}); check the network, or name a folder that holds it"


def cached(repo: str, name: str = SETTING) -> Path | None:
    """Return the folder of what was downloaded earlier, None when nothing was. Raises CheckpointError."""
    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise _no_name(repo, name) from error


def _no_name(repo: str, name: str) -> CheckpointError:
    return CheckpointError(f"{name}=hf://{repo}: not a repository name; write hf://owner/repo")


def _download(repo: str, progress: ReportProgress, quantize: int | None, setting: str) -> Path:
    present, bar = _names_in(repo), _bar(progress)
    config = Path(hf_hub_download(repo, CONFIG, tqdm_class=bar)) if CONFIG in present else None
    names = names_wanted(read_config(config, setting), present, quantize)
    if missing := missing_of(names, present):
        raise CheckpointError(f"{setting}=hf://{repo}: {missing}")
    paths = [Path(hf_hub_download(repo, name, tqdm_class=bar)) for name in (*names, *voices_wanted(present))]
    return paths[0].parent


def _download_lora(repo: str, progress: ReportProgress) -> Path:
    present, bar = _names_in(repo), _bar(progress)
    if LORA not in present:
        raise CheckpointError(f"MOSHI_LORA=hf://{repo}: the repository has no {LORA}; name another one")
    if CONFIG in present:
        hf_hub_download(repo, CONFIG, tqdm_class=bar)
    return Path(hf_hub_download(repo, LORA, tqdm_class=bar)).parent


def _names_in(repo: str) -> list[str]:
    return [sibling.rfilename for sibling in HfApi().model_info(repo, timeout=10).siblings or []]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _bar(progress: ReportProgress) -> type[Any]:
    """Return a tqdm that reports instead of drawing."""

    class Bar(tqdm):
        def __init__(self, *args: Any, desc: str = "", **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.file = desc

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            progress(self.file, int(self.n), int(self.total or 0))
            return None

    return Bar
