"""A pipeline is lost under calls, or a stream is: they go on with what Moshi knew. The engine is played by the tests.

What a `Resume` must hold is worked out from what the tests have said and answered, not from what the calls keep.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from app.audio.playout import SendAudio
from app.calls.active_call import ActiveCall
from app.calls.admission import VoiceRequest
from app.calls.conversation_store import KEPT, KEPT_S
from app.calls.end_reason import EndReason
from app.calls.personas import Chosen
from app.calls.record_json import as_json
from app.calls.router import MOST_AGAIN
from app.calls.sentences import SayRefusal, SayRefused
from app.calls.session import CallState
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from app.twilio.twiml import Connect, Enqueue, Hangup
from tests.app.calls.front import ANN, BOB, EVE, form
from tests.stories.test_a_call_comes_back import SLOTS, Line
from workers.messages import (
    GAP_FRAMES,
    CallPersona,
    Close,
    DropPrompt,
    Failed,
    Frame,
    Message,
    Open,
    PreparePrompt,
    Resume,
    Said,
    Stage,
)

MOSHI = {"engine": "mlx", "codec": "numpy"}
LOSS = "step: killed by SIGKILL"
RESUME_S = 10
PCM = np.full(1_920, 0.25, np.float32)


class Phone(Line):
    """Callers whose sound comes packet by packet, and an engine that answers each frame with one and its tokens."""

    def __init__(self, persona: Chosen | None = None, former: PreparePrompt | None = None, **settings: object) -> None:
        self.persona = persona or Chosen("ada", CallPersona())
        prompts = {former.key: former} if former else {}
        chosen: dict[str, object] = {**MOSHI, "resume_seconds": RESUME_S, "greeting_frames": 0, **settings}
        super().__init__(lambda *_: self.persona, prompts.get, **chosen)
        self.at_ms: dict[ActiveCall, int] = {}

    def speak(self, call: ActiveCall, frames: int) -> list[Frame]:
        """Say that many frames in real time; return what of them went to the workers."""
        before = len(self.sent)
        for _ in range(frames * 4):
            at_ms = self.at_ms.get(call, 0)
            self.pass_time(0.02)
            call.handle_event(Media(at_ms, bytes([at_ms // 80 % 128]) * 160))
            self.at_ms[call] = at_ms + 20
        return [message for message in self.sent[before:] if isinstance(message, Frame)]

    def answer(self, call: ActiveCall, frames: Sequence[Frame], text: str = "") -> None:
        for frame in frames:
            tokens = step(frame.seq)
            held = call.reservation
            self.manager.handle_message(Frame(held.slot, held.epoch, frame.seq, PCM, text, tokens=tokens))

    def talked(self, call_sid: CallSid, frames: int) -> ActiveCall:
        """Return a call in which so many frames have been said and answered."""
        call = self.talk(call_sid)
        self.answer(call, self.speak(call, frames))
        return call

    def lose(self) -> None:
        self.warm = False
        self.manager.on_pipeline_lost(LOSS)

    def be_ready(self) -> list[Message]:
        """Start the next pipeline; return what it is sent."""
        self.warm, before = True, len(self.sent)
        self.manager.on_pipeline_ready()
        return self.sent[before:]

    def heard(self, call: ActiveCall) -> list[int]:
        """Return which frames' sound went to the caller since the last look."""
        self.pass_time(0.1)
        items = [call.outbox.get_nowait() for _ in range(call.outbox.qsize())]
        return [item.seq for item in items if isinstance(item, SendAudio)]


def step(seq: int) -> bytes:
    return np.full(17, seq, "<i2").tobytes()


def resumes(messages: Sequence[Message]) -> list[Resume]:
    return [message for message in messages if isinstance(message, Resume)]


def levels(frames: NDArray[np.int16] | None) -> list[int]:
    return [] if frames is None else [int(frame[960]) for frame in frames]


# The pipeline is lost.


async def test_a_call_goes_on_from_its_log_with_the_tail_of_what_was_said_meanwhile() -> None:
    phone = Phone()
    call = phone.talk(ANN)
    sent = phone.speak(call, 20)
    phone.answer(call, sent[:17], "x")
    assert phone.heard(call) != []
    phone.lose()
    assert (call.session.state, call.session.record.end) == (CallState.LIVE, None)
    assert phone.speak(call, 50) == [], "nobody is there to hear it"
    phone.pass_time(1.0)
    (resume,) = resumes(phone.be_ready())
    assert resume.log == b"".join(map(step, range(17)))
    assert resume.heard is not None
    assert resume.gap is not None
    assert resume.heard.dtype == resume.gap.dtype == np.int16
    assert levels(resume.heard) == [round(float(one.pcm[960]) * 32_767) for one in sent[:17] if one.pcm is not None]
    assert len(resume.gap) == GAP_FRAMES
    last = resume.seq + GAP_FRAMES
    assert (resume.slot, resume.epoch, resume.skipped) == (call.reservation.slot, call.reservation.epoch, 0)
    assert 0 < resume.budget_s < RESUME_S - 4 - 1
    late = phone.speak(call, 3)
    assert [frame.seq for frame in late] == [last, last + 1, last + 2]
    phone.go_on(call, 17, 2)
    live = phone.speak(call, 2)
    assert [frame.seq for frame in live] == [last + 3, last + 4]
    gap_frames = [Frame(resume.slot, resume.epoch, seq, None) for seq in range(resume.seq, last)]
    phone.answer(call, [*gap_frames, *late, *live])
    assert {seq for seq in phone.heard(call) if seq > 16} == {last + 3, last + 4}, "answers to the gap come too late"
    (gap,) = call.session.record.gaps
    assert (gap.reason, gap.steps, gap.left_out) == (LOSS, 17, 2)
    assert gap.seconds == pytest.approx(50 * 0.08 + 1.0 + 3 * 0.08, abs=0.01)
    phone.lose()
    (again,) = resumes(phone.be_ready())
    assert again.log == resume.log + b"".join(map(step, range(resume.seq, last + 5)))


async def test_the_gap_is_in_the_record_its_json_and_the_metrics_of_all_calls() -> None:
    phone = Phone()
    call = phone.talked(ANN, 5)
    phone.lose()
    phone.pass_time(2.5)
    assert phone.manager.pipeline == f"{LOSS}; 1 call to resume"
    phone.be_ready()
    phone.go_on(call, 5)
    assert phone.manager.pipeline == "ready"
    told = as_json(call.session.record)["gaps"]
    assert told == [{"began_s": 0.4, "reason": LOSS, "seconds": 2.5, "steps": 5, "left_out": 0}]
    histogram = phone.manager.statistics.histograms.gap
    assert histogram.count == 1
    assert histogram.total == pytest.approx(2.5)
    assert call.session.record.counts["resumed"] == 1


async def test_what_does_not_go_on_in_time_ends() -> None:
    phone = Phone()
    ann, bob = phone.talk(ANN), phone.talk(BOB)
    phone.lose()
    phone.pass_time(RESUME_S - 1)
    phone.be_ready()
    phone.go_on(ann)
    phone.pass_time(1.0)
    assert (ann.session.record.end, bob.session.record.end) == (None, EndReason.WORKER_LOST)
    assert bob.session.record.detail == f"{LOSS}; not resumed in time"
    assert phone.manager.free_slots == SLOTS - 1
    assert [type(message) for message in phone.sent[-1:]] == [Close]


async def test_a_call_that_the_pipeline_refuses_ends_alone() -> None:
    phone = Phone()
    ann, bob = phone.talk(ANN), phone.talk(BOB)
    phone.lose()
    phone.be_ready()
    held = ann.reservation
    phone.manager.handle_message(Failed(held.slot, held.epoch, Stage.STEP, "the call began on another checkpoint"))
    assert (ann.session.record.end, bob.session.record.end) == (EndReason.STAGE_FAILED, None)


async def test_a_second_loss_while_calls_wait_takes_nothing_but_time() -> None:
    phone = Phone()
    call = phone.talked(ANN, 4)
    phone.lose()
    phone.speak(call, 6)
    (first,) = resumes(phone.be_ready())
    phone.speak(call, 3)
    phone.lose()
    phone.speak(call, 1)
    (second,) = resumes(phone.be_ready())
    assert (second.log, second.seq) == (first.log, first.seq)
    assert (len(levels(first.gap)), len(levels(second.gap))) == (6, 10)
    phone.pass_time(RESUME_S)
    assert call.session.record.end is EndReason.WORKER_LOST, "its time began with the first loss"


async def test_the_call_that_waits_longest_goes_on_first() -> None:
    phone = Phone()
    ann, bob = phone.talk(ANN), phone.talk(BOB)
    phone.lose()
    phone.pass_time(1.0)
    phone.be_ready()
    phone.go_on(ann)
    phone.lose()
    assert [one.slot for one in resumes(phone.be_ready())] == [bob.reservation.slot, ann.reservation.slot]


async def test_a_call_that_rings_is_opened_again_with_its_greeting() -> None:
    phone = Phone(greeting_frames=3)
    verb = phone.ring(ANN)
    ann = phone.manager.call(ANN)
    assert ann
    held = ann.reservation
    greeting = [Frame(held.slot, held.epoch, seq, None) for seq in range(2)]
    phone.answer(ann, greeting, " Hi")
    phone.lose()
    (opening,) = phone.be_ready()
    assert isinstance(opening, Open)
    assert (opening.slot, opening.epoch, opening.greeting_frames) == (held.slot, held.epoch, 3)
    phone.answer(ann, [*greeting, Frame(held.slot, held.epoch, 2, None)], " Hello")
    call = phone.start(phone.open_socket(verb))
    phone.pass_time(0.3)
    assert phone.heard(call) == [0, 1, 2], "the new greeting, and once"
    call.end(EndReason.OPERATOR)
    assert (call.session.record.transcript, call.session.record.gaps) == ("Hello Hello Hello", [])


async def test_a_stream_that_starts_while_no_pipeline_is_there_is_opened_without_what_was_said_before() -> None:
    phone = Phone(greeting_frames=3)
    verb = phone.ring(ANN)
    phone.lose()
    call = phone.start(phone.open_socket(verb))
    assert phone.speak(call, 10) == []
    phone.manager.on_pipeline_lost("step: fails at its start as well")
    (opening,) = phone.be_ready()
    assert isinstance(opening, Open)
    assert opening.greeting_frames == 0
    live = phone.speak(call, 2)
    phone.answer(call, live, " Yes")
    assert len(live) == 2
    assert call.session.record.transcript == "Yes", "words are given out, though the start failed twice"
    assert phone.heard(call) == [frame.seq for frame in live]


@pytest.mark.parametrize("how", ["stop", "key", "status", "operator", "socket", "service"])
async def test_a_call_that_waits_ends_as_any_other(how: str) -> None:
    phone = Phone(hangup_digit="#")
    call = phone.talked(ANN, 3)
    phone.heard(call)
    phone.lose()
    ends: dict[str, tuple[Callable[[], object], EndReason]] = {
        "stop": (lambda: call.handle_event(Stopped()), EndReason.CALLER_HUNG_UP),
        "key": (lambda: call.handle_event(DtmfPressed("#")), EndReason.HANGUP_KEY),
        "status": (lambda: phone.post_status(ANN, CallStatus="completed"), EndReason.CALLER_HUNG_UP),
        "operator": (lambda: phone.manager.hang_up(ANN), EndReason.OPERATOR),
        "socket": (lambda: call.end(EndReason.SOCKET_LOST), EndReason.SOCKET_LOST),
        "service": (phone.manager.stop, EndReason.SHUTDOWN),
    }
    act, reason = ends[how]
    act()
    phone.pass_time(3.5)  # what was said is played to its end
    assert (call.session.record.end, phone.manager.free_slots) == (reason, SLOTS)
    assert phone.be_ready() == []


async def test_a_call_that_drains_needs_no_pipeline() -> None:
    phone = Phone()
    call = phone.talked(ANN, 3)
    phone.heard(call)
    phone.manager.drain_calls()
    phone.lose()
    assert (call.session.state, phone.be_ready()) == (CallState.DRAINING, [])


async def test_what_moshi_was_to_say_is_cut_and_nothing_more_is_taken_until_the_call_goes_on() -> None:
    phone = Phone(Chosen("ada", CallPersona("Hello, I am Ada.")))
    call = phone.talk(ANN)
    queued = call.say("One moment.")
    phone.lose()
    assert queued.said.result() is False
    assert (call.session.record.counts["sentences_cut"], call.session.record.greeting_said_s) == (1, phone.now_s)
    with pytest.raises(SayRefused) as refused:
        call.say("No.")
    assert refused.value.reason is SayRefusal.IN_GAP
    phone.be_ready()
    phone.go_on(call)
    assert call.say("Yes.").number == 2
    phone.manager.handle_message(Said(call.reservation.slot, call.reservation.epoch, 1, whole=True))
    assert call.session.record.counts["sentences_said"] == 0, "an answer to what was cut"


async def test_nobody_new_gets_the_slot_of_a_call_that_waits() -> None:
    phone = Phone(max_calls=1, when_busy="queue")
    phone.talk(ANN)
    phone.lose()
    assert isinstance(phone.ring(BOB), Enqueue)
    phone.be_ready()
    phone.call_queue.reserve_next()
    assert phone.manager.call(BOB) is None


async def test_a_one_time_prompt_is_sent_again_and_dropped_once_the_call_is_back() -> None:
    prompt = PreparePrompt("once", "You are Eve.")
    phone = Phone(Chosen("ada", CallPersona(prompt="once"), prompt))
    ann, bob = phone.talk(ANN), phone.talk(BOB)
    phone.lose()
    sent = phone.be_ready()
    assert [one if isinstance(one, PreparePrompt) else type(one) for one in sent] == [prompt, Resume] * 2
    assert [one.persona.prompt for one in resumes(sent)] == ["once"] * 2
    phone.go_on(ann)
    assert DropPrompt("once") not in phone.sent, "the other call needs it"
    bob.end(EndReason.CALLER_HUNG_UP)
    assert phone.sent.count(DropPrompt("once")) == 1


async def test_with_resume_off_calls_end_as_before_and_nothing_is_kept() -> None:
    phone = Phone(resume_seconds=0)
    call = phone.talked(ANN, 3)
    call.end(EndReason.SOCKET_LOST)
    assert phone.after_stream(ANN) == Hangup()
    again = phone.talk(ANN)
    assert isinstance(phone.sent[-1], Open)
    phone.lose()
    assert again.session.record.end is EndReason.WORKER_LOST


# The stream is lost.


async def test_a_lost_stream_is_brought_back_with_its_memory_and_without_a_greeting() -> None:
    phone = Phone(greeting_frames=2)
    verb = phone.ring(ANN, query="record=true")
    held = phone.manager.calls[0].reservation
    first = phone.open_socket(verb)
    phone.answer(first, [Frame(held.slot, held.epoch, seq, None) for seq in range(2)])
    phone.start(first)
    phone.answer(first, phone.speak(first, 5), " yes")
    first.end(EndReason.SOCKET_LOST, "close code 1006")
    assert isinstance(verb, Connect)
    assert verb.action == "http://127.0.0.1:5001/twilio/after-stream"
    phone.pass_time(0.3)
    answer = phone.after_stream(ANN)
    assert isinstance(answer, Connect)
    assert answer.action == "http://127.0.0.1:5001/twilio/after-stream?again=1"
    assert phone.after_stream(ANN) == answer, "Twilio repeats webhooks"
    (resume,) = resumes(phone.sent)
    assert resume.log == b"".join(map(step, range(7)))
    assert (resume.seq, resume.gap, len(levels(resume.heard))) == (0, None, 5)
    second = phone.open_socket(answer)
    phone.go_on(second, 7)
    phone.pass_time(0.2)
    phone.start(second)
    live = phone.speak(second, 2)
    assert [frame.seq for frame in live] == [0, 1]
    phone.answer(second, live, " no")
    assert phone.heard(second) == [0, 1]
    record = second.session.record
    assert second.request.record
    (gap,) = record.gaps
    assert (gap.reason, gap.seconds, gap.steps) == ("the socket was lost", 0.5, 7)
    second.end(EndReason.SOCKET_LOST)
    assert record.transcript == "yes yes yes yes yes no no"
    phone.after_stream(ANN, again=1)
    assert resumes(phone.sent)[-1].log == resume.log + step(0) + step(1)


AGAIN = (EndReason.SOCKET_LOST, EndReason.SOCKET_BLOCKED, EndReason.PROTOCOL)


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason not in AGAIN])
async def test_a_stream_that_was_not_lost_is_the_end_of_the_call(reason: EndReason) -> None:
    phone = Phone()
    phone.talk(ANN).end(reason)
    assert (phone.after_stream(ANN), phone.manager.free_slots) == (Hangup(), SLOTS)


@pytest.mark.parametrize("again", [MOST_AGAIN, 10**5, 10**9])
async def test_a_call_is_brought_back_so_often_and_no_oftener(again: int) -> None:
    phone = Phone()
    call = phone.talk(ANN)
    for number in range(MOST_AGAIN):
        call.end(EndReason.SOCKET_LOST)
        call = phone.start(phone.open_socket(phone.after_stream(ANN, again=number)))
    call.end(EndReason.SOCKET_LOST)
    assert phone.after_stream(ANN, again=again) == Hangup()


async def test_a_call_that_is_over_or_unknown_is_not_brought_back() -> None:
    phone = Phone()
    phone.talk(ANN).end(EndReason.SOCKET_LOST)
    assert phone.after_stream(ANN, CallStatus="completed") == Hangup()
    phone.post_status(ANN, CallStatus="completed")
    assert (phone.after_stream(ANN), phone.after_stream(BOB)) == (Hangup(), Hangup())
    assert phone.manager.lost(ANN) is None


async def test_a_call_whose_first_stream_was_silent_is_not_cut_off_in_mid_sentence_later() -> None:
    phone = Phone()
    phone.talk(ANN).end(EndReason.SOCKET_LOST)
    phone.pass_time(1.0)
    call = phone.start(phone.open_socket(phone.after_stream(ANN)))
    phone.go_on(call)
    phone.answer(call, phone.speak(call, 3))
    assert phone.heard(call) != []
    phone.manager.hang_up(ANN)
    assert call.session.state is CallState.DRAINING


async def test_a_stream_whose_loss_twilio_notices_first_goes_over_to_the_next_one() -> None:
    phone = Phone(max_calls=1)
    old = phone.talked(ANN, 3)
    answer = phone.after_stream(ANN)
    assert old.session.record.end is None
    new = phone.open_socket(answer)
    assert phone.ends() == [EndReason.REPLACED, None]
    assert resumes(phone.sent)[-1].log == b"".join(map(step, range(3)))
    assert phone.manager.call(ANN) is new


async def test_a_socket_lost_while_the_pipeline_is_too_comes_back_and_waits() -> None:
    phone = Phone()
    old = phone.talked(ANN, 3)
    phone.lose()
    phone.pass_time(1.0)
    old.end(EndReason.SOCKET_LOST)
    new = phone.start(phone.open_socket(phone.after_stream(ANN)))
    assert phone.speak(new, 4) == []
    (resume,) = resumes(phone.be_ready())
    assert (resume.log, resume.seq, len(levels(resume.gap))) == (b"".join(map(step, range(3))), 0, 4)
    phone.go_on(new, 3)
    (gap,) = new.session.record.gaps
    assert gap.reason == LOSS
    assert gap.seconds == pytest.approx(1.32)
    assert isinstance(phone.ring(BOB), Connect)


async def test_without_a_slot_a_lost_call_waits_in_the_queue_and_then_goes_on() -> None:
    phone = Phone(max_calls=1, when_busy="queue")
    ann = phone.talked(ANN, 3)
    phone.ring(BOB)
    ann.end(EndReason.SOCKET_LOST)
    assert isinstance(phone.after_stream(ANN), Enqueue)
    bob = phone.open_socket(phone.ring(BOB))
    bob.end(EndReason.CALLER_HUNG_UP)
    phone.open_socket(phone.ring(ANN, CallStatus="in-progress"))
    assert resumes(phone.sent)[-1].log == b"".join(map(step, range(3)))


async def test_a_call_that_comes_back_after_keys_knows_what_was_said_and_its_one_time_prompt() -> None:
    prompt = PreparePrompt("once", "You are Eve.")
    phone = Phone(Chosen("ada", CallPersona("Hello!", prompt="once"), prompt))
    first = phone.talked(ANN, 3)
    first.handle_event(Stopped())
    phone.pass_time(60.0)
    before = len(phone.sent)
    phone.persona = Chosen("ada", CallPersona("Hello!"))
    second = phone.talk(ANN, CallStatus="in-progress")
    sent, resume = phone.sent[before:][:2]
    assert (sent, isinstance(resume, Resume)) == (prompt, True)
    assert (second.session.record.persona, resumes(phone.sent)[-1].persona.prompt) == ("ada", "once")
    phone.go_on(second)
    assert phone.sent[-1] == DropPrompt("once")


async def test_a_stream_that_has_nothing_behind_it_begins_with_the_greeting() -> None:
    phone = Phone(greeting_frames=3)
    call = phone.open_socket(phone.ring(ANN))
    call.handle_event(Stopped())
    phone.ring(ANN, CallStatus="in-progress")
    opening = phone.sent[-1]
    assert isinstance(opening, Open)
    assert opening.greeting_frames == 3


async def test_what_was_said_is_forgotten_after_a_while_and_of_many_calls_the_oldest() -> None:
    phone = Phone()
    for number in range(KEPT + 1):
        phone.talk(CallSid(f"CA{number}")).handle_event(Stopped())
    begun = []
    for number in (0, 1):
        phone.ring(CallSid(f"CA{number}"))
        begun.append(type(phone.sent[-1]))
    phone.pass_time(KEPT_S)
    phone.ring(CallSid("CA2"))
    assert [*begun, type(phone.sent[-1])] == [Open, Resume, Open]


@pytest.mark.parametrize("told", ["after the stream", "after a transfer", "not"])
async def test_what_was_said_is_forgotten_when_a_webhook_says_that_the_call_is_over(told: str) -> None:
    phone = Phone()
    phone.talk(ANN).handle_event(Stopped())
    if told == "after the stream":
        assert phone.after_stream(ANN, CallStatus="completed") == Hangup()
    elif told == "after a transfer":
        phone.call_router.after_dial(form(ANN, DialCallStatus="completed", CallStatus="in-progress"))
    phone.ring(ANN, CallStatus="in-progress")
    assert isinstance(phone.sent[-1], Resume if told == "not" else Open)


async def test_when_the_streams_of_all_calls_are_lost_at_once_all_come_back() -> None:
    phone = Phone(max_calls=KEPT + 4)
    calls = [phone.talk(CallSid(f"CA{number}")) for number in range(KEPT + 4)]
    for call in calls:
        call.end(EndReason.SOCKET_LOST)
    answers = [phone.after_stream(call.session.record.call_sid) for call in calls]
    assert [type(answer) for answer in answers] == [Connect] * len(calls)
    assert len(resumes(phone.sent)) == len(calls)


async def test_a_chat_goes_on_too() -> None:
    phone = Phone()
    reservation = phone.manager.reserve(EVE, VoiceRequest(chat=True))
    assert reservation
    call = phone.manager.claim(reservation.token)
    assert call
    for event in (Connected(), Started(StreamSid("chat"), EVE, "")):
        call.handle_event(event)
    phone.pass_time(0.5)
    asked = [message for message in phone.sent if isinstance(message, Frame)]
    phone.answer(call, asked)
    phone.heard(call)
    phone.lose()
    phone.pass_time(2.0)
    (resume,) = resumes(phone.be_ready())
    assert resume.log == b"".join(step(frame.seq) for frame in asked)
    before = len(phone.sent)
    phone.go_on(call)
    phone.pass_time(0.3)
    live = [message for message in phone.sent[before:] if isinstance(message, Frame)]
    phone.answer(call, live)
    first_s = phone.now_s
    phone.pass_time(0.5)
    assert call.session.leg.buffered_s(first_s + 0.5) <= 0.5
    call.end(EndReason.CALLER_HUNG_UP)
    assert phone.manager.lost(EVE) is None


async def test_a_prompt_that_its_persona_has_no_more_is_sent_again_for_a_call_that_began_with_it() -> None:
    former = PreparePrompt("before", "You are Ada.")
    phone = Phone(Chosen("ada", CallPersona(prompt="before")), former)
    call = phone.talk(ANN)
    phone.lose()
    sent, _ = phone.be_ready()
    assert sent == former
    phone.go_on(call)
    assert phone.sent[-1] == DropPrompt("before")
