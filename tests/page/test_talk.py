"""The talk page in a real browser with a microphone that speaks; the line test's caller hears themselves."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from tests.page.running import TUNNEL, Running, serving
from tests.page.test_page import COLOURS, NAMELESS, UNRESOLVED, contrast
from tests.processes.pipeline import PATIENCE_S

if TYPE_CHECKING:
    from playwright.async_api import Page, WebSocket, WebSocketRoute

async_api = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
expect = async_api.expect
expect.set_options(timeout=PATIENCE_S * 1000)

TOKEN = "a-token-for-chats-only"
ELSEWHERE = "phone.localhost"
"""To a browser this machine, so that there is a microphone; to the service the name of another one."""
HEARD = re.compile(r"^-[1-3]?\d$")
"""Louder than -40 dBFS."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("talk")
    (folder / "bob.toml").write_text('greeting = "Hello"\n')
    async with serving(folder, chat_token=TOKEN) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def microphone(page: "Page") -> "AsyncIterator[Page]":
    """The page, allowed to hear; of its requests none may fail or leave the service."""
    wrong: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.on("websocket", lambda socket: hosts.add(socket.url.split("/")[2]))
    await page.context.grant_permissions(["microphone"])
    yield page
    assert wrong == []
    assert len(hosts) == 1


async def begin(page: "Page", url: str) -> None:
    await page.goto(url)
    await page.get_by_role("button", name="Call Moshi").click()
    await expect(page.locator("#state")).to_have_text("active")


def the_call(running: Running) -> ActiveCall:
    (call,) = running.service.manager.calls
    return call


async def hang_up(running: Running, page: "Page") -> None:
    await page.get_by_role("button", name="Hang up").click()
    await expect(page.locator("#state")).to_have_text("ended")
    await asyncio.wait_for(running.service.manager.no_calls.wait(), PATIENCE_S)


async def test_sound_goes_both_ways_and_words_and_latency_are_shown_by_the_keyboard_alone(
    running: Running, microphone: "Page"
) -> None:
    page = microphone
    await page.goto(f"{running.url}/talk")
    await page.get_by_role("button", name="Call Moshi").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_have_text("active")
    call = the_call(running)
    for side in ("You", "Moshi"):
        await expect(page.get_by_role("meter", name=f"{side}'s level")).to_have_attribute("aria-valuenow", HEARD)
    running.says(call.session.record.call_sid, " Hello")
    await expect(page.get_by_role("log")).to_contain_text("Hello")
    running.says(call.session.record.call_sid, " there.")
    await expect(page.get_by_role("log")).to_contain_text(re.compile("Hello.*there."))
    await expect(page.locator("#latency")).to_have_text(re.compile(r"^\d{2,} ms$"))
    await page.locator("summary").focus()
    await page.keyboard.press("Enter")
    for part in ("Service", "Round trip", "Playback buffer", "Sound device"):
        await expect(page.locator("#parts")).to_contain_text(re.compile(rf"{part}\d+(\.\d)? ms"))
    await expect(page.locator("#clock")).to_have_text(re.compile(r"0:(0[3-9]|[1-5]\d)"))
    assert call.levels.caller.level_dbfs(call.clock()) > -60
    await page.get_by_role("button", name="Hang up").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_have_text("ended")
    await expect(page.get_by_role("button", name="Call Moshi")).to_be_focused()
    await asyncio.wait_for(running.service.manager.no_calls.wait(), PATIENCE_S)
    assert call.session.record.end is EndReason.CALLER_HUNG_UP


async def test_who_answers_is_picked_and_a_second_call_is_another(running: Running, microphone: "Page") -> None:
    await begin(microphone, f"{running.url}/talk")
    assert the_call(running).session.record.persona == "ada"
    await expect(microphone.get_by_label("Who answers")).to_be_disabled()
    await hang_up(running, microphone)
    await microphone.get_by_label("Who answers").select_option("bob")
    await microphone.get_by_role("button", name="Call Moshi").click()
    await expect(microphone.locator("#state")).to_have_text("active")
    assert the_call(running).session.record.persona == "bob"
    await hang_up(running, microphone)


async def test_while_muted_silence_is_sent_and_nothing_else(running: Running, microphone: "Page") -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    def keep(message: str | bytes) -> None:
        assert isinstance(message, bytes)
        sent.put_nowait(message)

    def listen(socket: "WebSocket") -> None:
        socket.on("framesent", keep)

    async def until_sound(is_there: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while any((await sent.get())[1:]) is not is_there:
                pass

    microphone.on("websocket", listen)
    await begin(microphone, f"{running.url}/talk")
    await until_sound(True)
    await microphone.get_by_role("button", name="Mute").click()
    await until_sound(False)
    async with asyncio.timeout(PATIENCE_S):
        messages = [await sent.get() for _ in range(100)]
    assert {len(message) for message in messages} == {1 + 2 * 480}, "20 ms"
    assert set(b"".join(messages)) == {0, 1}, "the kind and silence, for two seconds"
    await microphone.get_by_role("button", name="Muted").click()
    await until_sound(True)
    await hang_up(running, microphone)


async def test_when_the_service_restarts_the_page_calls_again_once(tmp_path: Path, page: "Page") -> None:
    await page.context.grant_permissions(["microphone"])
    async with serving(tmp_path) as first:
        await begin(page, f"{first.url}/talk")
    await expect(page.locator("#state")).to_contain_text("connection lost")
    async with serving(tmp_path, first.phone.port) as second:
        await expect(page.locator("#state")).to_have_text("active")
        await expect(page.get_by_role("meter", name="Moshi's level")).to_have_attribute("aria-valuenow", HEARD)
        the_call(second)
    await expect(page.get_by_role("alert")).to_contain_text("lost again")
    await expect(page.locator("#state")).to_have_text("ended")
    async with serving(tmp_path, first.phone.port) as third:
        await page.get_by_role("button", name="Call Moshi").click()
        await expect(page.locator("#state")).to_have_text("active")
        the_call(third)


async def test_a_call_that_the_service_ends_stays_ended_and_says_why(running: Running, microphone: "Page") -> None:
    await begin(microphone, f"{running.url}/talk")
    assert running.service.manager.hang_up(the_call(running).session.record.call_sid)
    await expect(microphone.get_by_role("alert")).to_have_text("The call has ended: an operator hung up.")
    await expect(microphone.get_by_role("button", name="Call Moshi")).to_be_visible()
    assert running.service.manager.active_calls == 0


async def test_a_full_and_a_stopping_service_are_said_in_words(tmp_path: Path, page: "Page") -> None:
    await page.context.grant_permissions(["microphone"])
    async with serving(tmp_path, max_calls=1) as running, running.call():
        await page.goto(f"{running.url}/talk")
        await page.get_by_role("button", name="Call Moshi").click()
        await expect(page.get_by_role("alert")).to_contain_text("All slots are taken")
        assert (await running.http.post("/api/drain")).status_code == 202
        await page.get_by_role("button", name="Call Moshi").click()
        await expect(page.get_by_role("alert")).to_contain_text("being stopped")
    await page.get_by_role("button", name="Call Moshi").click()
    await expect(page.get_by_role("alert")).to_contain_text("does not answer")


async def test_a_blocked_microphone_is_said_in_words(running: Running, page: "Page") -> None:
    await page.goto(f"{running.url}/talk")
    await page.get_by_role("button", name="Call Moshi").click()
    await expect(page.get_by_role("alert")).to_contain_text("The microphone is blocked")
    await expect(page.get_by_role("button", name="Call Moshi")).to_be_enabled()
    assert running.service.manager.active_calls == 0


async def test_without_https_the_page_says_that_the_microphone_needs_it(running: Running, page: "Page") -> None:
    await page.goto(f"{running.url.replace('127.0.0.1', TUNNEL)}/talk?token={TOKEN}")
    await expect(page.get_by_role("alert")).to_contain_text("needs https or localhost")
    await expect(page.get_by_role("button", name="Call Moshi")).to_be_disabled()


async def test_from_elsewhere_the_token_opens_the_page_and_its_calls(running: Running, microphone: "Page") -> None:
    url = f"{running.url.replace('127.0.0.1', ELSEWHERE)}/talk"
    await begin(microphone, f"{url}?token={TOKEN}")
    await expect(microphone.locator("#latency")).to_have_text(re.compile(r"^\d{2,} ms$"))
    await expect(microphone.get_by_role("link", name="Operator page")).to_have_count(0)
    await hang_up(running, microphone)


async def test_it_is_said_when_calls_are_recorded_and_the_operator_page_leads_here(
    tmp_path: Path, page: "Page"
) -> None:
    await page.context.grant_permissions(["microphone"])
    async with serving(tmp_path, recordings_dir=str(tmp_path / "recordings")) as running:
        await page.goto(running.url)
        await page.get_by_role("link", name="Talk").click()
        await expect(page.locator("#recorded")).to_have_text("Calls are recorded here.")
        await page.get_by_role("button", name="Call Moshi").click()
        await expect(page.locator("#recorded")).to_have_text("This call is recorded.")
        await hang_up(running, page)
        await page.get_by_role("link", name="Operator page").click()
        await expect(page.locator("#free")).to_have_text("3 of 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_whoever_cannot_see_it_well_can_use_it_on_any_screen(
    running: Running, microphone: "Page", scheme: Any
) -> None:
    page = microphone
    await page.emulate_media(color_scheme=scheme)
    await page.goto(f"{running.url}/talk")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the call")).to_be_focused()
    await begin(page, f"{running.url}/talk")
    running.says(the_call(running).session.record.call_sid, " " + "Donaudampfschifffahrt" * 20)
    await expect(page.get_by_role("log")).to_contain_text("Donau")
    await page.locator("summary").click()
    assert await page.evaluate(NAMELESS) == []
    assert await page.evaluate(UNRESOLVED) == []
    for width in (320, 390, 768, 1280):
        await page.set_viewport_size({"width": width, "height": 700})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colours = await page.evaluate(COLOURS)
    assert contrast(colours["card"], colours["moshi"]) >= 4.5, "the button"
    await hang_up(running, page)


async def test_who_must_wait_is_told_so_and_who_is_refused_what_to_do(running: Running, page: "Page") -> None:
    """A service that is played by the test: pings while there is no slot, then the handshake."""
    await page.context.grant_permissions(["microphone"])
    socket: asyncio.Future[WebSocketRoute] = asyncio.get_running_loop().create_future()
    await page.route_web_socket(re.compile("/api/chat"), lambda opened: socket.set_result(opened))
    await page.goto(f"{running.url}/talk")
    await page.get_by_role("button", name="Call Moshi").click()
    queued = await socket
    queued.send(b"\x06")
    await expect(page.locator("#state")).to_have_text("all slots are taken: waiting")
    queued.send(b"\x00")
    await expect(page.locator("#state")).to_have_text("active")
    for unknown in (b"\x03\x00", b"\x05no", b"\x09", b"\xff\xff"):
        queued.send(unknown)
    queued.send(b"\x02 Hello")
    await expect(page.get_by_role("log")).to_contain_text("Hello")
    await page.get_by_role("button", name="Hang up").click()
    await page.unroute_all()
    await page.route_web_socket(re.compile("/api/chat"), lambda refused: asyncio.ensure_future(refused.close()))
    await page.reload()
    await page.get_by_role("button", name="Call Moshi").click()
    await expect(page.get_by_role("alert")).to_contain_text("you may have to sign in")
