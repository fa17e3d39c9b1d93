import asyncio
import json
import os
import signal
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from xml.etree import ElementTree

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from app.audio import mulaw
from app.calls.end_reason import EndReason
from app.simulator import conversation
from app.simulator.call import simulate
from app.simulator.measure import mouth_to_ear_ms, window_snr_db
from app.simulator.report import Outcome
from app.twilio.events import CallSid, DtmfPressed, Stopped
from app.twilio.twiml import Connect, Hangup, Reject, parse
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import (
    CONNECTED,
    PUBLIC,
    SECONDARY,
    TOKEN,
    closing_code,
    form,
    media,
    message,
    new_call_sid,
    noise,
    start,
)
from tests.service.served import Served
from tests.service.served import served as run_service
from workers.messages import Stage

MAX_CALLS = 2

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Served]:
    async with run_service(max_calls=MAX_CALLS, twilio_auth_token_secondary=SECONDARY) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def served(running: Served) -> AsyncIterator[Served]:
    """The service without calls, before and after."""
    await running.settle()
    yield running
    running.end_calls()
    assert running.free_slots == MAX_CALLS


# Good calls.


async def test_a_caller_hears_themselves_through_the_whole_service(served: Served) -> None:
    """In real time: when they do depends on this machine and is not judged."""
    said = talk_of(4.0)
    report = await simulate(served.phone.options(audio=said, status_path="/twilio/status"))
    assert report.outcome is Outcome.CALLER_HUNG_UP
    latency = mouth_to_ear_ms(report.said, report.heard, window_s=0.2)
    assert len(latency.windows) >= 5
    assert np.median(window_snr_db(report.said, report.heard, latency, window_s=0.2)) > 15
    assert latency.windows[0].latency_ms >= 80, "a frame has to be complete before it can come back"
    await served.until("ended: caller hung up")
    record = (await served.http.get(f"/api/calls/{report.call_sid}")).json()
    assert (record["status"], record["end"]) == ("completed", EndReason.CALLER_HUNG_UP)
    assert record["duration_s"] == round(report.ended_s)


async def test_two_calls_at_once_hear_each_only_themselves(served: Served) -> None:
    pitches_hz = (400, 1_700)
    time_s = np.arange(24_000) / 8_000
    voices = [(6_000 * np.sin(2 * np.pi * hertz * time_s)).astype(np.int16) for hertz in pitches_hz]
    reports = await asyncio.gather(*(simulate(served.phone.options(audio=voice)) for voice in voices))
    for own_hz, other_hz, report in zip(pitches_hz, pitches_hz[::-1], reports, strict=True):
        assert report.outcome is Outcome.CALLER_HUNG_UP
        assert loudness(report.heard, own_hz) > 1_000
        assert loudness(report.heard, own_hz) > 20 * loudness(report.heard, other_hz)


def talk_of(seconds: float) -> NDArray[np.int16]:
    """A caller who never pauses."""
    return np.resize(conversation.talk(), round(seconds * 8_000))


def loudness(heard: NDArray[np.int16], hertz: float) -> float:
    """The amplitude of a tone in what was heard; gaps in it blur the line, so a band is taken."""
    spectrum = np.abs(np.fft.rfft(heard)) / len(heard) * 2
    hertz_a_line = 8_000 / len(heard)
    lines = slice(round((hertz - 100) / hertz_a_line), round((hertz + 100) / hertz_a_line))
    return float(np.sqrt(np.sum(spectrum[lines] ** 2)))


async def test_a_slot_can_be_used_again_and_again_and_nothing_is_left_of_the_call_before(served: Served) -> None:
    for number in range(2 * MAX_CALLS):
        async with served.phone.call() as call:
            heard = b""
            async with asyncio.timeout(PATIENCE_S):
                while likeness(heard, noise(number)) < 0.8:  # a busy machine may be late for a frame
                    await call.say(noise(number))
                    heard += await call.hear()
            assert all(likeness(heard, noise(before)) < 0.3 for before in range(number))
            await call.socket.send(call.carrier.send(Stopped()))
            assert await closing_code(call.socket) == 1000
        await served.until(call.call_sid, "ended: caller hung up")


def likeness(heard: bytes, said: bytes) -> float:
    """How much some part of what was heard is like (the first 40 ms of) what was said, 1 for the same."""
    long, short = (mulaw.decode(sound).astype(float) for sound in (heard, said[:320]))
    if len(long) < len(short):
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(long, len(short))
    levels = np.linalg.norm(windows, axis=1) * np.linalg.norm(short)
    return float(np.max(np.abs(windows @ short) / np.maximum(levels, 1e-9)))


async def test_the_record_of_a_call_can_be_read_on_this_machine(served: Served) -> None:
    async with served.phone.call() as call:
        await call.speaks(3)
        (listed,) = [item for item in (await served.http.get("/api/calls")).json() if item["call_sid"] == call.call_sid]
        assert listed["end"] is None
    await served.until(call.call_sid, "ended")
    record = (await served.http.get(f"/api/calls/{call.call_sid}")).json()
    assert record["end"] == EndReason.SOCKET_LOST
    assert record["counts"]["frames_out"] >= 3
    assert [stage for stage, _, _ in record["spans"][0]] == ["encode", "step", "decode"]
    assert (await served.http.get("/api/calls/CAnobody")).status_code == 404


async def test_the_service_is_alive_and_ready_until_its_slots_are_taken(served: Served) -> None:
    http = served.http
    assert (await http.get("/healthz")).json() == {"status": "alive"}
    readyz = (await http.get("/readyz")).json()
    known = {"ready": True, "free_slots": MAX_CALLS, "calls": 0, "draining": False, "pipeline": "ready", "suspended": 0}
    assert readyz == known
    for _ in range(MAX_CALLS):
        await served.phone.ring(new_call_sid())
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/readyz?full=ready")).status_code == 200, "for whom a node that is full has started"
    assert (await http.get("/healthz")).status_code == 200


# The events of a call.


def listening(served: Served, call_sid: str, query: str = "", host: str = "127.0.0.1", **headers: str) -> connect:
    return served.follow(f"/api/calls/{call_sid}/events{query}", host, **headers)


async def told(socket: ClientConnection) -> list[dict[str, object]]:
    """Read until the service closes the socket."""
    async with asyncio.timeout(PATIENCE_S):
        return [json.loads(text) async for text in socket]


async def test_a_call_can_be_followed_to_its_end(served: Served) -> None:
    said = noise(5)
    async with (
        served.phone.call() as call,
        listening(served, call.call_sid) as plain,
        listening(served, call.call_sid, "?audio=true") as with_audio,
    ):
        await call.say(said)
        heard = await call.hear()
        await call.socket.send(call.carrier.send(DtmfPressed("5")))
        await call.socket.send(call.carrier.send(Stopped()))
        events, audio = await told(plain), await told(with_audio)
    assert [event["event"] for event in events if event["event"] in ("dtmf", "disconnected", "audio")] == [
        "dtmf",
        "disconnected",
    ]
    over = {"event": "disconnected", "reason": "caller hung up", "detail": ""}
    assert events[-1] == {"call_sid": call.call_sid, "at_s": events[-1]["at_s"], **over}
    ways = {
        way: b"".join(b64decode(str(one["payload"])) for one in audio if one.get("direction") == way)
        for way in ("in", "out")
    }
    assert ways["in"] == said
    assert ways["out"].startswith(heard)


async def test_who_follows_a_call_can_leave_and_the_call_goes_on(served: Served) -> None:
    async with served.phone.call() as call:
        async with listening(served, call.call_sid) as news:
            await news.send("what I say is not listened to")
        news_left = listening(served, call.call_sid)
        (await news_left).transport.abort()
        await call.speaks(3)
    await served.until(call.call_sid, "ended")


async def test_events_are_for_operators_and_of_calls_that_are_on(served: Served) -> None:
    async with served.phone.call() as call:
        for call_sid, host, origin, status in (
            (call.call_sid, "phone.example.com", None, 403),
            (call.call_sid, "127.0.0.1", "http://evil.example.com", 403),
            (call.call_sid, "127.0.0.1", "null", 403),
            ("CAnobody", "127.0.0.1", None, 404),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await listening(served, call_sid, host=host, **({"Origin": origin} if origin else {}))
            assert refused.value.response.status_code == status


# The webhook.


async def test_the_answer_is_twiml_for_the_public_address(served: Served) -> None:
    answer = await served.phone.post("/twilio/voice", form(new_call_sid()))
    assert answer.headers["content-type"].startswith("application/xml")
    (connect,) = ElementTree.fromstring(answer.text)
    (stream,) = connect
    assert connect.get("action") == f"{PUBLIC}/twilio/after-stream"
    assert stream.get("url", "").startswith("wss://phone.example.com/twilio/media/")
    assert stream.get("statusCallback") == f"{PUBLIC}/twilio/status"
    assert {item.get("name"): item.get("value") for item in stream} == {"from": "+15550100001", "to": "+15550100000"}


async def test_a_stream_that_was_lost_is_followed_by_another_one_as_twilio_signs_it(served: Served) -> None:
    async with served.phone.call() as call:
        await call.speaks()
        call.socket.transport.abort()
        await served.until(call.call_sid, "ended: the socket was lost")
        answer = await served.phone.post("/twilio/after-stream", form(call.call_sid))
        (connect,) = parse(answer.text)
        assert isinstance(connect, Connect)
        assert connect.action == f"{PUBLIC}/twilio/after-stream?again=1"
        for again, token in (("1", None), ("x", TOKEN), ("5", TOKEN)):
            path = f"/twilio/after-stream?again={again}"
            answer = await served.phone.post(path, form(call.call_sid), token)
            assert answer.status_code == 403 if token is None else parse(answer.text) == (Hangup(),)
        path, signed = "/twilio/after-stream?again=1", f"{PUBLIC}/twilio/after-stream"
        forged = await served.phone.post(path, form(call.call_sid), url=signed)
        assert forged.status_code == 403, "the signature covers the counter"


async def test_the_voice_url_may_say_how_a_call_is_to_be(served: Served) -> None:
    path = "/twilio/voice?greeting_frames="
    answer = await served.phone.post(f"{path}25&record=true", form(new_call_sid()))
    assert isinstance(parse(answer.text)[0], Connect)
    served.end_calls()
    answer = await served.phone.post(f"{path}26", form(new_call_sid()))
    assert (answer.status_code, "0 to 25" in answer.text) == (400, True)
    answer = await served.phone.post(f"{path}7", form(new_call_sid()), url=f"{PUBLIC}{path}8")
    assert answer.status_code == 403
    assert served.free_slots == MAX_CALLS


@pytest.mark.parametrize(
    ("found", "verb"), [("machine_start", Hangup), ("fax", Hangup), ("human", Connect), ("machine_end_beep", Connect)]
)
async def test_a_machine_takes_no_slot_unless_its_tone_was_waited_for(
    served: Served, found: str, verb: type[Connect | Hangup]
) -> None:
    answer = await served.phone.post("/twilio/voice", {**form(new_call_sid()), "AnsweredBy": found})
    assert isinstance(parse(answer.text)[0], verb)
    assert served.free_slots == MAX_CALLS - (verb is Connect)


async def test_a_body_is_text_and_none_is_read_unsigned(served: Served) -> None:
    answer = await served.http.post("/twilio/voice", content=b"\xff\xfe", headers={"X-Twilio-Signature": "x"})
    assert answer.status_code == 400
    assert (await served.http.post("/twilio/voice", content=b"x" * 10_000_000)).status_code == 403


# The socket, once it is open: whatever comes ends this call, and no other.


Talk = Callable[[CallSid], list[str | bytes]]


def talk(*messages: str | bytes) -> Talk:
    """Begin well, then say this."""
    return lambda call_sid: [CONNECTED, start(call_sid), *messages]


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (talk("{"), "the peer broke the protocol (not-json"),
        (talk(" " * 1_000_000), "the socket was lost (close code 1009"),
        (lambda _: [CONNECTED, media(1)], "the peer broke the protocol (out-of-order"),
    ],
    ids=["no JSON", "a megabyte", "media first"],
)
async def test_bad_input_ends_its_own_call_with_a_reason_and_no_other(served: Served, talk: Talk, reason: str) -> None:
    async with served.phone.call() as other:
        await other.speaks()
        call_sid = new_call_sid()
        async with served.phone.dial(await served.phone.stream_url(call_sid)) as sock:
            for text in talk(call_sid):
                await sock.send(text)
            assert await closing_code(sock) in (1000, 1009)
        await served.until(call_sid, f"ended: {reason}")
        await other.speaks(2)
        assert served.free_slots == MAX_CALLS - 1


async def test_an_unknown_message_is_ignored_and_a_stop_ends_the_call_even_if_the_socket_stays_open(
    served: Served,
) -> None:
    async with served.phone.call() as call:
        await call.socket.send(message("weather", 2, weather={"sky": "blue"}))
        await call.speaks()
        await call.say(noise(1))
        await call.socket.send(call.carrier.send(Stopped()))
        assert await closing_code(call.socket) == 1000
    assert served.record(call.call_sid).end is EndReason.CALLER_HUNG_UP


# Trouble with the workers.


@pytest.mark.parametrize(
    "stage", [Stage.STEP, *(pytest.param(one, marks=pytest.mark.slow) for one in (Stage.ENCODE, Stage.DECODE))]
)
async def test_a_lost_worker_is_a_gap_in_the_call_and_the_next_one_is_served(served: Served, stage: Stage) -> None:
    async with served.phone.call() as call:
        await call.speaks()
        os.kill(served.service.supervisor.process_ids[stage], signal.SIGKILL)
        await served.until(call.call_sid, f"the pipeline is lost ({stage}: killed by SIGKILL), the call waits")
        assert await served.phone.ring(new_call_sid()) == (Reject("busy"),), "until the worker is back"
        readyz = (await served.http.get("/readyz")).json()
        told = f"{stage}: killed by SIGKILL; 1 call to resume"
        assert (readyz["ready"], readyz["suspended"], readyz["pipeline"]) == (False, 1, told)
        await served.until(call.call_sid, "the call goes on after")
        await call.speaks(2)
    async with served.phone.call() as call:
        await call.speaks(2)
