"""Checkpoints from Hugging Face, with a server of our own in its place."""

import json
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from huggingface_hub import constants

from tests.workers.conftest import Make
from workers.checkpoints.files import CheckpointError
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.locate import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/moshi"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one folder as one repository."""

    folder: ClassVar[Path]
    url: ClassVar[str]
    error: ClassVar[tuple[int, str] | None] = None
    fetched: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        if self.error:
            self.send_response(self.error[0])
            self.send_header("X-Error-Code", self.error[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.listing() if self.path.startswith("/api/") else (self.folder / Path(self.path).name).read_bytes()
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
        siblings = [{"rfilename": path.name} for path in self.folder.iterdir()]
        return json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Let huggingface_hub talk to a server on this machine, with an empty cache."""
    Hub.folder, Hub.error = make(bits=4), None
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


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ((403, "GatedRepo"), "gated; accept its licence"),
        ((404, "RepoNotFound"), "no such repository"),
        ((500, ""), "500"),
    ],
    ids=["gated", "unknown", "broken"],
)
def test_what_the_hub_answers_is_put_in_plain_words(hub: type[Hub], error: tuple[int, str], advice: str) -> None:
    hub.error = error
    with pytest.raises(CheckpointError, match=rf"^MOSHI_CHECKPOINT=hf://{REPO}: .*{advice}") as caught:
        locate(f"hf://{REPO}", Path("unused"), silent)
    assert "\n" not in str(caught.value)


def test_a_repository_without_a_model_and_a_name_that_is_none_are_refused(hub: type[Hub]) -> None:
    (hub.folder / "model.q4.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        locate(f"hf://{REPO}", Path("unused"), silent)
    with pytest.raises(CheckpointError, match="write hf://owner/repo"):
        locate("hf://a/b/c", Path("unused"), silent)
