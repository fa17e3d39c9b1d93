"""Chromium, with a microphone that hears the demo's caller speak without a pause, again and again."""

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import soundfile

from app.simulator.conversation import talk
from app.twilio.events import RATE_HZ
from tests.page.running import NAMES, Running, serving
from tests.processes.pipeline import PATIENCE_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with serving(tmp_path_factory.mktemp("page")) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> "AsyncIterator[Browser]":
    async_api = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    spoken = tmp_path_factory.mktemp("microphone") / "caller.wav"
    soundfile.write(spoken, talk(), RATE_HZ)
    microphone = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}"]
    async with async_api.async_playwright() as playwright:
        options = ["--no-sandbox", f"--host-resolver-rules={NAMES}", *microphone]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(chromium: "Browser") -> "AsyncIterator[BrowserContext]":
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: "BrowserContext") -> "AsyncIterator[Page]":
    """A page on which nothing may go wrong that nobody sees."""
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield page
    assert wrong == []
