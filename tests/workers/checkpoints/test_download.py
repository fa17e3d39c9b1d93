"""Checkpoints from Hugging Face, with a server of our own in its place."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import mlx.core as mx
import pytest
from huggingface_hub import constants

from tests.workers.conftest import Make
from workers.checkpoints.files import CONFIG, LORA, CheckpointError
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.locate import locate
from workers.checkpoints.voices import VOICES_ARCHIVE, find_voice

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/moshi"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one folder as one repository."""

    folder: ClassVar[Path]
    url: ClassVar[str]
    error: ClassVar[tuple[int, str] | None] = None
    listed: ClassVar[bool] = False
    """Whether the names of the files are told in spite of an error, as those of a gated repository are."""
    fetched: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        if self.error and not (self.listed and self.path.startswith("/api/")):
            self.send_response(self.error[0])
            self.send_header("X-Error-Code", self.error[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        name = self.path.partition("/resolve/main/")[2]
        body = self.listing() if self.path.startswith("/api/") else (self.folder / name).read_bytes()
        if with_body and not self.path.startswith("/api/"):
            self.fetched.append(Path(self.path).name)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def listing(self) -> bytes:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        siblings = [{"rfilename": path.relative_to(self.folder).as_posix()} for path in paths]
        return json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Let huggingface_hub talk to a server on this machine, with an empty cache."""
    Hub.folder, Hub.error, Hub.listed = make(bits=4), None, False
    Hub.fetched.clear()
    (Hub.folder / "README.md").write_text("not needed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", Hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", Hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_what_is_needed_is_fetched_and_progress_told(hub: type[Hub], tmp_path: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    files = locate(f"hf://{REPO}", tmp_path, lambda what, done, total: told.update({what: (done, total)}))
    assert files.model.read_bytes() == (hub.folder / "model.q4.safetensors").read_bytes()
    assert sorted(hub.fetched) == sorted(path.name for path in hub.folder.iterdir() if path.name != "README.md")
    size = files.model.stat().st_size
    assert [counts for what, counts in told.items() if "model.q4" in what] == [(size, size)]


def test_what_is_there_is_not_fetched_again_and_serves_without_a_network(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=rf"^MOSHI_CHECKPOINT=hf://{REPO}: cannot be reached .*; check the netw"):
        locate(f"hf://{REPO}", Path("unused"), silent)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    first = locate(f"hf://{REPO}", Path("unused"), silent)
    hub.fetched.clear()
    assert locate(f"hf://{REPO}", Path("unused"), silent) == first
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert locate(f"hf://{REPO}", Path("unused"), silent) == first
    assert hub.fetched == []


ANSWERS = [(500, ""), (503, ""), (429, ""), (401, ""), (403, "GatedRepo"), (404, "RepoNotFound")]


@pytest.mark.parametrize("error", ANSWERS, ids=str)
def test_what_is_there_serves_whatever_the_hub_answers_if_it_is_whole(hub: type[Hub], error: tuple[int, str]) -> None:
    first = locate(f"hf://{REPO}", Path("unused"), silent)
    hub.error = error
    assert locate(f"hf://{REPO}", Path("unused"), silent) == first
    first.mimi.unlink()
    with pytest.raises(CheckpointError, match=rf"^MOSHI_CHECKPOINT=hf://{REPO}: (?!.*is missing)"):
        locate(f"hf://{REPO}", Path("unused"), silent)


@pytest.mark.parametrize("setting", ["MOSHI_CHECKPOINT", "MOSHI_LORA"])
@pytest.mark.parametrize(
    ("error", "listed", "advice"),
    [
        ((403, "GatedRepo"), False, f"gated; accept its licence at .*/{REPO}, then type .venv/bin/hf auth login"),
        ((403, "GatedRepo"), True, f"gated; accept its licence at .*/{REPO}, then type .venv/bin/hf auth login"),
        ((404, "RepoNotFound"), False, "no such repository"),
        ((500, ""), False, "500"),
    ],
    ids=["gated", "gated but listed", "unknown", "broken"],
)
def test_what_the_hub_answers_is_put_in_plain_words(
    hub: type[Hub], error: tuple[int, str], listed: bool, advice: str, setting: str
) -> None:
    (hub.folder / LORA).write_bytes(b"")
    spec = str(hub.folder) if setting == "MOSHI_LORA" else f"hf://{REPO}"
    hub.error, hub.listed = error, listed
    with pytest.raises(CheckpointError, match=rf"^{setting}=hf://{REPO}: .*{advice}") as caught:
        locate(spec, Path("unused"), silent, lora=f"hf://{REPO}")
    assert "\n" not in str(caught.value)


def test_a_lora_is_fetched_with_its_config(hub: type[Hub], tmp_path: Path) -> None:
    checkpoint = hub.folder
    hub.folder = tmp_path / "tuned"
    hub.folder.mkdir()
    mx.save_safetensors(str(hub.folder / LORA), {"text_linear.lora_A.weight": mx.zeros((2, 4))})
    (hub.folder / CONFIG).write_text('{"lora_rank": 2, "lora_scaling": 1.25}')
    (hub.folder / "consolidated.safetensors").write_text("not needed")
    lora = locate(str(checkpoint), tmp_path, silent, lora=f"hf://{REPO}").lora
    assert lora
    assert (lora.scaling, lora.rank) == (1.25, 2)
    assert lora.weights.read_bytes() == (hub.folder / LORA).read_bytes()
    assert sorted(hub.fetched) == [CONFIG, LORA]
    (hub.folder / LORA).unlink()
    with pytest.raises(CheckpointError, match=rf"^MOSHI_LORA=hf://{REPO}: the repository has no lora\.safetensors"):
        locate(str(checkpoint), tmp_path, silent, lora=f"hf://{REPO}")


def test_voices_are_fetched_too_in_an_archive_or_one_by_one(hub: type[Hub], tmp_path: Path) -> None:
    (hub.folder / "voices").mkdir()
    (hub.folder / "voices" / "NATF0.pt").write_bytes(b"a voice")
    files = locate(f"hf://{REPO}", tmp_path / "cache", silent)
    assert find_voice(files, "NATF0").read_bytes() == b"a voice"
    with tarfile.open(hub.folder / VOICES_ARCHIVE, "w:gz") as archive:
        archive.add(hub.folder / "voices" / "NATF0.pt", "voices/NATF1.pt")
    shutil.rmtree(hub.folder / "voices")
    shutil.rmtree(tmp_path / "hub")
    files = locate(f"hf://{REPO}", tmp_path / "cache", silent)
    assert VOICES_ARCHIVE in hub.fetched
    assert find_voice(files, "NATF1").read_bytes() == b"a voice"


def test_a_repository_without_a_model_and_a_name_that_is_none_are_refused(hub: type[Hub]) -> None:
    (hub.folder / "model.q4.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        locate(f"hf://{REPO}", Path("unused"), silent)
    with pytest.raises(CheckpointError, match="write hf://owner/repo"):
        locate("hf://a/b/c", Path("unused"), silent)
