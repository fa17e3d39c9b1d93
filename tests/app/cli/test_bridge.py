"""What `make-call` learns of the bridge before and after a call, and has prepared there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.bridge import (
    MOST_FILE_BYTES,
    NotReady,
    find_bridge,
    prepare_prompt,
    read_prompt_text,
    refusal,
    require_persona,
)
from app.config import Settings, SettingsError, read_settings
from app.twilio.events import CallSid

Answer = tuple[int, object]
"""Status and JSON; text is sent as it is."""


@asynccontextmanager
async def bridge(
    ready: int = 200, alive: int = 200, asked: list[object] | None = None, **answers: Answer
) -> AsyncIterator[Settings]:
    """Serve these answers, by the last part of the path; add the JSON that is sent to `asked`."""
    known: dict[str, Answer] = {"public": (404, ""), "CA1": (404, ""), "readyz": (ready, ""), **answers}

    async def answer(request: web.Request) -> web.Response:
        if asked is not None:
            asked.append(await request.json())
        status, told = known.get(request.path.rpartition("/")[2], (alive, ""))
        text = told if isinstance(told, str) else json.dumps(told)
        return web.Response(status=status, text=text, content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        yield read_settings(port=server.port, twilio_api_url="http://127.0.0.1:1")


@pytest.mark.parametrize("told", [None, [], {}, {"base_url": 7}, '"…"'])
async def test_a_bridge_that_does_not_say_is_taken_to_be_at_its_public_url(told: object) -> None:
    async with bridge(public=(404 if told is None else 200, told)) as settings:
        assert await find_bridge(settings) == settings.server.base_url


async def test_a_bridge_knows_best_where_it_is_reached() -> None:
    async with bridge() as elsewhere:
        tunnel = f"{elsewhere.server.base_url}/tunnel"
        async with bridge(public=(200, {"base_url": tunnel})) as settings:
            assert await find_bridge(settings) == tunnel


@pytest.mark.parametrize(
    ("ready", "alive", "changes", "named"),
    [
        (503, 200, {}, "no call now"),
        (404, 200, {}, "no bridge at .*404"),
        (200, 530, {}, "PUBLIC_URL=.*530"),
        (200, 200, {"public_url": "http://me:secret@127.0.0.1:1"}, "is the tunnel up"),
        (200, 200, {"twilio_api_url": ""}, "PUBLIC_URL: Twilio cannot reach http://127"),
        (200, 200, {"port": 1}, "moshi-bridge serve"),
    ],
    ids=["full", "another service", "tunnel", "nothing there", "loopback", "no bridge"],
)
async def test_a_bridge_that_is_not_ready_is_reported_in_one_line(
    ready: int, alive: int, changes: dict[str, object], named: str
) -> None:
    async with bridge(ready, alive) as settings:
        with pytest.raises(NotReady, match=named) as caught:
            await find_bridge(settings.replaced(**changes))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ('{"refused": "busy", "end": null}', "busy"),
        *((record, "") for record in ('{"end": "caller hung up"}', '{"refused": null}', "[]", "", "<html/>", None)),
    ],
)
async def test_a_bridge_reports_why_it_did_not_take_a_call(record: str | None, why: str) -> None:
    async with bridge(CA1=(404 if record is None else 200, record)) as settings:
        assert await refusal(settings, CallSid("CA1")) == why
    assert await refusal(settings, CallSid("CA1")) == "", "it is gone"


async def test_a_host_that_is_none_is_reported() -> None:
    with pytest.raises(SettingsError, match="HOST=x86_64-conda-linux-gnu is no address"):
        await find_bridge(read_settings(host="x86_64-conda-linux-gnu"))


async def test_a_bridge_that_does_not_say_its_personas_gets_no_call_for_one() -> None:
    async with bridge(alive=404) as settings:
        await require_persona(settings, "")
        with pytest.raises(NotReady, match=r"--persona ada: .*404"):
            await require_persona(settings, "ada")


async def test_the_text_goes_to_the_bridge_and_an_id_comes_back() -> None:
    asked: list[object] = []
    async with bridge(asked=asked, prompts=(201, {"id": "x_-1"})) as settings:
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
    async with bridge(prompts=(status, answer)) as settings:
        with pytest.raises(error, match=rf"\A{line}[^\n]*\Z"):
            await prepare_prompt(settings, "You are Eve.", "")


def test_a_text_is_itself_and_a_file_after_an_at_sign_is_read(tmp_path: Path) -> None:
    (tmp_path / "eve.txt").write_bytes(b"\xef\xbb\xbfYou are Eve.\n")
    assert read_prompt_text(None) == ""
    assert read_prompt_text("You are Eve.") == "You are Eve."
    assert read_prompt_text(f"@{tmp_path / 'eve.txt'}") == "You are Eve.\n"
    with pytest.raises(SettingsError, match="the text is empty"):
        read_prompt_text(" ")


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
