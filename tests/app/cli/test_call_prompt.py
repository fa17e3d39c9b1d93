"""`make-call --prompt` against a bridge in our hands."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.bridge import MOST_FILE_BYTES, NotReady, prepare_prompt, read_prompt_text
from app.config import Settings, SettingsError, read_settings


@asynccontextmanager
async def bridge(status: int, answer: object) -> AsyncIterator[tuple[Settings, list[object]]]:
    """Yield the settings of a bridge that answers so, and what it is sent."""
    asked: list[object] = []

    async def prepare(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response(answer, status=status)

    application = web.Application()
    application.router.add_post("/api/prompts", prepare)
    async with TestServer(application) as server:
        yield read_settings(port=server.port), asked


async def test_the_text_goes_to_the_bridge_and_an_id_comes_back() -> None:
    async with bridge(201, {"id": "x_-1"}) as (settings, asked):
        assert await prepare_prompt(settings, "You are Eve.", "ada") == "x_-1"
        assert await prepare_prompt(settings, "", "ada") == ""
    assert asked == [{"text": "You are Eve.", "persona": "ada"}]


@pytest.mark.parametrize(
    ("status", "answer", "error", "line"),
    [
        (
            422,
            {"detail": "this checkpoint\ntakes no prompt"},
            SettingsError,
            "--prompt: this checkpoint takes no prompt",
        ),
        (503, {"detail": "4 prompts wait"}, NotReady, "--prompt: 4 prompts wait"),
        (403, {}, NotReady, "--prompt: the service refuses operators"),
        (404, {}, NotReady, "--prompt: .*or another version of it"),
        (422, [], NotReady, "--prompt: .*or another version of it"),
        (201, [], NotReady, "--prompt: .*or another version of it"),
        (503, {}, NotReady, "--prompt: .*or another version of it"),
    ],
)
async def test_what_the_bridge_refuses_is_one_line(
    status: int, answer: object, error: type[Exception], line: str
) -> None:
    async with bridge(status, answer) as (settings, _):
        with pytest.raises(error, match=rf"\A{line}[^\n]*\Z"):
            await prepare_prompt(settings, "You are Eve.", "")


def test_a_text_is_itself_and_a_file_after_an_at_sign_is_read(tmp_path: Path) -> None:
    (tmp_path / "eve.txt").write_bytes(b"\xef\xbb\xbfYou are Eve.\n")
    assert read_prompt_text(None) == ""
    assert read_prompt_text("You are Eve.") == "You are Eve."
    assert read_prompt_text(f"@{tmp_path / 'eve.txt'}") == "You are Eve.\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "is not UTF-8"),
        (b" \n", "the text is empty"),
        (b"x" * (MOST_FILE_BYTES + 1), "more than 65,536 bytes"),
    ],
)
def test_a_file_that_holds_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes | None, line: str) -> None:
    if content is not None:
        (tmp_path / "eve.txt").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"\A--prompt[^\n]*{line}[^\n]*\Z"):
        read_prompt_text(f"@{tmp_path / 'eve.txt'}")


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="the text is empty"):
        read_prompt_text(" ")
