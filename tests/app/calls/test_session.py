import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.jitter_buffer import WAIT_S, JitterBuffer
from app.audio.playout import ClearAudio, Playout, PlayoutCommand, SendAudio, SendMark
from app.audio.resample import Decimator
from app.audio.time_stretch import Samples
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.end_reason import EndReason
from app.calls.leg import PhoneLeg, SendFrame
from app.calls.limits import CallLimits
from app.calls.session import DRAIN_WITHIN_S, START_WITHIN_S, CallSession, CallState, Command, End
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
from workers.messages import FRAME_S, GREETING, CallPersona, Epoch, Frame, Pcm, Said, Slot

ANN, ACCOUNT = CallSid("CAann"), "ACours"
STARTED = Started(StreamSid("MZ1"), ANN, ACCOUNT)
RINGS_S = 20.0
LONGEST_S = 60.0


def ringing(greeting_frames: int = 0, account: str = ACCOUNT, **limits: Any) -> CallSession:
    changed = {"max_call_s": LONGEST_S, **limits}
    return CallSession(ANN, account, CallLimits(greeting_frames, RINGS_S, processing_s=0.0, **changed), 0.0)


def connected(greeting_frames: int = 0, account: str = ACCOUNT, **limits: Any) -> CallSession:
    """A call whose socket has come at 1 s."""
    session = ringing(greeting_frames, account, **limits)
    session.on_socket_open(1.0)
    assert session.receive(Connected(), 1.0) == []
    return session


def live(greeting_frames: int = 0, **limits: Any) -> CallSession:
    """A call whose stream has started at 2 s."""
    session = connected(greeting_frames, **limits)
    session.receive(STARTED, 2.0)
    assert session.state is CallState.LIVE
    return session


def sound(seq: int) -> Pcm:
    return np.random.default_rng(seq).uniform(-0.5, 0.5, 1_920).astype(np.float32)


def frame(seq: int, pcm: Pcm | None = None, text: str = "") -> Frame:
    return Frame(Slot(0), Epoch(1), seq, pcm, text)


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


def listened(commands: Sequence[Command]) -> list[int]:
    return [command.seq for command in commands if isinstance(command, SendFrame)]


def commands_of(done: list[tuple[float, Command]]) -> list[Command]:
    return [command for _, command in done]


def payloads(commands: Sequence[Command]) -> list[bytes]:
    return [command.payload for command in commands if isinstance(command, SendAudio)]


def spoken(*seqs: int) -> list[bytes]:
    """The packets that the caller should get for these frames, one after the other."""
    decimator = Decimator()
    return [mulaw.encode(decimator.push_int16(sound(seq))) for seq in seqs]


def reasons(commands: Sequence[Command]) -> list[EndReason]:
    return [command.reason for command in commands if isinstance(command, End)]


def test_a_call_from_reservation_to_end() -> None:
    session = ringing(greeting_frames=3)
    assert session.handle_frame(frame(0, None, text=" Hello"), 0.2) == []
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


def test_the_first_sound_of_a_greeting_may_come_after_the_start() -> None:
    session = live(greeting_frames=4)
    for seq, pcm, now in ((0, None, 2.1), (1, sound(1), 2.3), (2, sound(2), 2.4)):
        session.handle_frame(frame(seq, pcm), now)
    assert session.record.first_sound_s == 2.3


def test_the_callers_frames_are_those_of_their_packets() -> None:
    media = packets(0.5)
    heard = [command for command in hear(live(), media) if isinstance(command, SendFrame)]
    assert [command.seq for command in heard] == list(range(6))
    inbound = JitterBuffer()
    inbound.start(0.0)
    expected = [pcm for packet in media for pcm in inbound.push(packet.timestamp_ms, packet.payload, 0.0)]
    for command, pcm in zip(heard, expected, strict=True):
        np.testing.assert_array_equal(command.pcm, pcm)


def test_the_callers_frames_begin_where_the_greeting_ends_and_their_numbers_go_on_from_it() -> None:
    session = live(greeting_frames=25)
    takeover_s = CallLimits(25, RINGS_S, LONGEST_S, 0.0).takeover_s
    heard = listened(hear(session, packets(2.4)))
    assert heard[0] == 25
    assert len(heard) == math.floor((2.4 - takeover_s) / FRAME_S)
    assert session.record.takeover_s == pytest.approx(takeover_s)


def test_a_caller_who_sends_nothing_is_taken_to_be_silent() -> None:
    session = live()
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
    assert isinstance(session.leg, PhoneLeg)
    session.leg.playout = noted = Noted()
    session.handle_frame(frame(1, sound(1)), 1.2)
    session.receive(STARTED, 2.0)
    heard = listened(hear(session, packets(0.24)))  # frames 3 and 4, and a part of 5
    filled = listened(commands_of(until(session, 2.44)))
    assert (heard, filled) == ([3, 4], [5, 6])
    for seq in (2, *heard, *filled):
        session.handle_frame(frame(seq, sound(seq)), 2.44)
    ahead, from_caller, made_up = (True, False), (False, False), (False, True)
    assert noted.told == {1: ahead, 2: ahead, 3: from_caller, 4: from_caller, 5: made_up, 6: made_up}


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
    if started.call_sid == ANN:
        assert connected(account="").receive(started, 1.5) == [SendMark("0:1")], "any account will do"


@pytest.mark.parametrize(
    ("session", "due_s", "reason"),
    [
        (ringing(), RINGS_S, EndReason.NO_SOCKET),
        (connected(), 1.0 + START_WITHIN_S, EndReason.NO_START),
        (live(), 2.0 + LONGEST_S, EndReason.TIME_LIMIT),
        (live(idle_s=10.0), 12.0, EndReason.IDLE),
    ],
)
def test_what_does_not_come_in_time_ends_the_call(session: CallSession, due_s: float, reason: EndReason) -> None:
    assert reasons(commands_of(until(session, due_s - 0.001))) == []
    assert reasons(commands_of(until(session, due_s))) == [reason]
    assert (session.record.end, session.record.ended_s) == (reason, due_s)
    assert session.handle_timer(due_s + 1) == []


def draining(**limits: Any) -> tuple[CallSession, str]:
    """A call at a limit, at 62 s, some of whose sound has not been heard; and the name of the mark behind it."""
    session = live(**limits)
    until(session, 61.95)
    sent = [*session.handle_frame(frame(0, sound(0)), 61.96), *commands_of(until(session, 62.0))]
    assert (len(payloads(sent)), reasons(sent)) == (1, [])
    assert session.state is CallState.DRAINING
    return session, last_mark(sent)


def last_mark(commands: Sequence[Command]) -> str:
    """Return the name of the mark behind all that has been said."""
    return [command.mark for command in commands if isinstance(command, SendAudio | SendMark) and command.mark][-1]


@pytest.mark.parametrize(
    ("reason", "limits"),
    [(EndReason.TIME_LIMIT, {"max_call_s": 60.0}), (EndReason.IDLE, {"max_call_s": 99.0, "idle_s": 60.0})],
)
def test_at_a_limit_what_has_been_said_is_heard_to_its_end(reason: EndReason, limits: dict[str, float]) -> None:
    session, mark = draining(**limits)
    assert session.receive(MarkPlayed("0:999"), 62.01) == []
    assert session.drain(EndReason.SHUTDOWN, 62.02) == [], "the first reason stays"
    assert session.receive(MarkPlayed(mark), 62.05) == [End(reason)]
    assert session.record.ended_s == 62.05
    without_marks, _ = draining(**limits)
    assert until(without_marks, 62.0 + DRAIN_WITHIN_S - 0.001) == []
    assert until(without_marks, 62.0 + DRAIN_WITHIN_S) == [(62.0 + DRAIN_WITHIN_S, End(reason))]


def test_while_a_call_drains_nothing_is_listened_to_or_said() -> None:
    session, _ = draining()
    assert hear(session, packets(0.5), start_s=62.0) == []
    assert session.handle_frame(frame(1, sound(1)), 62.1) == []
    assert session.phase_s(62.1) is None
    assert session.receive(Stopped(), 62.2) == [End(EndReason.TIME_LIMIT)]


@pytest.mark.parametrize("reason", [EndReason.SOCKET_LOST, EndReason.SOCKET_BLOCKED, EndReason.PROTOCOL])
def test_a_line_that_is_lost_while_its_call_drains_changes_nothing_in_the_reason(reason: EndReason) -> None:
    session, _ = draining()
    assert session.end(reason, 62.2, "close code 1006") == [End(EndReason.TIME_LIMIT, "close code 1006")]
    failed, _ = draining()
    assert failed.end(EndReason.INTERNAL, 62.2) == [End(EndReason.INTERNAL)], "an error of ours is told"


def test_what_waits_when_the_time_is_up_is_sent_and_heard() -> None:
    session = connected(4, max_call_s=0.1)
    for seq in (1, 2, 3):
        session.handle_frame(frame(seq, sound(seq)), 1.5)
    sent = [*session.receive(STARTED, 2.0), *commands_of(until(session, 2.1))]
    assert session.state is CallState.DRAINING
    marks = [command.mark for command in sent if isinstance(command, SendAudio)]
    assert len(marks) == 2, "the third waits still"
    assert [session.receive(MarkPlayed(mark), 2.11) for mark in marks] == [[], []]
    sent += commands_of(until(session, 2.3))
    assert payloads(sent) == spoken(1, 2, 3)
    last = [command.mark for command in sent if isinstance(command, SendAudio)][-1]
    assert session.receive(MarkPlayed(last), 2.3) == [End(EndReason.TIME_LIMIT)]


def test_a_caller_who_sends_only_silence_is_hung_up_on_as_well() -> None:
    session = live(idle_s=10.0)
    hear(session, [Media(at_ms, mulaw.silence(160)) for at_ms in range(0, 9_900, 20)])
    assert reasons(commands_of(until(session, 12.0))) == [EndReason.IDLE]


def test_who_says_something_or_presses_a_key_stays_on_the_line() -> None:
    session = live(idle_s=10.0)
    hear(session, packets(5.0))
    assert reasons(commands_of(until(session, 16.9))) == []
    session.receive(DtmfPressed("5"), 16.9)
    assert reasons(commands_of(until(session, 26.89))) == []
    assert reasons(commands_of(until(session, 26.9))) == [EndReason.IDLE]


@pytest.mark.parametrize(("listens", "greeting_frames"), [(False, 25), (True, 25), (False, 0)])
def test_who_is_not_heard_during_a_greeting_is_not_idle_until_its_last_word(
    listens: bool, greeting_frames: int
) -> None:
    """Without frames ahead there is no greeting: the call goes on with one, or is at a Moshi server."""
    conversation = Conversation(ConversationHeader(call=CallPersona("This call is recorded.", listens)))
    limits = CallLimits(greeting_frames, RINGS_S, 99.0, 0.0, idle_s=10.0)
    session = CallSession(ANN, ACCOUNT, limits, 0.0, conversation=conversation)
    session.on_socket_open(1.0)
    session.receive(STARTED, 2.0)
    if listens or not greeting_frames:
        assert reasons(commands_of(until(session, 12.0))) == [EndReason.IDLE]
        return
    assert reasons(commands_of(until(session, 30.0))) == []
    session.handle_said(Said(Slot(0), Epoch(1), GREETING, whole=True), 30.0)
    assert reasons(commands_of(until(session, 39.9))) == []
    assert reasons(commands_of(until(session, 40.0))) == [EndReason.IDLE]


@pytest.mark.parametrize("make", [ringing, connected, live])
def test_a_call_in_which_nothing_has_been_said_ends_at_once_and_the_first_reason_stays(
    make: Callable[[], CallSession],
) -> None:
    session, lost = make(), make()
    assert session.drain(EndReason.SHUTDOWN, 5.0) == [End(EndReason.SHUTDOWN)]
    assert session.drain(EndReason.SHUTDOWN, 6.0) == session.end(EndReason.SOCKET_LOST, 6.0) == []
    assert (session.record.end, session.record.ended_s) == (EndReason.SHUTDOWN, 5.0)
    assert lost.end(EndReason.WORKER_LOST, 5.0, "step-0") == [End(EndReason.WORKER_LOST, "step-0")]
    assert (lost.record.end, lost.record.detail) == (EndReason.WORKER_LOST, "step-0")


def test_a_call_has_one_socket() -> None:
    for session in (connected(), live()):
        with pytest.raises(KeyError):
            session.on_socket_open(3.0)
    ended = ringing()
    ended.end(EndReason.NO_SOCKET, 20.0)
    with pytest.raises(KeyError):
        ended.on_socket_open(21.0)


@pytest.mark.parametrize("digit", ["#", "*", "0", "A"])
def test_the_key_that_ends_the_call_ends_it_with_a_reason_of_its_own_and_the_others_do_not(digit: str) -> None:
    session = live(hangup_digit=digit)
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


def do(session: CallSession, deed: Event | Frame | str, now: float) -> Sequence[Command]:
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
    session, now, commands = ringing(greeting_frames=2), 0.0, list[Command]()
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
