import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.inbound import Inbound
from app.audio.outbound import Outbound
from app.call.record import EndReason
from app.call.session import (
    LEAD_S,
    START_WITHIN_S,
    CallLimits,
    CallSession,
    Command,
    End,
    Listen,
    SendAudio,
    State,
    _takeover_s,
)
from app.twilio.events import (
    CallSid,
    Connected,
    DtmfPressed,
    Event,
    MarkPlayed,
    Media,
    Started,
    Stopped,
    StreamSid,
    Unknown,
)
from workers.messages import FRAME_S, Epoch, Frame, Pcm, Slot

ANN, ACCOUNT = CallSid("CAann"), "ACours"
STARTED = Started(StreamSid("MZ1"), ANN, ACCOUNT)
RINGS_S = 20.0
LONGEST_S = 3_600.0


def limits(greeting_frames: int = 0, processing_s: float = 0.0) -> CallLimits:
    return CallLimits(greeting_frames, RINGS_S, LONGEST_S, processing_s)


def ringing(greeting_frames: int = 0, now: float = 0.0) -> CallSession:
    return CallSession(ANN, ACCOUNT, limits(greeting_frames), now)


def connected(greeting_frames: int = 0, now: float = 1.0) -> CallSession:
    session = ringing(greeting_frames)
    session.socket_opened(now)
    assert session.receive(Connected(), now) == []
    return session


def live(greeting_frames: int = 0, now: float = 2.0) -> CallSession:
    session = connected(greeting_frames)
    session.receive(STARTED, now)
    assert session.state is State.LIVE
    return session


def sound(seq: int) -> Pcm:
    return np.random.default_rng(seq).uniform(-0.5, 0.5, 1_920).astype(np.float32)


def frame(seq: int, pcm: Pcm | None = None, text: str = "", dropped: int = 0) -> Frame:
    return Frame(Slot(0), Epoch(1), seq, pcm, text, dropped)


def packets(seconds: float, first_ms: int = 0) -> list[Media]:
    voice = np.random.default_rng(9).integers(0, 256, round(seconds * 8_000), np.uint8).tobytes()
    return [Media(first_ms + at // 8, voice[at : at + 160]) for at in range(0, len(voice), 160)]


def hear(session: CallSession, media: list[Media], now: float = 3.0) -> list[Command]:
    return [command for packet in media for command in session.receive(packet, now)]


def payloads(commands: list[Command]) -> list[bytes]:
    return [command.payload for command in commands if isinstance(command, SendAudio)]


def spoken(*seqs: int) -> list[bytes]:
    """The packets that the caller should get for these frames, one after the other."""
    outbound = Outbound()
    return [outbound.push(sound(seq)) for seq in seqs]


def reasons(commands: list[Command]) -> list[EndReason]:
    return [command.reason for command in commands if isinstance(command, End)]


def test_a_call_from_the_ring_to_the_end() -> None:
    session = ringing(greeting_frames=3)
    assert session.take_frame(frame(0, None), 0.2) == []
    assert session.take_frame(frame(1, sound(1)), 0.3) == []
    assert session.take_frame(frame(2, sound(2)), 0.4) == []
    session.socket_opened(1.0)
    assert session.receive(Connected(), 1.0) == []
    assert payloads(session.receive(STARTED, 1.1)) == spoken(1, 2)
    heard = hear(session, packets(0.24))
    assert [command.seq for command in heard if isinstance(command, Listen)] == [3, 4]
    assert payloads(session.take_frame(frame(3, sound(3)), 1.4)) == spoken(1, 2, 3)[2:]
    assert session.receive(Stopped(), 9.0) == [End(EndReason.CALLER_HUNG_UP)]
    record = session.record
    moments = (record.reserved_s, record.connected_s, record.started_s, record.first_sound_s, record.ended_s)
    assert moments == (0.0, 1.0, 1.1, 1.1, 9.0)
    assert record.counts == {"frames_out": 3, "frames_dropped": 0, "packets_in": 12}


def test_the_whole_greeting_goes_out_with_the_start_and_in_order() -> None:
    session = ringing(greeting_frames=25)
    for seq in range(1, 25):
        session.take_frame(frame(seq, sound(seq)), 0.5)
    session.socket_opened(1.0)
    assert payloads(session.receive(STARTED, 1.5)) == spoken(*range(1, 25))


def test_a_greeting_that_is_computed_late_goes_out_as_it_comes() -> None:
    session = ringing(greeting_frames=4)
    session.take_frame(frame(1, sound(1)), 0.9)
    session.socket_opened(1.0)
    session.take_frame(frame(2, sound(2)), 1.2)
    sent = payloads(session.receive(STARTED, 1.5)) + payloads(session.take_frame(frame(3, sound(3)), 1.6))
    assert sent == spoken(1, 2, 3)
    assert session.record.first_sound_s == 1.5


def test_a_greeting_that_comes_after_the_start_is_the_first_sound() -> None:
    session = live(greeting_frames=4, now=2.0)
    assert session.record.first_sound_s is None
    assert session.take_frame(frame(0, None), 2.1) == []
    assert payloads(session.take_frame(frame(1, sound(1)), 2.3)) == spoken(1)
    session.take_frame(frame(2, sound(2)), 2.4)
    assert session.record.first_sound_s == 2.3


def test_steps_without_sound_bring_their_text_all_the_same() -> None:
    session = ringing()
    session.take_frame(frame(0, None, text=" Hello"), 0.5)
    assert session.record.transcript == "Hello"


def test_the_callers_frames_are_those_of_his_packets() -> None:
    media = packets(0.5)
    heard = [command for command in hear(live(), media) if isinstance(command, Listen)]
    assert [command.seq for command in heard] == list(range(6))
    inbound = Inbound()
    expected = [pcm for packet in media for pcm in inbound.push(packet.timestamp_ms, packet.payload)]
    for command, pcm in zip(heard, expected, strict=True):
        np.testing.assert_array_equal(command.pcm, pcm)


def test_the_callers_frames_begin_where_the_greeting_ends_and_their_numbers_go_on_from_it() -> None:
    session = live(greeting_frames=25)
    takeover_s = _takeover_s(limits(25))
    heard = [command for command in hear(session, packets(2.4)) if isinstance(command, Listen)]
    assert heard[0].seq == 25
    assert len(heard) == math.floor((2.4 - takeover_s) / FRAME_S)


@pytest.mark.parametrize(
    ("greeting_frames", "processing_s", "takeover_s"),
    [
        (0, 0.0, 0.0),  # no greeting: at once
        (1, 0.0, 0.0),  # a greeting whose only frame is silent
        (2, 0.0, 0.0),  # a greeting shorter than a frame and the lead
        (3, 0.0, 0.16 - 0.08 - 0.04),
        (25, 0.0, 1.92 - 0.08 - 0.04),
        (25, 0.1, 1.92 - 0.08 - 0.1 - 0.04),
        (25, 60.0, 0.0),  # slower than any greeting
    ],
)
def test_when_the_caller_takes_over(greeting_frames: int, processing_s: float, takeover_s: float) -> None:
    assert _takeover_s(limits(greeting_frames, processing_s)) == pytest.approx(takeover_s)


@given(st.integers(3, 125), st.floats(0, 0.08))
def test_the_first_answer_finds_the_lead_still_unplayed(greeting_frames: int, processing_s: float) -> None:
    answered_s = _takeover_s(limits(greeting_frames, processing_s)) + FRAME_S + processing_s
    played_s = (greeting_frames - 1) * FRAME_S
    assert played_s - answered_s <= LEAD_S + 1e-9
    assert answered_s >= FRAME_S


@pytest.mark.parametrize(
    "started",
    [
        Started(StreamSid("MZ1"), CallSid("CAeve"), ACCOUNT),
        Started(StreamSid("MZ1"), ANN, "ACtheirs"),
        Started(StreamSid("MZ1"), CallSid("caann"), ACCOUNT),
    ],
)
def test_a_stream_of_another_call_or_account_hears_nothing(started: Started) -> None:
    session = connected(greeting_frames=3)
    session.take_frame(frame(1, sound(1)), 1.1)
    commands = session.receive(started, 1.5)
    assert reasons(commands) == [EndReason.WRONG_CALL]
    assert payloads(commands) == []


def test_without_an_account_of_ours_any_account_will_do() -> None:
    session = CallSession(ANN, "", limits(), 0.0)
    session.socket_opened(1.0)
    assert session.receive(Started(StreamSid("MZ1"), ANN, "ACtheirs"), 1.5) == []
    assert session.state is State.LIVE


@pytest.mark.parametrize(
    ("session", "due_s", "reason"),
    [
        (ringing(now=0.0), RINGS_S, EndReason.NO_SOCKET),
        (connected(now=1.0), 1.0 + START_WITHIN_S, EndReason.NO_START),
        (live(now=2.0), 2.0 + LONGEST_S, EndReason.TIME_LIMIT),
    ],
)
def test_what_does_not_come_in_time_ends_the_call(session: CallSession, due_s: float, reason: EndReason) -> None:
    assert session.get_timer() == due_s
    assert session.handle_timer(due_s - 0.001) == []
    assert reasons(session.handle_timer(due_s)) == [reason]
    assert (session.record.end, session.record.ended_s) == (reason, due_s)
    assert session.handle_timer(due_s + 1) == []


def test_a_lost_worker_ends_the_call_whatever_its_state() -> None:
    for session in (ringing(), connected(), live()):
        assert session.end(EndReason.WORKER_LOST, 5.0, "step-0") == [End(EndReason.WORKER_LOST, "step-0")]
        assert (session.record.end, session.record.detail) == (EndReason.WORKER_LOST, "step-0")


def test_a_call_ends_once_and_the_first_reason_stays() -> None:
    session = live()
    session.end(EndReason.TIME_LIMIT, 5.0)
    assert session.end(EndReason.SOCKET_LOST, 6.0) == []
    assert (session.record.end, session.record.ended_s) == (EndReason.TIME_LIMIT, 5.0)


def test_a_call_has_one_socket() -> None:
    for session in (connected(), live()):
        with pytest.raises(KeyError):
            session.socket_opened(3.0)
    ended = ringing()
    ended.end(EndReason.NO_SOCKET, 20.0)
    with pytest.raises(KeyError):
        ended.socket_opened(21.0)


def test_keys_are_counted() -> None:
    session = live()
    assert session.receive(DtmfPressed("5"), 3.0) == session.receive(DtmfPressed("#"), 3.1) == []
    assert session.record.counts["dtmf"] == 2


EVENTS = st.sampled_from(
    [Connected(), STARTED, *packets(0.16), MarkPlayed("m"), DtmfPressed("1"), Unknown("new"), Stopped()]
)
DEEDS = st.one_of(
    EVENTS,
    st.builds(frame, st.integers(0, 9), st.sampled_from([None, sound(1)]), st.just("")),
    st.sampled_from(["socket", "timer", "end"]),
)


def do(session: CallSession, deed: Event | Frame | str, now: float) -> list[Command]:
    if isinstance(deed, Frame):
        return session.take_frame(deed, now)
    if deed == "socket":
        if session.state is State.RESERVED:
            session.socket_opened(now)
        return []
    if deed == "timer":
        return session.handle_timer(now)
    if isinstance(deed, str):
        return session.end(EndReason.SHUTDOWN, now)
    return session.receive(deed, now)


@given(st.lists(st.tuples(DEEDS, st.floats(0, 15)), max_size=30))
@settings(deadline=None)
def test_whatever_happens_nothing_comes_after_the_end_and_no_sound_before_the_start(
    deeds: list[tuple[Event | Frame | str, float]],
) -> None:
    session, now, commands = ringing(greeting_frames=2), 0.0, []
    for deed, seconds in deeds:
        now += seconds
        state = session.state
        came = do(session, deed, now)
        if state in (State.RESERVED, State.CONNECTED) and not isinstance(deed, Started):
            assert payloads(came) == []
        commands += came
    ends = [place for place, command in enumerate(commands) if isinstance(command, End)]
    assert ends == ([len(commands) - 1] if session.state is State.ENDED else [])
    assert (session.record.ended_s is None) == (session.state is not State.ENDED)


def test_payloads_are_whole_frames_of_mulaw() -> None:
    assert [len(payload) for payload in payloads(live().take_frame(frame(0, sound(0)), 3.0))] == [640]
    assert mulaw.SAMPLE_RATE_HZ * FRAME_S == 640
