import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.jitter_buffer import WAIT_S, JitterBuffer
from app.audio.playout import ClearAudio, Playout, PlayoutCommand, SendAudio, SendMark
from app.audio.playout_buffer import FIRST_JITTER_S
from app.audio.resample import Decimator
from app.audio.time_stretch import Samples
from app.calls.record import EndReason
from app.calls.session import (
    DRAIN_WITHIN_S,
    START_WITHIN_S,
    TAKEOVER_MARGIN_S,
    CallLimits,
    CallSession,
    CallState,
    Command,
    End,
    SendFrame,
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
LONGEST_S = 60.0


def limits(greeting_frames: int = 0, processing_s: float = 0.0) -> CallLimits:
    return CallLimits(greeting_frames, RINGS_S, LONGEST_S, processing_s)


def ringing(greeting_frames: int = 0, now: float = 0.0) -> CallSession:
    return CallSession(ANN, ACCOUNT, limits(greeting_frames), now)


def connected(greeting_frames: int = 0, now: float = 1.0) -> CallSession:
    session = ringing(greeting_frames)
    session.on_socket_open(now)
    assert session.receive(Connected(), now) == []
    return session


def live(greeting_frames: int = 0, now: float = 2.0) -> CallSession:
    session = connected(greeting_frames)
    session.receive(STARTED, now)
    assert session.state is CallState.LIVE
    return session


def sound(seq: int) -> Pcm:
    return np.random.default_rng(seq).uniform(-0.5, 0.5, 1_920).astype(np.float32)


def frame(seq: int, pcm: Pcm | None = None, text: str = "", dropped: int = 0) -> Frame:
    return Frame(Slot(0), Epoch(1), seq, pcm, text, dropped)


def packets(seconds: float, first_ms: int = 0) -> list[Media]:
    voice = np.random.default_rng(9).integers(0, 256, round(seconds * 8_000), np.uint8).tobytes()
    return [Media(first_ms + at // 8, voice[at : at + 160]) for at in range(0, len(voice), 160)]


def hear(session: CallSession, media: list[Media], start_s: float = 2.0) -> list[Command]:
    """The packets come as they are spoken."""
    return [
        command for packet in media for command in session.receive(packet, start_s + packet.timestamp_ms / 1000 + 0.02)
    ]


def until(session: CallSession, until_s: float) -> list[tuple[float, Command]]:
    """Let the timer go off whenever it should; return what is done, and when."""
    done: list[tuple[float, Command]] = []
    for _ in range(10_000):
        if session.state is CallState.ENDED or (due_s := session.get_timer()) > until_s:
            return done
        done += [(due_s, command) for command in session.handle_timer(due_s)]
    raise AssertionError("the timer goes off again and again")


def listened(commands: list[Command]) -> list[int]:
    return [command.seq for command in commands if isinstance(command, SendFrame)]


def commands_of(done: list[tuple[float, Command]]) -> list[Command]:
    return [command for _, command in done]


def payloads(commands: list[Command]) -> list[bytes]:
    return [command.payload for command in commands if isinstance(command, SendAudio)]


def spoken(*seqs: int) -> list[bytes]:
    """The packets that the caller should get for these frames, one after the other."""
    decimator = Decimator()
    return [mulaw.encode(decimator.push_int16(sound(seq))) for seq in seqs]


def reasons(commands: list[Command]) -> list[EndReason]:
    return [command.reason for command in commands if isinstance(command, End)]


def test_a_call_from_reservation_to_end() -> None:
    session = ringing(greeting_frames=3)
    assert session.handle_frame(frame(0, None), 0.2) == []
    assert session.handle_frame(frame(1, sound(1)), 0.3) == []
    assert session.handle_frame(frame(2, sound(2)), 0.4) == []
    session.on_socket_open(1.0)
    assert session.receive(Connected(), 1.0) == []
    sent = payloads(session.receive(STARTED, 1.1))
    assert sent == spoken(1), "at once"
    sent += payloads(commands_of(until(session, 1.2)))
    assert sent == spoken(1, 2)
    assert listened(hear(session, packets(0.24), start_s=1.1)) == [3, 4]
    sent += payloads(session.handle_frame(frame(3, sound(3)), 1.25))
    assert sent == spoken(1, 2, 3)
    assert session.receive(Stopped(), 9.0) == [End(EndReason.CALLER_HUNG_UP)]
    record = session.record
    moments = (record.reserved_s, record.connected_s, record.started_s, record.first_sound_s, record.ended_s)
    assert moments == (0.0, 1.0, 1.1, 1.1, 9.0)
    assert record.counts["frames_out"] == 3
    assert record.counts["packets_in"] == 12


def test_the_greeting_begins_with_the_start_and_is_played_in_real_time() -> None:
    session = ringing(greeting_frames=25)
    for seq in range(1, 25):
        session.handle_frame(frame(seq, sound(seq)), 0.5)
    session.on_socket_open(1.0)
    now = [(1.5, command) for command in session.receive(STARTED, 1.5)]
    sent = [(at_s, command) for at_s, command in now + until(session, 4.0) if isinstance(command, SendAudio)]
    assert [command.payload for _, command in sent] == spoken(*range(1, 25))
    assert [command.seq for _, command in sent] == list(range(1, 25))
    late_s = [at_s - (1.5 + number * FRAME_S) for number, (at_s, _) in enumerate(sent)]
    assert late_s[0] == 0.0
    assert all(-0.1 < late < 0.0 for late in late_s[1:])


def test_a_greeting_that_is_computed_late_goes_out_as_it_comes() -> None:
    session = ringing(greeting_frames=4)
    session.handle_frame(frame(1, sound(1)), 0.9)
    session.on_socket_open(1.0)
    session.handle_frame(frame(2, sound(2)), 1.2)
    sent = session.receive(STARTED, 1.5) + commands_of(until(session, 1.6))
    sent += session.handle_frame(frame(3, sound(3)), 1.6) + commands_of(until(session, 1.7))
    assert payloads(sent) == spoken(1, 2, 3)
    assert session.record.first_sound_s == 1.5


def test_a_greeting_that_comes_after_the_start_is_the_first_sound() -> None:
    session = live(greeting_frames=4, now=2.0)
    assert session.record.first_sound_s is None
    assert session.handle_frame(frame(0, None), 2.1) == []
    assert payloads(session.handle_frame(frame(1, sound(1)), 2.3)) == spoken(1)
    session.handle_frame(frame(2, sound(2)), 2.4)
    assert session.record.first_sound_s == 2.3


def test_steps_without_sound_bring_their_text_all_the_same() -> None:
    session = ringing()
    session.handle_frame(frame(0, None, text=" Hello"), 0.5)
    assert session.record.transcript == "Hello"


def test_the_callers_frames_are_those_of_his_packets() -> None:
    media = packets(0.5)
    heard = [command for command in hear(live(now=2.0), media) if isinstance(command, SendFrame)]
    assert [command.seq for command in heard] == list(range(6))
    inbound = JitterBuffer()
    inbound.start(0.0)
    expected = [pcm for packet in media for pcm in inbound.push(packet.timestamp_ms, packet.payload, 0.0)]
    for command, pcm in zip(heard, expected, strict=True):
        np.testing.assert_array_equal(command.pcm, pcm)


def test_the_callers_frames_begin_where_the_greeting_ends_and_their_numbers_go_on_from_it() -> None:
    session = live(greeting_frames=25)
    takeover_s = _takeover_s(limits(25))
    heard = listened(hear(session, packets(2.4)))
    assert heard[0] == 25
    assert len(heard) == math.floor((2.4 - takeover_s) / FRAME_S)
    assert session.record.takeover_s == pytest.approx(takeover_s)


def test_a_caller_who_sends_nothing_is_taken_to_be_silent() -> None:
    session = live(now=2.0)
    done = [(at_s, command) for at_s, command in until(session, 3.0) if isinstance(command, SendFrame)]
    assert [command.seq for _, command in done] == list(range(len(done)))
    due_s = [2.0 + WAIT_S[0] + number * FRAME_S for number in range(1, len(done) + 1)]
    assert [at_s for at_s, _ in done] == pytest.approx(due_s)
    assert not any(command.pcm.any() for _, command in done)
    session.end(EndReason.SHUTDOWN, 3.0)
    assert session.record.counts["ms_filled"] == 80 * len(done)


def test_frames_are_in_phase_with_those_of_other_calls() -> None:
    session = connected()
    assert session.phase_s(2.0) is None
    session.receive(STARTED, 2.0, phase_s=7.64)
    heard = [(media.timestamp_ms, listened(hear(session, [media]))) for media in packets(0.24)]
    assert [stamp_ms + 20 for stamp_ms, seqs in heard if seqs] == [40, 120, 200]
    assert session.phase_s(2.24) == pytest.approx(2.28)
    assert session.record.takeover_s == pytest.approx(-0.04)
    session.end(EndReason.SHUTDOWN, 3.0)
    assert session.phase_s(3.0) is None


class Noted(Playout):
    """Notes what it is told of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[int, tuple[bool, bool]] = {}

    def push(
        self, seq: int, samples: Samples, now: float, ahead: bool = False, filled: bool = False
    ) -> list[PlayoutCommand]:
        self.told[seq] = (ahead, filled)
        return super().push(seq, samples, now, ahead, filled)


def test_the_playout_knows_which_frames_are_ahead_or_filled() -> None:
    session = connected(greeting_frames=3)
    session._playout = noted = Noted()
    session.handle_frame(frame(1, sound(1)), 1.2)
    session.receive(STARTED, 2.0)
    heard = listened(hear(session, packets(0.24)))  # frames 3 and 4, and a part of 5
    filled = listened(commands_of(until(session, 2.44)))
    assert (heard, filled) == ([3, 4], [5, 6])
    for seq in (2, *heard, *filled):
        session.handle_frame(frame(seq, sound(seq)), 2.44)
    ahead, from_him, made_up = (True, False), (False, False), (False, True)
    assert noted.told == {1: ahead, 2: ahead, 3: from_him, 4: from_him, 5: made_up, 6: made_up}


LEAD = TAKEOVER_MARGIN_S + FIRST_JITTER_S


def test_jitter_of_the_workers_makes_the_takeover_earlier() -> None:
    steady, swaying = (CallLimits(25, RINGS_S, LONGEST_S, 0.03, jitter_s) for jitter_s in (0.001, 0.015))
    assert _takeover_s(steady) - _takeover_s(swaying) == pytest.approx(0.014)


@pytest.mark.parametrize(
    ("greeting_frames", "processing_s", "takeover_s"),
    [
        (0, 0.0, 0.0),  # no greeting: at once
        (1, 0.0, 0.0),  # a greeting whose only frame is silent
        (2, 0.0, 0.0),  # a greeting shorter than a frame and the lead
        (3, 0.0, 0.16 - 0.08 - LEAD),
        (25, 0.0, 1.92 - 0.08 - LEAD),
        (25, 0.1, 1.92 - 0.08 - 0.1 - LEAD),
        (25, 60.0, 0.0),  # slower than any greeting
    ],
)
def test_when_the_caller_takes_over(greeting_frames: int, processing_s: float, takeover_s: float) -> None:
    assert _takeover_s(limits(greeting_frames, processing_s)) == pytest.approx(takeover_s)


@given(st.integers(3, 125), st.floats(0, 0.08))
def test_the_first_answer_finds_the_lead_still_unplayed(greeting_frames: int, processing_s: float) -> None:
    answered_s = _takeover_s(limits(greeting_frames, processing_s)) + FRAME_S + processing_s
    played_s = (greeting_frames - 1) * FRAME_S
    assert played_s - answered_s <= LEAD + 1e-9
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
    session.handle_frame(frame(1, sound(1)), 1.1)
    commands = session.receive(started, 1.5)
    assert reasons(commands) == [EndReason.WRONG_CALL]
    assert payloads(commands) == []


def test_without_an_account_of_ours_any_account_will_do() -> None:
    session = CallSession(ANN, "", limits(), 0.0)
    session.on_socket_open(1.0)
    assert session.receive(Started(StreamSid("MZ1"), ANN, "ACtheirs"), 1.5) == [SendMark("0:1")]
    assert session.state is CallState.LIVE


@pytest.mark.parametrize(
    ("session", "due_s", "reason"),
    [
        (ringing(now=0.0), RINGS_S, EndReason.NO_SOCKET),
        (connected(now=1.0), 1.0 + START_WITHIN_S, EndReason.NO_START),
        (live(now=2.0), 2.0 + LONGEST_S, EndReason.TIME_LIMIT),
    ],
)
def test_what_does_not_come_in_time_ends_the_call(session: CallSession, due_s: float, reason: EndReason) -> None:
    assert reasons(commands_of(until(session, due_s - 0.001))) == []
    assert reasons(commands_of(until(session, due_s))) == [reason]
    assert (session.record.end, session.record.ended_s) == (reason, due_s)
    assert session.handle_timer(due_s + 1) == []


def draining() -> tuple[CallSession, str]:
    """A call at its time limit, some of whose sound has not been heard; and the name of the mark behind it."""
    session = live(now=2.0)
    until(session, 2.0 + LONGEST_S - 0.05)
    (sent,) = [
        command
        for command in [*session.handle_frame(frame(0, sound(0)), 61.96), *commands_of(until(session, 61.99))]
        if isinstance(command, SendAudio)
    ]
    commands = commands_of(until(session, 2.0 + LONGEST_S))
    assert reasons(commands) == []
    assert session.state is CallState.DRAINING
    return session, last_mark([sent, *commands])


def last_mark(commands: list[Command]) -> str:
    """Return the name of the mark behind all that has been said."""
    return [command.mark for command in commands if isinstance(command, SendAudio | SendMark) and command.mark][-1]


def test_at_the_time_limit_what_has_been_said_is_heard_to_its_end() -> None:
    session, mark = draining()
    assert session.receive(MarkPlayed("0:999"), 62.01) == []
    assert session.receive(MarkPlayed(mark), 62.05) == [End(EndReason.TIME_LIMIT)]
    assert session.record.ended_s == 62.05


def test_draining_without_marks_ends_after_its_limit() -> None:
    session, _ = draining()
    assert until(session, 62.0 + DRAIN_WITHIN_S - 0.001) == []
    assert until(session, 62.0 + DRAIN_WITHIN_S) == [(62.0 + DRAIN_WITHIN_S, End(EndReason.TIME_LIMIT))]


def test_while_a_call_drains_nothing_is_listened_to_or_said() -> None:
    session, _ = draining()
    assert hear(session, packets(0.5), start_s=62.0) == []
    assert session.handle_frame(frame(1, sound(1)), 62.1) == []
    assert session.phase_s(62.1) is None
    assert session.receive(Stopped(), 62.2) == [End(EndReason.CALLER_HUNG_UP)]


def test_what_waits_when_the_time_is_up_is_sent_and_heard() -> None:
    session = CallSession(ANN, ACCOUNT, CallLimits(4, RINGS_S, max_call_s=0.1, processing_s=0.0), 0.0)
    session.on_socket_open(1.0)
    for seq in (1, 2, 3):
        session.handle_frame(frame(seq, sound(seq)), 1.5)
    sent = session.receive(STARTED, 2.0) + commands_of(until(session, 2.1))
    assert session.state is CallState.DRAINING
    marks = [command.mark for command in sent if isinstance(command, SendAudio)]
    assert len(marks) == 2, "the third waits still"
    assert [session.receive(MarkPlayed(mark), 2.11) for mark in marks] == [[], []]
    sent += commands_of(until(session, 2.3))
    assert payloads(sent) == spoken(1, 2, 3)
    last = [command.mark for command in sent if isinstance(command, SendAudio)][-1]
    assert session.receive(MarkPlayed(last), 2.3) == [End(EndReason.TIME_LIMIT)]


def idle_after(idle_s: float) -> CallSession:
    session = CallSession(ANN, ACCOUNT, CallLimits(0, RINGS_S, LONGEST_S, 0.0, idle_s=idle_s), 0.0)
    session.on_socket_open(1.0)
    session.receive(STARTED, 2.0)
    return session


def quiet(seconds: float) -> list[Media]:
    return [Media(at_ms, bytes([mulaw.SILENCE]) * 160) for at_ms in range(0, round(seconds * 1_000), 20)]


def test_a_caller_who_sends_nothing_for_too_long_is_hung_up_on() -> None:
    session = idle_after(10.0)
    assert reasons(commands_of(until(session, 11.999))) == []
    assert reasons(commands_of(until(session, 12.0))) == [EndReason.IDLE]


def test_a_caller_who_sends_only_silence_is_hung_up_on_as_well() -> None:
    session = idle_after(10.0)
    hear(session, quiet(9.9))
    assert reasons(commands_of(until(session, 12.0))) == [EndReason.IDLE]


def test_who_says_something_or_presses_a_key_stays_on_the_line() -> None:
    session = idle_after(10.0)
    hear(session, packets(5.0))
    assert reasons(commands_of(until(session, 16.9))) == []
    session.receive(DtmfPressed("5"), 16.9)
    assert reasons(commands_of(until(session, 26.89))) == []
    assert reasons(commands_of(until(session, 26.9))) == [EndReason.IDLE]


def test_without_an_idle_limit_silence_may_last_as_long_as_the_call() -> None:
    assert reasons(commands_of(until(live(now=2.0), 2.0 + LONGEST_S))) == [EndReason.TIME_LIMIT]


def test_who_has_been_silent_for_too_long_hears_the_last_sentence_to_its_end() -> None:
    session = idle_after(10.0)
    until(session, 11.9)
    sent = [*session.handle_frame(frame(0, sound(0)), 11.9), *commands_of(until(session, 11.99))]
    sent += commands_of(until(session, 12.0))
    assert reasons(sent) == []
    assert session.receive(MarkPlayed(last_mark(sent)), 12.05) == [End(EndReason.IDLE)]


def test_a_call_that_is_wound_up_ends_when_what_was_said_has_been_heard_and_for_that_reason() -> None:
    session = live(now=2.0)
    until(session, 2.9)
    sent = [*session.handle_frame(frame(0, sound(0)), 2.9), *commands_of(until(session, 2.99))]
    mark = last_mark(session.drain(EndReason.SHUTDOWN, 3.0))
    assert mark not in [command.mark for command in sent if isinstance(command, SendAudio)]
    assert session.drain(EndReason.TIME_LIMIT, 3.01) == [], "the first reason stays"
    assert session.receive(MarkPlayed(mark), 3.05) == [End(EndReason.SHUTDOWN)]


def test_a_call_in_which_nothing_has_been_said_is_wound_up_at_once() -> None:
    for session in (ringing(), connected(), live()):
        assert session.drain(EndReason.SHUTDOWN, 5.0) == [End(EndReason.SHUTDOWN)]
        assert session.drain(EndReason.SHUTDOWN, 6.0) == []


def test_the_record_has_what_was_counted_on_both_ways() -> None:
    session = live(now=2.0)
    until(session, 2.3)
    session.handle_frame(frame(0, sound(0)), 2.3)
    until(session, 2.4)
    session.handle_frame(frame(1, sound(1)), 3.0)
    session.end(EndReason.SHUTDOWN, 3.0)
    assert session.record.counts["ms_filled"] > 0
    assert session.record.counts["underruns"] == 1


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
            session.on_socket_open(3.0)
    ended = ringing()
    ended.end(EndReason.NO_SOCKET, 20.0)
    with pytest.raises(KeyError):
        ended.on_socket_open(21.0)


def test_keys_are_counted_and_end_nothing_unless_one_is_meant_to() -> None:
    session = live()
    assert session.receive(DtmfPressed("5"), 3.0) == session.receive(DtmfPressed("#"), 3.1) == []
    assert session.record.counts["dtmf"] == 2


def with_hangup_digit(digit: str) -> CallSession:
    session = CallSession(ANN, ACCOUNT, CallLimits(0, RINGS_S, LONGEST_S, 0.0, hangup_digit=digit), 0.0)
    session.on_socket_open(1.0)
    session.receive(STARTED, 2.0)
    return session


@pytest.mark.parametrize("digit", ["#", "*", "0", "A"])
def test_the_key_that_ends_the_call_ends_it_with_a_reason_of_its_own_and_the_others_do_not(digit: str) -> None:
    session = with_hangup_digit(digit)
    others = [DtmfPressed(key) for key in "0123456789*#ABCD" if key != digit]
    assert [session.receive(key, 3.0) for key in others] == [[]] * 15
    assert session.receive(DtmfPressed(digit), 4.0) == [End(EndReason.HANGUP_KEY)]
    assert (session.record.end, session.record.counts["dtmf"]) == (EndReason.HANGUP_KEY, 16)


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
        return session.handle_frame(deed, now)
    if deed == "socket":
        if session.state is CallState.RESERVED:
            session.on_socket_open(now)
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
        if state in (CallState.RESERVED, CallState.CONNECTED) and not isinstance(deed, Started):
            assert not [command for command in came if isinstance(command, SendAudio | ClearAudio | SendFrame)]
        commands += came
    ends = [place for place, command in enumerate(commands) if isinstance(command, End)]
    assert ends == ([len(commands) - 1] if session.state is CallState.ENDED else [])
    assert (session.record.ended_s is None) == (session.state is not CallState.ENDED)
