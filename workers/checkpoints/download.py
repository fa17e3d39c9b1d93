"""Checkpoints from Hugging Face: only the files that are needed, with progress in bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
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


def fetch(repo: str, progress: ReportProgress, quantize: int | None = None, setting: str = SETTING) -> Path:
    """Return the folder in Hugging Face's cache that holds the checkpoint, downloading what is missing.

    Without a network, what an earlier start has downloaded is used. Raises CheckpointError.
    """
    return _explain(setting, repo, lambda: _download(repo, progress, quantize, setting))


def fetch_lora(repo: str, progress: ReportProgress) -> Path:
    """Return the folder in Hugging Face's cache that holds a LoRA and its config, as `fetch` does."""
    return _explain("MOSHI_LORA", repo, lambda: _download_lora(repo, progress))


def _explain(name: str, repo: str, download: Callable[[], Path]) -> Path:
    """Return what `download` returns; for the setting `name`. Raises CheckpointError with what to do."""
    setting = f"{name}=hf://{repo}"
    try:
        return download()
    except GatedRepoError as error:
        hint = (
            f"accept its licence at https://huggingface.co/{repo}, then type .venv/bin/hf auth login (or set HF_TOKEN)"
        )
        raise CheckpointError(f"{setting}: gated; {hint}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{setting}: no such repository (or a private one: set HF_TOKEN)") from error
    except HFValidationError as error:
        raise _no_name(repo, name) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{setting}: Hugging Face answered with an error ({_line(error)}); try again") from error
    except (NetworkError, OSError) as error:
        if folder := cached(repo, name):
            return folder
        hint = "check the network, or name a folder that holds it"
        raise CheckpointError(f"{setting}: cannot be reached ({_line(error)}); {hint}") from error


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
