"""The messages of a simulated chat, and the whole chat with a loopback service."""

import numpy as np
import pytest
import sphn

from app.audio import mulaw
from app.audio.opus import OpusCodec, PcmCodec
from app.simulator.call import simulate
from app.simulator.carrier import Play
from app.simulator.chat import ChatCarrier
from app.simulator.measure import mouth_to_ear_ms
from app.simulator.options import CallOptions, LegKind
from app.simulator.report import CallReport, Outcome
from app.twilio.events import CallSid, Connected, Media, Stopped
from app.twilio.protocol import StreamState
from tests.service.served import Served, served

TONE_8K = (8_000 * np.sin(np.arange(8_000) * 2 * np.pi * 500 / 8_000)).astype(np.int16)
TONE_24K = (8_000 * np.sin(np.arange(24_000) * 2 * np.pi * 500 / 24_000)).astype("<i2")


def packets() -> list[Media]:
    payload = mulaw.encode(TONE_8K)
    return [Media(start // 8, payload[start : start + 160]) for start in range(0, len(payload), 160)]


def loudest_hz(samples: np.ndarray[tuple[int], np.dtype[np.float32]], rate_hz: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate_hz / len(samples)


def test_each_packet_is_a_message_of_24_khz() -> None:
    carrier = ChatCarrier(PcmCodec())
    assert carrier.send(Connected()) == b""
    messages = [carrier.send(packet) for packet in packets()]
    assert {(message[:1], len(message)) for message in messages} == {(b"\x01", 1 + 2 * 480)}
    sent = np.frombuffer(b"".join(message[1:] for message in messages), "<i2").astype(np.float32)
    assert loudest_hz(sent, 24_000) == 500
    assert np.abs(sent).max() == pytest.approx(8_000, rel=0.1)


def test_two_packets_are_a_message_of_opus() -> None:
    carrier, reader = ChatCarrier(OpusCodec()), sphn.OpusStreamReader(24_000)
    messages = [carrier.send(packet) for packet in packets()]
    assert [message[:1] for message in messages] == [b"", b"\x01"] * 25
    decoded = np.concatenate([reader.append_bytes(message[1:]) for message in messages if message])
    assert loudest_hz(decoded[-12_000:], 24_000) == 500


def test_what_is_heard_is_8_khz_whatever_the_length_of_a_message() -> None:
    carrier, sound = ChatCarrier(PcmCodec()), TONE_24K.tobytes()
    parts = [sound[start : start + 2_002] for start in range(0, len(sound), 2_002)]
    heard = b"".join(carrier.receive(b"\x01" + part).payload for part in parts)
    assert len(heard) == 8_000
    assert loudest_hz(mulaw.decode(heard).astype(np.float32), 8_000) == 500
    assert [carrier.receive(other) for other in (b"\x00", b"\x02 word", b"\x06", b"", "text")] == [Play(b"")] * 5


def test_hanging_up_sends_nothing_and_ends_the_stream() -> None:
    carrier = ChatCarrier(PcmCodec())
    assert (carrier.send(Stopped()), carrier.state) == (b"", StreamState.STOPPED)


async def chat(service: Served, leg: LegKind, seconds: float) -> CallReport:
    noise = np.random.default_rng(5).normal(0, 3_000, round(seconds * 8_000)).astype(np.int16)
    return await simulate(CallOptions(service.url, None, "", audio=noise, leg=leg))


async def test_a_simulated_chat_hears_itself_and_is_told_when_there_is_no_chat() -> None:
    async with served(max_calls=1) as service:
        report = await chat(service, LegKind.CHAT, 4.0)
        assert (report.outcome, report.call_sid[:5]) == (Outcome.CALLER_HUNG_UP, "chat-")
        assert service.record(CallSid(report.call_sid)), "the call it names"
        windows = mouth_to_ear_ms(report.said, report.heard).windows
        assert windows, "recognised"
        assert min(one.latency_ms for one in windows) >= 80.0, "a frame"
    async with served(max_calls=1, chat=False) as service:
        report = await chat(service, LegKind.CHAT_OPUS, 1.0)
        assert (report.outcome, report.status) == (Outcome.HANDSHAKE_FAILED, 404)
