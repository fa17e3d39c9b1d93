"""Whole calls against a small server, in real time and therefore short; no test asks how long anything took."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.audio import mulaw
from app.simulator.call import MAX_STREAMS, simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, Pulse, StreamOpened
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import Scenario, Window
from app.twilio import twiml
from app.twilio.events import MarkPlayed, Started, Stopped
from tests.app.simulator.small_server import PUBLIC_URL, TOKEN, Line, SmallServer, connect, echo, leave, serving

WAVE = np.sin(np.arange(8_000) * 0.3 + 0.1)
SAID = (3_000 * WAVE + np.where(WAVE < 0, -4_000, 4_000)).astype(np.int16)
"""Never silent: what is silent in what is heard was not said."""
ON_THE_LINE = mulaw.decode(mulaw.encode(SAID))


def options(server: SmallServer) -> CallOptions:
    return CallOptions(PUBLIC_URL, TOKEN, "AC1", audio=SAID, duration_s=0.5, dial_url=server.url)


async def test_a_call_with_a_server_that_echoes(tmp_path: Path) -> None:
    progress: list[Progress] = []
    wanted = connect(status_url=f"{PUBLIC_URL}/stream")
    async with serving(echo, answers=[wanted, "ignored", "ignored"]) as server:
        report = await simulate(replace(options(server), status_path="/status"), progress.append)
    assert report.outcome is Outcome.CALLER_HUNG_UP
    check_what_was_heard(report)
    check_forms(server, report)
    check_stream(server, report)
    check_upgrade(server.upgrades[0])
    check_files(report, tmp_path)
    pulses = [event for event in progress if isinstance(event, Pulse)]
    assert [type(event) for event in progress] == [StreamOpened, *len(pulses) * [Pulse]]
    assert pulses[0].at_s >= 0.25
    assert -20 < pulses[0].said_dbfs < -10


def check_what_was_heard(report: CallReport) -> None:
    """The caller hears themselves, and no sooner than a frame is full."""
    assert len(report.said) == len(report.heard) >= 4_000
    np.testing.assert_array_equal(report.said, ON_THE_LINE[: len(report.said)])
    sounds = report.heard[report.heard != 0]
    assert len(sounds) > 0
    np.testing.assert_array_equal(sounds, ON_THE_LINE[: len(sounds)])
    assert np.flatnonzero(report.heard)[0] >= 640


def check_forms(server: SmallServer, report: CallReport) -> None:
    """Twilio's forms: the call rings, its stream has ended, it is over."""
    form = {"CallSid": report.call_sid, "AccountSid": "AC1", "From": "+15550100001", "To": "+15550100000"}
    form |= {"Direction": "inbound", "ApiVersion": "2010-04-01"}
    assert server.asked == [
        ("/twilio/voice", form | {"CallStatus": "ringing"}),
        ("/stream", form | {"CallStatus": "in-progress", "StreamEvent": "stream-stopped"}),
        ("/status", form | {"CallStatus": "completed", "CallDuration": str(round(report.ended_s))}),
    ]


def check_stream(server: SmallServer, report: CallReport) -> None:
    """Our parameters first, a stop last."""
    events = server.lines[0].events
    assert isinstance(events[1], Started)
    assert (events[1].call_sid, events[1].parameters) == (report.call_sid, {"slot": "3"})
    assert events[-1] == Stopped()


def check_upgrade(headers: dict[str, str]) -> None:
    """Twilio's headers and no others."""
    assert headers["User-Agent"] == "Twilio.TmeWs/1.0"
    of_a_socket = {"host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
    assert {name.lower() for name in headers} == {*of_a_socket, "user-agent", "x-twilio-signature"}


def check_files(report: CallReport, folder: Path) -> None:
    report.save_wav(folder / "call.wav")
    figures = report.figures()
    assert (figures["outcome"], figures["first_packet_s"]) == ("caller-hung-up", report.first_packet_s)
    assert figures["streams"][0]["counts"]["packets_sent"] == 25
    assert (folder / "call.wav").stat().st_size == 44 + 4 * len(report.heard)


async def test_a_stream_that_the_server_closes_leads_to_the_action() -> None:
    answers = [connect(), connect("/media/again"), twiml.hangup()]
    async with serving(leave, leave, answers=answers) as server:
        report = await simulate(options(server))
    assert [path for path, _ in server.asked] == ["/twilio/voice", "/after", "/after"]
    assert [form["CallStatus"] for _, form in server.asked] == ["ringing", "in-progress", "in-progress"]
    assert report.outcome is Outcome.SERVER_HUNG_UP
    assert [stream.close_code for stream in report.streams] == [1000, 1000]
    assert len({stream.stream_sid for stream in report.streams}) == 2


async def test_a_lost_socket_leads_to_the_action_too() -> None:
    async def part(line: Line) -> None:
        await line.until(Started)
        assert line.request.transport
        line.request.transport.close()  # what a killed server looks like

    async with serving(part, answers=[connect(), twiml.hangup()]) as server:
        report = await simulate(options(server))
    assert (report.outcome, report.streams[-1].close_code) == (Outcome.SERVER_HUNG_UP, 1006)


async def test_the_connection_may_break_without_a_stop() -> None:
    gone = asyncio.Event()

    async def listen(line: Line) -> None:
        assert await line.until(Stopped) is None
        gone.set()

    async with serving(listen) as server:
        report = await simulate(replace(options(server), duration_s=None, line=Scenario(cut_s=0.2)))
        await gone.wait()
    assert report.outcome is Outcome.LINE_CUT


async def test_after_a_connection_that_breaks_the_action_is_asked_if_that_is_wanted() -> None:
    async def listen(line: Line) -> None:
        assert await line.until(Stopped) is None

    async with serving(listen, echo, answers=[connect(), connect()]) as server:
        asks = replace(options(server), line=Scenario(cut_s=0.2), asks_after_cut=True)
        report = await simulate(asks)
    assert (report.outcome, [path for path, _ in server.asked]) == (Outcome.CALLER_HUNG_UP, ["/twilio/voice", "/after"])
    assert [stream.close_code for stream in report.streams] == [1006, 1000]


async def test_what_twilio_does_not_read_waits() -> None:
    async with serving(echo) as server:
        report = await simulate(replace(options(server), line=Scenario(unread=(Window(0.0, 0.4),))))
    assert report.first_packet_s is not None
    assert report.first_packet_s >= 0.4


async def test_a_server_that_reconnects_for_ever_is_given_up() -> None:
    async with serving(*MAX_STREAMS * [leave], answers=(MAX_STREAMS + 1) * [connect()]) as server:
        report = await simulate(options(server))
    assert report.outcome is Outcome.TOO_MANY_STREAMS
    assert len(report.streams) == MAX_STREAMS


@pytest.mark.parametrize(
    ("answer", "auth_token", "outcome", "status"),
    [
        (twiml.reject_busy(), TOKEN, Outcome.REJECTED, None),
        ("Internal Server Error", TOKEN, Outcome.BAD_TWIML, None),
        (connect(), None, Outcome.WEBHOOK_FAILED, 403),
        (connect(), "wrong", Outcome.WEBHOOK_FAILED, 403),
    ],
)
async def test_how_a_call_without_a_stream_ends(
    answer: str, auth_token: str | None, outcome: Outcome, status: int | None
) -> None:
    async with serving(answers=[answer]) as server:
        report = await simulate(replace(options(server), auth_token=auth_token))
    assert (report.outcome, report.status) == (outcome, status)
    assert (report.first_packet_s, report.first_sound_s, report.streams, len(report.heard)) == (None, None, (), 0)


async def test_a_status_callback_that_fails_is_reported_unless_something_worse_did() -> None:
    async with serving(echo, answers=[connect()]) as server:
        report = await simulate(replace(options(server), status_path="/status"))
        assert (report.outcome, report.status) == (Outcome.STATUS_FAILED, 500)
    report = await simulate(replace(options(server), status_path="/status"))
    assert (report.outcome, report.status) == (Outcome.WEBHOOK_FAILED, None), "the server is gone"


@pytest.mark.parametrize("message", ["{}", b"binary", '{"event":"media","streamSid":"MZother","media":{"payload":""}}'])
async def test_what_twilio_would_refuse_ends_the_call(message: str | bytes) -> None:
    async def part(line: Line) -> None:
        await line.until(Started)
        await (line.socket.send_str(message) if isinstance(message, str) else line.socket.send_bytes(message))
        await line.until(Stopped)

    async with serving(part) as server:
        assert (await simulate(options(server))).outcome is Outcome.PROTOCOL_VIOLATION


async def test_a_mark_comes_back_when_its_audio_has_been_heard() -> None:
    async def part(line: Line) -> None:
        await line.until(Started)
        await line.socket.send_str(line.protocol.media(bytes(800)))
        await line.socket.send_str(line.protocol.mark("m"))
        assert await line.until(MarkPlayed) == MarkPlayed("m")
        await line.until(Stopped)

    async with serving(part) as server:
        report = await simulate(replace(options(server), duration_s=0.2))
    [mark], [arrival] = report.marks, report.buffer_levels
    assert mark.returned_s - arrival.at_s == pytest.approx(0.1, abs=0.001)


async def test_a_socket_that_is_refused_ends_the_call_and_is_reported_with_twilios_code() -> None:
    elsewhere = twiml.connect("wss://elsewhere.example/media/token", "/after", {}, f"{PUBLIC_URL}/stream")
    async with serving(answers=[elsewhere]) as server:
        report = await simulate(options(server))
    assert (report.outcome, report.status) == (Outcome.HANDSHAKE_FAILED, 403), "whatever is answered to it"
    path, form = server.asked[-1]
    assert (path, form["StreamEvent"], form["StreamError"][:5]) == ("/stream", "stream-error", "31920")
