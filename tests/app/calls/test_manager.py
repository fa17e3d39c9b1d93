import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from app.audio.jitter_buffer import PATIENCE_S
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls import events
from app.calls.admission import TTL_S, Reservation
from app.calls.manager import NEWS, OUTBOX_MESSAGES, ActiveCall, CallManager, VoiceRequest
from app.calls.record import CallRecord, EndReason, Recording
from app.calls.records import RECORDS_KEPT, RECORDS_WITH_SPANS
from app.calls.session import START_WITHIN_S, SendFrame
from app.config import read_settings
from app.telemetry.recording.recorder import OUR_FAULT, CallRecorder, record_nothing
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from workers.messages import FRAME_S, Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot, Span, Stage

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


class Desk:
    """A manager, and what it has sent round the ring."""

    def __init__(self, max_calls: int = 2, **changes: object) -> None:
        self.sent: list[PipelineMessage] = []
        self.warm = True
        settings = read_settings(engine="loopback", codec="loopback", max_calls=max_calls, **changes)
        self.board = CallManager(settings, self.sent.append, lambda: self.warm)
        self.board.start_accepting(max_calls, processing_s=0.0)

    def reserve(self, call_sid: CallSid) -> Reservation:
        reservation = self.board.reserve(call_sid)
        assert reservation is not None
        return reservation

    def connect(self, call_sid: CallSid) -> ActiveCall:
        call = self.board.claim(self.reserve(call_sid).token)
        assert call is not None
        return call

    def start(self, call_sid: CallSid) -> ActiveCall:
        call = self.connect(call_sid)
        for event in (Connected(), Started(StreamSid("MZ1"), call_sid, "AC1")):
            self.board.do(call, call.session.receive(event, now(), self.board.phase_s))
        return call

    def reasons(self) -> list[EndReason | None]:
        return [record.end for record in self.board.records()]


def now() -> float:
    return time.monotonic()


def frame(call: ActiveCall, seq: int = 0, epoch: int | None = None) -> Frame:
    reservation = call.reservation
    spans = (Span(Stage.ENCODE, 1.0, 1.01), Span(Stage.STEP, 1.01, 1.05), Span(Stage.DECODE, 1.05, 1.08))
    pcm = np.zeros(1_920, np.float32)
    return Frame(reservation.slot, reservation.epoch if epoch is None else Epoch(epoch), seq, pcm, spans=spans)


def waiting(call: ActiveCall) -> list[int | None]:
    """What waits for the socket, as sizes; None is the order to close it."""
    items = [call.outbox.get_nowait() for _ in range(call.outbox.qsize())]
    return [
        len(item.payload) if isinstance(item, SendAudio) else None for item in items if not isinstance(item, SendMark)
    ]


def send_all(desk: Desk, call: ActiveCall) -> None:
    """Let the time come for everything that is held back for the line."""
    while (due_s := call.session._playout.get_timer()) is not None:
        desk.board.do(call, call.session._playout.advance(due_s))  # type: ignore[arg-type]


async def test_a_call_from_the_ring_to_the_end() -> None:
    desk = Desk()
    call = desk.start(ANN)
    slot, epoch = call.reservation.slot, call.reservation.epoch
    desk.board.do(call, call.session.receive(Media(0, bytes(640)), now()))
    desk.board.handle_message(frame(call))
    send_all(desk, call)
    assert waiting(call) == [640]
    desk.board.do(call, call.session.receive(Stopped(), now()))
    assert waiting(call) == [None]
    assert [type(message) for message in desk.sent] == [Open, Frame, Close]
    assert all((message.slot, message.epoch) == (slot, epoch) for message in desk.sent)
    assert (desk.reasons(), desk.board.free_slots) == ([EndReason.CALLER_HUNG_UP], 2)
    assert no_timer(call)


async def test_sound_of_an_earlier_call_reaches_nobody() -> None:
    desk = Desk(max_calls=1)
    ann = desk.start(ANN)
    desk.board.end(ann, EndReason.SOCKET_LOST)
    bob = desk.start(BOB)
    assert bob.reservation.slot == ann.reservation.slot
    desk.board.handle_message(frame(ann))
    desk.board.handle_message(frame(bob, epoch=0))
    send_all(desk, bob)
    assert waiting(bob) == []
    desk.board.handle_message(frame(bob))
    send_all(desk, bob)
    assert waiting(bob) == [640]


async def test_a_message_for_a_slot_that_nobody_holds_is_dropped() -> None:
    desk = Desk()
    desk.board.handle_message(Frame(Slot(1), Epoch(1), 0, None))
    desk.board.handle_message(Failed(Slot(1), Epoch(1), Stage.STEP, "why"))
    desk.board.handle_message(Close(Slot(1), Epoch(1)))
    assert desk.board.records() == []


async def test_a_stage_that_fails_ends_its_call_and_no_other() -> None:
    desk = Desk()
    ann, bob = desk.start(ANN), desk.start(BOB)
    desk.board.handle_message(Failed(ann.reservation.slot, ann.reservation.epoch, Stage.DECODE, "broken"))
    assert waiting(ann) == [None]
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.STAGE_FAILED, "decode: broken")
    assert bob.session.record.end is None


async def test_a_lost_pipeline_ends_all_calls() -> None:
    desk = Desk(max_calls=4)
    calls = [desk.start(CallSid(f"CA{number}")) for number in range(4)]
    desk.board.on_pipeline_lost("step: hangs, no answer for 3 s")
    assert {call.session.record.end for call in calls} == {EndReason.WORKER_LOST}
    assert {call.session.record.detail for call in calls} == {"step: hangs, no answer for 3 s"}
    assert desk.board.free_slots == 4


async def test_what_the_pipeline_does_is_told() -> None:
    desk = Desk()
    assert desk.board.pipeline == "ready"
    desk.warm = False
    assert desk.board.pipeline == "starting"
    desk.board.on_pipeline_lost("step: hangs, no answer for 3 s")
    assert desk.board.pipeline == "step: hangs, no answer for 3 s"
    desk.warm = True
    assert desk.board.pipeline == "ready"


async def test_an_error_of_our_own_in_a_stage_ends_its_call_alone() -> None:
    desk = Desk()
    ann, bob = desk.start(ANN), desk.start(BOB)
    place = ann.reservation
    desk.board.handle_message(Failed(place.slot, place.epoch, Stage.STEP, "KeyError(1)", internal=True))
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.INTERNAL, "step: KeyError(1)")
    assert bob.session.record.end is None


def audio(count: int) -> list[SendAudio]:
    return [SendAudio(bytes(640), f"0:{number}", number) for number in range(count)]


async def test_a_socket_that_takes_nothing_more_is_given_up() -> None:
    desk = Desk()
    call = desk.start(ANN)
    assert call.outbox.get_nowait() == SendMark("0:1")
    desk.board.do(call, [*audio(OUTBOX_MESSAGES)])
    assert call.session.record.end is None
    desk.board.do(call, [ClearAudio()])
    assert call.session.record.end is EndReason.SOCKET_BLOCKED
    assert waiting(call) == [None], "what nobody will hear is not sent"
    assert desk.board.free_slots == 2


async def test_a_socket_that_is_given_up_in_mid_command_is_closed_first_of_all() -> None:
    desk = Desk()
    call = desk.start(ANN)
    desk.board.do(call, [*audio(OUTBOX_MESSAGES + 20), SendFrame(5, np.zeros(1_920, np.float32))])
    assert desk.reasons() == [EndReason.SOCKET_BLOCKED]
    assert waiting(call)[0] is None
    assert no_timer(call)


def no_timer(call: ActiveCall) -> bool:
    return call.timer is None or call.timer.cancelled()


async def test_audio_that_waits_when_the_caller_hangs_up_is_not_sent() -> None:
    desk = Desk()
    call = desk.start(ANN)
    desk.board.do(call, [*audio(5)])
    desk.board.do(call, call.session.receive(Stopped(), now()))
    assert waiting(call) == [None]


async def test_a_repeated_webhook_is_the_same_call_until_its_socket_comes() -> None:
    desk = Desk()
    first = desk.reserve(ANN)
    assert desk.reserve(ANN) == first
    desk.board.claim(first.token)
    assert (desk.board.reserve(ANN), desk.board.free_slots) == (None, 1), "a call never has two slots"


async def test_no_call_is_taken_while_a_worker_is_down_or_all_slots_are_taken_or_the_service_stops() -> None:
    desk = Desk(max_calls=1)
    desk.warm = False
    assert (desk.board.ready, desk.board.reserve(ANN)) == (False, None)
    desk.warm = True
    desk.reserve(ANN)
    assert (desk.board.ready, desk.board.reserve(BOB)) == (False, None)
    desk.board.stop()
    assert desk.board.free_slots == 1
    assert (desk.board.ready, desk.board.reserve(EVE)) == (False, None)


async def test_when_the_service_stops_all_calls_end_and_their_tokens_are_worthless() -> None:
    desk = Desk()
    ann, bob = desk.start(ANN), desk.reserve(BOB)
    desk.board.stop()
    assert desk.reasons() == [EndReason.SHUTDOWN] * 2
    assert waiting(ann) == [None]
    assert desk.board.claim(bob.token) is None


async def test_a_timer_runs_for_every_call_until_it_ends() -> None:
    desk = Desk()
    before = now()
    token = desk.reserve(ANN).token
    (call,) = desk.board._calls.values()
    assert call.timer is not None
    assert call.timer.when() == pytest.approx(before + TTL_S, abs=1)
    desk.board.claim(token)
    assert call.timer.when() == pytest.approx(before + START_WITHIN_S, abs=1)
    for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1")):
        desk.board.do(call, call.session.receive(event, now()))
    assert call.timer.when() == pytest.approx(before + FRAME_S + PATIENCE_S[0], abs=0.5), "the first frame of silence"
    timer = call.timer
    desk.board.end(call, EndReason.SHUTDOWN)
    assert timer.cancelled()


async def test_a_timer_that_rings_early_is_set_again() -> None:
    desk = Desk()
    desk.reserve(ANN)
    (call,) = desk.board._calls.values()
    desk.board._handle_timer(call)
    assert call.session.record.end is None
    assert call.timer is not None
    assert not call.timer.cancelled()


async def test_a_late_event_after_the_end_does_nothing() -> None:
    desk = Desk()
    call = desk.start(ANN)
    desk.board.end(call, EndReason.TIME_LIMIT)
    waiting(call)
    desk.board.do(call, call.session.receive(Media(0, bytes(640)), now()))
    desk.board.end(call, EndReason.SOCKET_LOST)
    assert waiting(call) == []
    assert no_timer(call)
    assert desk.reasons() == [EndReason.TIME_LIMIT]


async def test_a_timer_that_is_early_enough_is_left_alone() -> None:
    desk = Desk()
    call = desk.start(ANN)
    timer = call.timer
    desk.board.do(call, call.session.receive(Media(60, bytes(160)), now()))
    assert call.session.get_timer() > now() + FRAME_S, "the next frame is due later"
    assert call.timer is timer, "setting one for every packet would cost more than looking again"


async def test_the_time_in_the_workers_is_an_average_that_follows_slowly() -> None:
    desk = Desk()
    call = desk.start(ANN)
    desk.board.processing_s = 0.04
    desk.board.handle_message(frame(call))
    assert desk.board.processing_s == pytest.approx(0.04 + NEWS * 0.04)
    for seq in range(200):
        desk.board.handle_message(frame(call, seq))
    assert desk.board.processing_s == pytest.approx(0.08, abs=0.001)
    desk.board.handle_message(replace(frame(call), spans=()))
    assert desk.board.processing_s == pytest.approx(0.08, abs=0.001), "a step of a greeting was not encoded"


async def test_a_second_call_falls_into_step_with_the_first() -> None:
    desk = Desk()
    assert desk.board.phase_s is None
    ann = desk.start(ANN)
    phase_s = desk.board.phase_s
    assert phase_s == ann.session.phase_s(now())
    assert phase_s is not None
    bob = desk.start(BOB)
    desk.board.do(bob, bob.session.receive(Media(0, bytes(160)), now()))
    bobs_s = bob.session.phase_s(now())
    assert bobs_s is not None
    assert in_phase(bobs_s, phase_s)


def in_phase(moment_s: float, phase_s: float) -> bool:
    """Less than a packet before the beat."""
    return (phase_s - moment_s + 2e-5) % FRAME_S < 0.02 + 1e-6


async def test_before_the_lines_are_open_no_call_is_taken() -> None:
    settings = read_settings(engine="loopback", codec="loopback", max_calls=2)
    board = CallManager(settings, lambda _: None, lambda: True)
    assert (board.ready, board.free_slots, board.reserve(ANN)) == (False, 0, None)
    board.start_accepting(2, processing_s=0.03)
    assert (board.ready, board.free_slots, board.processing_s) == (True, 2, 0.03)


async def test_of_many_calls_the_last_are_remembered_and_the_times_of_every_frame_of_the_last_few_only() -> None:
    desk = Desk(max_calls=1)
    for number in range(RECORDS_KEPT + 5):
        call = desk.start(CallSid(f"CA{number}"))
        desk.board.handle_message(frame(call))
        desk.board.end(call, EndReason.CALLER_HUNG_UP)
    records = desk.board.records()
    assert [record.call_sid for record in records] == [f"CA{number}" for number in range(5, RECORDS_KEPT + 5)]
    assert [bool(record.spans) for record in records] == [False] * (RECORDS_KEPT - RECORDS_WITH_SPANS) + [
        True
    ] * RECORDS_WITH_SPANS


@pytest.mark.parametrize(("wanted", "frames"), [(None, 25), (7, 7), (0, 0), (26, 25)])
def test_a_call_may_ask_for_a_shorter_greeting(wanted: int | None, frames: int) -> None:
    sent: list[PipelineMessage] = []

    async def ring() -> None:
        board = CallManager(read_settings(), sent.append, lambda: True)
        board.start_accepting(1, processing_s=0.0)
        assert board.reserve(ANN, VoiceRequest(wanted))
        assert [record.greeting_frames for record in board.records()] == [frames]

    asyncio.run(ring())
    assert [message.greeting_frames for message in sent if isinstance(message, Open)] == [frames]


async def test_who_listens_is_told_what_happens_in_a_call() -> None:
    desk = Desk()
    async with desk.board.events.subscribe(ANN) as news:
        call = desk.connect(ANN)
        for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1"), DtmfPressed("5")):
            desk.board.handle_event(call, event)
        desk.board.handle_message(replace(frame(call), text=" Hello"))
        desk.board.handle_event(call, Stopped())
        told = [event.what async for event in news]
    over = events.Disconnected(EndReason.CALLER_HUNG_UP, "")
    assert told == [events.Connected(), events.Dtmf("5"), events.Text(" Hello"), over]


async def test_audio_is_told_as_it_came_and_as_it_goes_out() -> None:
    desk = Desk()
    call = desk.start(ANN)
    async with desk.board.events.subscribe(ANN, audio=True) as news:
        desk.board.handle_event(call, Media(0, b"\x7f" * 160))
        desk.board.do(call, [*audio(1)])
        desk.board.end(call, EndReason.TIME_LIMIT)
        told = [event.what async for event in news if isinstance(event.what, events.Audio)]
    said, heard = (
        events.Audio(way, sound) for way, sound in zip(events.Direction, (b"\x7f" * 160, bytes(640)), strict=True)
    )
    assert told == [said, heard]


async def test_an_error_is_told_before_the_end_of_the_call() -> None:
    desk = Desk()
    call = desk.start(ANN)
    async with desk.board.events.subscribe(ANN) as news:
        desk.board.on_pipeline_lost("step: exit status 1")
        told = [event.what async for event in news]
    why = (EndReason.WORKER_LOST, "step: exit status 1")
    assert told == [events.Error(*why), events.Disconnected(*why)]
    assert call.session.record.end is EndReason.WORKER_LOST


async def test_who_listens_to_all_comes_to_the_end_when_the_service_stops() -> None:
    desk = Desk()
    desk.start(ANN)
    async with desk.board.events.subscribe() as news:
        desk.board.stop()
        assert [event.what async for event in news] == [events.Disconnected(EndReason.SHUTDOWN, "")]


@pytest.mark.parametrize(("shown", "written"), [(False, "key *"), (True, "key 7")])
async def test_a_key_is_logged_and_hidden_unless_it_may_be_shown(
    caplog: pytest.LogCaptureFixture, shown: bool, written: str
) -> None:
    desk = Desk(log_digits=shown)
    call = desk.start(ANN)
    with caplog.at_level("DEBUG"):
        desk.board.handle_event(call, DtmfPressed("7"))
    assert [record.getMessage() for record in caplog.records] == [written]


async def test_the_key_that_ends_the_call_is_the_one_that_is_set() -> None:
    desk = Desk(hangup_digit="#")
    call = desk.start(ANN)
    desk.board.handle_event(call, DtmfPressed("*"))
    assert desk.reasons() == [None]
    desk.board.handle_event(call, DtmfPressed("#"))
    assert desk.reasons() == [EndReason.HANGUP_KEY]


async def test_a_call_is_handed_to_the_call_log_when_it_begins_and_when_it_has_ended() -> None:
    kept: list[tuple[str, str, str, Slot, EndReason | None]] = []

    def keep(record: CallRecord, slot: Slot) -> None:
        kept.append((record.caller, record.called, record.direction, slot, record.end))

    settings = read_settings(engine="loopback", codec="loopback")
    board = CallManager(settings, lambda message: None, lambda: True, keep)
    board.start_accepting(1, processing_s=0.0)
    request = VoiceRequest(None, "+15550100001", "+15550100000", "inbound")
    assert board.reserve(ANN, request)
    assert board.reserve(ANN, request), "the webhook came again"
    board.stop()
    known = ("+15550100001", "+15550100000", "inbound", Slot(0))
    assert kept == [(*known, None), (*known, EndReason.SHUTDOWN)]


# Errors of our own.


def broken(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["receive", "handle_frame", "handle_timer", "get_timer", "drain", "end"])
async def test_an_error_of_ours_ends_its_call_alone_and_loses_no_other_s_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    desk = Desk()
    ann, bob = desk.start(ANN), desk.start(BOB)
    monkeypatch.setattr(ann.session, where, broken)
    desk.board.handle_event(ann, Media(0, bytes(160)))
    desk.board.handle_message(frame(ann))
    desk.board._handle_timer(ann)
    desk.board.hang_up(ANN)
    desk.board.end(ann, EndReason.WORKER_LOST)
    desk.board.handle_event(bob, Media(0, bytes(160)))
    desk.board.handle_message(frame(bob))
    assert (desk.board.free_slots, desk.board.stream_ends[EndReason.INTERNAL]) == (1, 1)
    assert waiting(ann)[-1] is None
    assert no_timer(ann)
    assert bob.session.record.end is None
    assert bob.session.record.counts["frames_out"] == 1
    assert bob.timer is not None
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.INTERNAL, "ZeroDivisionError")


async def test_an_error_of_ours_in_one_call_does_not_keep_the_others_from_ending() -> None:
    desk = Desk(max_calls=3)
    ann, bob, eve = (desk.start(call_sid) for call_sid in (ANN, BOB, EVE))
    for call in (ann, bob):
        call.session.end = broken  # type: ignore[assignment, method-assign]
    desk.board.stop()
    assert (desk.board.active_calls, eve.session.record.end) == (0, EndReason.SHUTDOWN)


class BrokenRecorder(CallRecorder):
    """Fails at whatever it is shown."""

    on_event = on_sent = on_frame = on_end = broken  # type: ignore[assignment]


async def test_an_error_in_the_recorder_breaks_off_the_recording_and_not_the_call() -> None:
    def record(record: CallRecord, asked: bool) -> CallRecorder:
        record.streams[-1].recording = Recording("name")
        return BrokenRecorder(record.streams[-1].recording)

    settings = read_settings(engine="loopback", codec="loopback")
    board = CallManager(settings, lambda message: None, lambda: True, record=record)
    board.start_accepting(1, processing_s=0.0)
    reservation = board.reserve(ANN)
    assert reservation
    call = board.claim(reservation.token)
    assert call
    for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1"), Media(0, bytes(160))):
        board.handle_event(call, event)
    assert (call.session.record.end, call.session.record.recording.fault) == (None, OUR_FAULT)
    board.handle_event(call, Stopped())
    assert (call.session.record.end, board.free_slots) == (EndReason.CALLER_HUNG_UP, 1)


@pytest.mark.parametrize("what", ["keep", "record", "send"])
async def test_what_cannot_be_kept_recorded_or_sent_costs_no_slot(what: str) -> None:
    settings = read_settings(engine="loopback", codec="loopback")
    board = CallManager(
        settings,
        broken if what == "send" else lambda message: None,
        lambda: True,
        broken if what == "keep" else lambda record, slot: None,
        record=broken if what == "record" else record_nothing,
    )
    board.start_accepting(1, processing_s=0.0)
    reservation = board.reserve(ANN)
    assert (reservation is None) == (what == "send")
    board.stop()
    assert board.free_slots == 1
    assert [record.end for record in board.records()] == [EndReason.INTERNAL if what == "send" else EndReason.SHUTDOWN]


async def test_an_error_in_what_looks_on_costs_nobody_the_call_nor_the_end_of_its_events() -> None:
    desk = Desk()
    call = desk.start(ANN)
    call.observer.on_event = call.observer.on_sent = call.observer.on_frame = broken  # type: ignore[method-assign, assignment]
    async with desk.board.events.subscribe(ANN) as news:
        desk.board.handle_event(call, DtmfPressed("5"))
        desk.board.handle_message(frame(call))
        assert call.session.record.end is None
        desk.board.handle_event(call, Stopped())
        assert [event.what async for event in news] == [events.Disconnected(EndReason.CALLER_HUNG_UP, "")]


async def test_a_packet_looks_at_no_call_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(max_calls=3)
    call, *others = [desk.start(call_sid) for call_sid in (ANN, BOB, EVE)]
    for other in others:
        for name in ("phase_s", "get_timer", "buffered_s", "receive", "handle_frame"):
            monkeypatch.setattr(other.session, name, broken)
    desk.board.handle_event(call, Media(0, bytes(160)))
    desk.board.handle_message(frame(call))
    assert desk.reasons() == [None] * 3
    monkeypatch.setattr(call.session, "phase_s", broken)
    desk.board.handle_event(call, Media(20, bytes(160)))
    assert desk.reasons() == [None] * 3, "the phase is for a stream that starts"
