import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.mulaw import SILENCE
from app.simulator.playout import PlayoutModel
from app.simulator.stream import CallerScript, CallerStream, Message
from app.simulator.trouble import Scenario, Window
from app.twilio.events import Media, Stopped
from app.twilio.protocol import StreamProtocol
from app.twilio.wire import ProtocolViolation
from tests.app.simulator.test_carrier import STARTED

QUIET = bytes([SILENCE])


def told(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages]


def kinds(messages: Sequence[Message]) -> list[str]:
    return [message["event"] for message in told(messages)]


def opened(script: CallerScript, opened_s: float = 0.0) -> tuple[CallerStream, StreamProtocol]:
    stream, server = CallerStream(STARTED, script, PlayoutModel(), opened_s), StreamProtocol()
    for message in stream.open():
        server.receive(message)
    return stream, server


def test_a_packet_leaves_when_its_last_sample_is_spoken() -> None:
    stream, _ = opened(CallerScript(bytes(range(200)) * 8, ends_s=1.0))
    assert stream.due_s() == 0.02
    assert stream.advance(0.019) == []
    assert [message["media"]["timestamp"] for message in told(stream.advance(0.02))] == ["20"]
    assert stream.due_s() == 0.04


def test_everything_happens_in_the_order_in_which_it_falls_due() -> None:
    stream, server = opened(CallerScript(b"", ends_s=0.1))
    stream.receive(server.media(b"\x01" * 400), 0.0)
    stream.receive(server.mark("m"), 0.0)
    order = ["media", "media", "mark", "media", "media", "media", "stop"]
    assert kinds(stream.advance(0.2)) == order


@pytest.mark.parametrize(("lost", "least", "most"), [(0.0, 40, 40), (0.5, 10, 30), (1.0, 0, 0)])
def test_marks_may_be_lost(lost: float, least: int, most: int) -> None:
    stream, server = opened(CallerScript(b"", ends_s=9.0, line=Scenario(marks_lost=lost)))
    came = [told(stream.receive(server.mark(str(number)), 0.001)) for number in range(40)]
    assert least <= sum(len(marks) for marks in came) <= most


def test_twilio_may_read_slowly_or_not_at_all() -> None:
    stream, server = opened(CallerScript(b"", ends_s=9.0, line=Scenario(reads_per_s=10, unread=(Window(2.0, 1.0),))))
    assert stream.reads_s(1.0) == 1.0
    stream.receive(server.mark("m"), 1.0)
    assert stream.reads_s(1.01) == pytest.approx(1.1)
    assert stream.reads_s(2.5) == 3.0


def test_the_connection_may_break_without_a_word() -> None:
    stream, _ = opened(CallerScript(b"", ends_s=9.0, line=Scenario(cut_s=1.0)))
    assert set(kinds(stream.advance(5.0))) == {"media"}
    assert (stream.over, stream.cut) == (True, True)
    assert stream.advance(6.0) == []


def test_what_is_due_goes_out_before_a_message_is_obeyed() -> None:
    stream, server = opened(CallerScript(b"", ends_s=9.0))
    stream.receive(server.media(b"\x01" * 80), 0.0)
    stream.receive(server.mark("m"), 0.0)
    assert kinds(stream.receive(server.clear(), 0.025)) == ["mark", "media"]


def test_a_stalled_line_delivers_late_but_everything() -> None:
    stream, _ = opened(CallerScript(b"", ends_s=1.0, line=Scenario(stalls=(Window(0.03, 0.1),))))
    assert kinds(stream.advance(0.02)) == ["media"]
    assert stream.due_s() == pytest.approx(0.13)
    late = [message["media"]["timestamp"] for message in told(stream.advance(0.135))]
    assert late == ["40", "60", "80", "100", "120"]
    assert stream.due_s() == 0.14


def test_silent_packets_may_be_left_out_and_time_goes_on() -> None:
    said = b"\x01" * 160 + QUIET * 320 + b"\x02" * 160
    stream, _ = opened(CallerScript(said, ends_s=0.2, line=Scenario(suppressed=True)))
    packets = [message["media"] for message in told(stream.advance(0.19))]
    assert [(packet["chunk"], packet["timestamp"]) for packet in packets] == [("1", "20"), ("2", "80")]


def test_a_second_stream_goes_on_where_the_call_is() -> None:
    said = bytes(16_000 * [1]) + bytes(16_000 * [2])
    stream, server = opened(CallerScript(said, ends_s=9.0), opened_s=2.0)
    [packet] = told(stream.advance(2.02))
    assert server.receive(json.dumps(packet)) == Media(20, b"\x02" * 160)


def test_the_stream_counts() -> None:
    stream, server = opened(CallerScript(b"", ends_s=9.0))
    stream.receive(server.media(b"\x01" * 640), 0.0625)
    stream.receive(server.media(b"\x01" * 100), 0.0625)
    counts = stream.counts
    assert (counts.packets_sent, counts.bytes_received, counts.ragged_packets) == (3, 740, 1)
    assert counts.lateness_s == pytest.approx([0.0425, 0.0225, 0.0025])


def test_what_twilio_refuses_is_a_violation_until_the_end() -> None:
    stream, _ = opened(CallerScript(b"", ends_s=0.02))
    with pytest.raises(ProtocolViolation):
        stream.receive('{"event":"media"}', 0.0)
    stream.advance(0.03)
    assert stream.receive('{"event":"media"}', 0.03) == []


@given(st.lists(st.floats(0, 0.5), max_size=30), st.binary(max_size=3000))
def test_however_late_it_is_advanced_the_server_receives_the_same(waits: list[float], said: bytes) -> None:
    stream, server = opened(CallerScript(said, ends_s=1.0))
    messages, now = list[Message](), 0.0
    for wait in [*waits, 20.0]:
        now += wait
        messages += stream.advance(now)
    events = [server.receive(message) for message in messages]
    packets = [event for event in events if isinstance(event, Media)]
    assert b"".join(packet.payload for packet in packets) == said.ljust(8000, QUIET)
    assert [packet.timestamp_ms for packet in packets] == list(range(20, 1001, 20))
    assert events[-1] == Stopped()
    assert (stream.over, stream.cut, stream.advance(99.0)) == (True, False, [])
