"""The operator's page in a real browser, against a real service with real calls."""

import asyncio
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.audio import mulaw
from app.calls.end_reason import EndReason
from app.calls.transcript import Side, Word
from tests.page.running import OPERATOR_TOKEN, TUNNEL, Running, evil_site, serving
from tests.processes.pipeline import PATIENCE_S
from workers.messages import Said

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

async_api = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
expect = async_api.expect
expect.set_options(timeout=PATIENCE_S * 1000)


async def test_a_call_is_seen_heard_and_read_until_it_ends(running: Running, page: "Page") -> None:
    await page.goto(running.url)
    await expect(page.get_by_text("No active calls.")).to_be_visible()
    await expect(page.locator("#free")).to_have_text("3 of 3")
    async with running.call() as call_sid:
        card = page.locator("#calls > li")
        await expect(card.locator(".number")).to_have_text("…0001")
        await expect(card.locator(".way")).to_have_text("ada")
        await expect(page.locator("#free")).to_have_text("2 of 3")
        await expect(page).to_have_title("(1) Moshi on the phone")
        for side in ("Caller", "Moshi"):
            meter = card.get_by_role("meter", name=f"{side}'s level")
            await expect(meter).to_have_attribute("aria-valuenow", re.compile(r"^-[12]?\d$"))  # louder than -30 dBFS
        await expect(card.locator("dd").first).to_have_text(re.compile(r"^\d+ ms$"))
        running.says(call_sid, " Hello")
        await expect(card.locator(".text")).to_have_text("Hello")
        running.says(call_sid, " there")
        await expect(card.locator(".text")).to_have_text("Hello there")

        assert await page.evaluate("document.documentElement.dataset.heard") is None, "silent until asked"
        async with page.expect_websocket(lambda socket: "audio=true" in socket.url):
            await card.get_by_role("button", name="Listen to …0001").click()
        await expect(page.locator("html")).to_have_attribute("data-heard", re.compile(r"^\d{5,}$"))  # a second or more
        await expect(card.locator(".listen")).to_have_attribute("aria-pressed", "true")
        await card.locator(".listen").click()
        await expect(card.locator(".listen")).to_have_attribute("aria-pressed", "false")
    await expect(card).to_have_count(0)
    await expect(page.get_by_text("No active calls.")).to_be_visible()
    await expect(page.locator("#recent tbody tr").first).to_contain_text("…0001")
    assert "+1555" not in await page.content()


async def test_one_call_has_a_page_while_it_is_on_and_after(running: Running, page: "Page") -> None:
    async with running.call() as call_sid:
        running.says(call_sid, " One")
        await page.goto(running.url)
        await page.locator("#calls .number").click()
        await expect(page).to_have_url(re.compile(f"#/call/{call_sid}$"))
        await expect(page.locator("#call-state")).to_have_text("active")
        await expect(page.locator("#said")).to_contain_text("One")
        running.says(call_sid, " two")
        await expect(page.locator("#said")).to_contain_text(re.compile("One.*two"))
        await expect(page.locator("#latencies-text")).to_contain_text(re.compile(r"From \d+ ms to \d+ ms"))
    await expect(page.locator("#call-state")).to_have_text("ended")
    await expect(page.locator("#happened")).to_contain_text("ended")
    await expect(page.locator("#facts")).to_contain_text(call_sid)
    await expect(page.locator("#facts")).to_contain_text("Persona")
    await expect(page.locator("#said")).to_contain_text(re.compile("One.*two"))
    record = running.service.manager.record(call_sid)
    assert record
    record.words.append(Word(Side.CALLER, "Bye!", 60.0, 60.3))  # the transcriber is late
    await expect(page.locator("#said")).to_contain_text("Bye!")
    await page.reload()
    await expect(page.locator("#happened")).to_contain_text("ended")
    await page.get_by_role("link", name="All calls").click()
    await expect(page.locator("#overview")).to_be_visible()


async def test_both_sides_are_read_while_the_call_is_on_and_found_afterwards(running: Running, page: "Page") -> None:
    async with running.call() as call_sid:
        await page.goto(f"{running.url}/#/call/{call_sid}")
        await expect(page.locator("#call-state")).to_have_text("active")
        for place, word in enumerate(("I", "want", "a", "refund.", "4711")):
            running.hears(call_sid, word, place * 0.4)
        running.says(call_sid, " Certainly,")
        running.says(call_sid, " right away.")
        said = page.locator("#said li")
        await expect(said).to_have_count(2)
        await expect(page.locator("#said li.caller p")).to_have_text("I want a refund. ****")
        await expect(page.locator("#said li.moshi p")).to_have_text("Certainly, right away.")
        await page.get_by_role("link", name="All calls").click()
        await expect(page.locator("#calls .text .caller")).to_have_text("I want a refund. ****")
    await expect(page.locator(f"#recent a[href$='{call_sid}']")).to_be_visible()
    await page.get_by_label("Search what was said").fill('"REFUND')
    await page.keyboard.press("Enter")
    await expect(page.locator("#found li")).to_have_count(1)
    await page.locator("#found a").click()
    await expect(page.locator("#said li[aria-current]")).to_contain_text("I want a refund. ****")
    link = page.get_by_role("link", name="WebVTT")
    await expect(link).to_have_attribute("href", re.compile(r"transcript\.vtt$"))
    async with page.expect_download() as download:
        await link.click()
    vtt = (await (await download.value).path()).read_text()
    assert vtt.startswith("WEBVTT\n")
    assert "<v Caller>I want a refund. ****" in vtt


async def test_an_operator_has_moshi_say_a_sentence_with_the_keyboard_alone(running: Running, page: "Page") -> None:
    """The workers of a line test say nothing; those whose answers are the test's own are not passed on to them."""
    async with running.call() as call_sid:
        call = running.live(call_sid)
        await page.goto(f"{running.url}/#/call/{call_sid}")
        field, state = page.get_by_label("Have Moshi say"), page.locator("#say-state")
        await expect(page.get_by_role("button", name="Say")).to_be_enabled()
        await field.focus()
        await page.keyboard.type("One moment, please.")
        await page.keyboard.press("Enter")
        await expect(state).to_have_text("1 not said, or not whole")
        await expect(field).to_have_value("")
        await expect(field).to_be_focused()
        queued = [call.session.say("Hello") for _ in range(8)]
        await expect(state).to_have_text("8 queued, 1 not said, or not whole")
        await page.keyboard.type("One more")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert").filter(has_text="Not queued")).to_contain_text("8 sentences are queued")
        await expect(field).to_have_value("One more")
        call.handle_said(Said(call.reservation.slot, call.reservation.epoch, queued[0].number, whole=True))
        await expect(state).to_have_text("7 queued, 1 said, 1 not said, or not whole")
    await expect(field).to_be_hidden()


async def test_an_operator_hangs_up_with_the_keyboard_alone(running: Running, page: "Page") -> None:
    await page.goto(running.url)
    async with running.call() as call_sid:
        call = running.live(call_sid)
        button = page.get_by_role("button", name="Hang up on …0001")
        await button.focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Hang up on …0001?")
        await expect(dialog).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(button).to_be_focused()
        assert call.session.record.end is None, "thought better of it"
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.locator("#sure-yes")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#calls > li")).to_have_count(0)
    assert call.session.record.end is EndReason.OPERATOR
    await expect(page.locator("#recent tbody tr").first).to_contain_text("an operator hung up")
    await expect(page.locator("#announce")).to_have_text("Call with …0001 is over")


async def test_where_sockets_do_not_get_through_the_page_asks(running: Running, page: "Page") -> None:
    await page.route_web_socket(re.compile(r"/api/live$"), lambda socket: asyncio.ensure_future(socket.close()))
    await page.goto(running.url)
    async with running.call() as call_sid:
        running.says(call_sid, " Hello")
        await expect(page.locator("#calls .text")).to_have_text("Hello")
    await expect(page.locator("#calls > li")).to_have_count(0)
    await expect(page.locator("#lost")).to_be_hidden()


async def test_a_hidden_page_asks_for_nothing(running: Running, page: "Page") -> None:
    await page.goto(running.url)
    await expect(page.locator("#state")).to_have_text("ready")
    async with page.expect_event("websocket") as opened:
        await page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true})")
        await page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
        await page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    socket = await opened.value
    await page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
    if not socket.is_closed():
        await socket.wait_for_event("close")
    assert socket.is_closed()


async def test_through_a_tunnel_the_token_opens_the_page_and_the_cookie_its_sockets(
    running: Running, page: "Page"
) -> None:
    await page.goto(running.url.replace("127.0.0.1", TUNNEL))
    await expect(page).to_have_url(re.compile("/login$"))
    await page.get_by_label("Operator token").fill("another-long-token")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_have_text("not the operators' token")
    await page.get_by_label("Operator token").fill(OPERATOR_TOKEN)
    async with page.expect_websocket(lambda socket: socket.url.endswith("/api/live")):
        await page.get_by_role("button", name="Sign in").click()
    async with running.call():
        await page.get_by_role("button", name="Listen to …0001").click()
        await expect(page.locator("html")).to_have_attribute("data-heard", re.compile(r"^\d{4,}$"))
        await page.get_by_role("button", name="Hang up on …0001").click()
        await page.get_by_role("dialog").get_by_role("button", name="Hang up").click()
        await expect(page.locator("#calls > li")).to_have_count(0)
    assert await page.evaluate("document.cookie") == ""
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(re.compile("/login$"))
    await page.goto(running.url.replace("127.0.0.1", TUNNEL))
    await expect(page).to_have_url(re.compile("/login$"))


ATTACK = """async (host) => {
  const opened = await new Promise((resolve) => {
    const socket = new WebSocket(`ws://${host}/api/live`);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
  });
  const seen = [];
  for (const path of PATHS) {
    const answer = await fetch(`http://${host}${path}`, {method: "POST", mode: "no-cors", credentials: "include"});
    seen.push(answer.type);
  }
  return [opened, seen];
}"""


@pytest.mark.parametrize("host", ["127.0.0.1", TUNNEL])
async def test_a_page_of_another_site_sees_nothing_and_does_nothing(
    running: Running, context: "BrowserContext", host: str
) -> None:
    if host == TUNNEL:
        own = await context.new_page()
        await own.goto(running.url.replace("127.0.0.1", TUNNEL) + "/login")
        await own.get_by_label("Operator token").fill(OPERATOR_TOKEN)
        await own.get_by_role("button", name="Sign in").click()
        await expect(own.locator("#state")).to_have_text("ready")
    async with evil_site() as url, running.call() as call_sid:
        evil = await context.new_page()
        await evil.goto(url)
        paths = [f"/api/calls/{call_sid}/hangup", f"/api/calls/{call_sid}/say", "/api/drain"]
        attack = ATTACK.replace("PATHS", str(paths))
        opened, seen = await asyncio.wait_for(evil.evaluate(attack, f"{host}:{running.phone.port}"), PATIENCE_S)
        assert (opened, seen) == (False, ["opaque"] * len(paths))
        assert running.live(call_sid).session.record.end is None
        assert running.live(call_sid).session.state.name != "DRAINING"
        assert running.live(call_sid).session.record.sentences == 0
    assert not running.service.manager.draining


async def test_a_service_that_goes_away_is_told_and_one_that_comes_back_found(tmp_path: Path, page: "Page") -> None:
    """Drained from the page, which ends a service without calls at once."""
    async with serving(tmp_path) as first:
        await page.goto(first.url)
        await page.get_by_role("button", name="Drain").click()
        await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        await expect(page.locator("#lost")).to_contain_text("does not answer")
        await expect(page.locator("#state")).to_have_text("no connection")
    async with serving(tmp_path, first.phone.port):
        await expect(page.locator("#state")).to_have_text("ready")
        await expect(page.locator("#lost")).to_be_hidden()


async def test_the_page_decodes_mu_law_as_the_service_does(running: Running, page: "Page") -> None:
    await page.goto(running.url)
    heard = await page.evaluate("import('/page/listen.js').then((module) => [...module.LINEAR])")
    assert np.array_equal(np.array(heard) * 32_768, mulaw.decode(bytes(range(256))))


NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, canvas, audio, dialog, [role]")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length
    || one.getAttribute("aria-labelledby") || ["status", "alert", "presentation"].includes(one.getAttribute("role"))))
  .map((one) => one.outerHTML)"""
UNRESOLVED = """() => [...document.querySelectorAll("[aria-labelledby], [aria-describedby]")]
  .flatMap((one) => [one.getAttribute("aria-labelledby"), one.getAttribute("aria-describedby")])
  .filter((id) => id && !document.getElementById(id))"""
COLOURS = """() => Object.fromEntries(
  ["paper", "card", "ink", "quiet", "caller", "moshi", "good", "warn", "bad"].map((name) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    const [red, green, blue] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
    probe.remove();
    return [name, [red, green, blue]];
  }))"""


def luminance(colour: list[int]) -> float:
    """As WCAG 2.2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.array(colour) / 255]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: list[int], other: list[int]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_whoever_cannot_see_it_well_can_use_it(running: Running, page: "Page", scheme: Any) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.goto(running.url)
    async with running.call():
        await expect(page.locator("#calls > li")).to_have_count(1)
        assert await page.evaluate(NAMELESS) == []
        assert await page.evaluate(UNRESOLVED) == []
        levels = await page.locator("h1:visible, h2:visible, h3:visible").evaluate_all(
            "all => all.map(h => +h.tagName[1])"
        )
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), "no level is left out"
        assert await page.locator("html").get_attribute("lang") == "en"
        assert await page.get_by_role("main").count() == 1
        colours = await page.evaluate(COLOURS)
    for ground in ("paper", "card"):
        weak = {name: contrast(colours[name], colours[ground]) for name in colours if name not in ("paper", "card")}
        assert {name: ratio for name, ratio in weak.items() if ratio < 4.5} == {}


async def test_the_first_tab_leads_past_the_header(running: Running, page: "Page") -> None:
    await page.goto(running.url)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the calls")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await expect(page.locator("#overview")).to_be_visible()


async def test_it_fits_any_screen_and_nothing_moves_as_figures_change(running: Running, page: "Page") -> None:
    moving = page.locator("#calls > li, #h-recent, .gauges div")
    tops = "all => all.map(one => Math.round(one.getBoundingClientRect().top))"
    fits = "document.documentElement.scrollWidth <= innerWidth"
    async with running.call() as call_sid, running.call(), running.call():
        for number, width in enumerate((360, 390, 768, 1280)):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.goto(running.url)
            await expect(page.locator("#calls > li")).to_have_count(3)
            await expect(page.locator("#state")).to_have_text("all slots taken")
            before = await moving.evaluate_all(tops)
            running.says(call_sid, f" many words {number}" * 100)
            await expect(page.locator("#calls .text").first).to_contain_text(f"many words {number}")
            assert await moving.evaluate_all(tops) == before
            assert await page.evaluate(fits)
            await page.goto(f"{running.url}/#/call/{call_sid}")
            await expect(page.locator("#said")).to_contain_text(f"many words {number}")
            assert await page.evaluate(fits)


PLAYED = """document.getElementById("sound").addEventListener("timeupdate", ({target: sound}) => {
  if (!sound.paused) document.documentElement.dataset.played ||= sound.currentTime;
})"""
"""Keeps where it plays first."""
REWIND = """const sound = document.getElementById("sound");
  sound.pause();
  sound.currentTime = 0;
  document.documentElement.dataset.played = "";"""


async def played_from_s(page: "Page") -> float:
    await expect(page.locator("html")).to_have_attribute("data-played", re.compile("."))
    return float(await page.evaluate("document.documentElement.dataset.played"))


@pytest.mark.parametrize("leg", ["call", "chat"])
async def test_the_recording_of_a_call_plays_and_the_transcript_steers_it(
    tmp_path: Path, page: "Page", leg: str
) -> None:
    async with serving(tmp_path, recordings_dir=str(tmp_path / "recordings")) as running:
        async with running.call() if leg == "call" else running.chat() as call_sid:
            await page.goto(f"{running.url}/#/call/{call_sid}")
            await expect(page.locator("#call-clock")).to_have_text(re.compile(r"0:(0[1-9]|[1-5]\d)"))
            running.says(call_sid, " Here we are.")
            await expect(page.locator("#said li")).to_have_count(1)
            await expect(page.locator("#call-clock")).to_have_text(re.compile(r"0:(0[3-9]|[1-5]\d)"))
        await expect(page.locator("#sound")).to_be_visible()
        record = running.record(call_sid)
        assert record.started_s is not None
        assert record.ended_s is not None
        lasted_s = record.ended_s - record.started_s
        await expect(page.locator("#sound-text")).to_contain_text(re.compile(r"0:\d\d long"))
        inked = """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
          .filter((value, index) => index % 4 === 3 && value).length"""
        assert await page.locator("#wave").evaluate(inked) > 1_000
        await page.evaluate(PLAYED)
        await page.get_by_role("log").get_by_role("button", name="Play from").click()
        assert 1.0 <= await played_from_s(page) < lasted_s
        await expect(page.locator("#said li[aria-current]")).to_contain_text("Here we are.")
        await page.evaluate(REWIND)
        await page.locator("#said [data-word]", has_text="are.").click()
        assert 1.0 <= await played_from_s(page) < lasted_s
        seconds = await page.locator("#sound").evaluate("sound => sound.duration")
        assert seconds == pytest.approx(lasted_s, abs=0.2)
