"""Many calls, each of which ends at some stage in some way: at every moment all slots are accounted for.

The manager, the call queue and the call router are the real ones; Twilio, the workers and the clock are fakes.
"""

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.session import CallState
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, Started, Stopped, StreamSid
from tests.app.calls.front import Front, settle
from tests.scale import scaled
from workers.messages import Close, Failed, Frame, Open, Resume, Resumed, Stage

CALLS = scaled(1_000, 300)
SLOTS = 3
RESUME_S = 10.0


class Story:
    """Callers who do anything in any order, and a pipeline that is lost now and then."""

    def __init__(self, mode: str, seed: int, calls: int) -> None:
        self.calls = calls
        self.front = Front(when_busy=mode, max_calls=SLOTS, queue_length=5)
        self.random = random.Random(seed)
        self.ringing: dict[CallSid, twiml.Connect] = {}
        self.waiting: list[CallSid] = []
        self.talking: list[ActiveCall] = []
        self.actions = [self.ring] * 3 + [
            *(self.connect, self.connect, self.begin, self.hang_up, self.give_up_waiting, self.never_connect),
            *(self.fail_handshake, self.lose_socket, self.say_stop, self.claim_to_be_another, self.fail_stage),
            *(self.on_pipeline_lost, self.ask_page, self.follow_redirects, self.repeat_webhook, self.end_by_status),
            *(self.come_back, self.come_back_while_on, self.operator_hangs_up, self.goes_on, self.ask_after_stream),
        ]
        self.ended: dict[tuple[CallSid, float, int], object] = {}
        self.rung = self.put_through_from_queue = 0

    async def run(self) -> None:
        async with self.front.redirecting():
            while self.rung < self.calls:
                self.random.choice(self.actions)()
                if self.rung % 10 == 0:
                    await settle()
                self.check()
            self.everybody_goes()
            self.check()
        manager = self.front.manager
        assert (manager.free_slots, manager.active_calls, manager.no_calls.is_set()) == (SLOTS, 0, True)
        assert len(self.front.call_queue) == 0
        assert self.opened() == self.closed()
        assert EndReason.INTERNAL not in manager.statistics.stream_ends
        self.check_records()
        kept = {record.call_sid: record.streams for record in self.front.kept}
        assert all(kept[record.call_sid] == record.streams for record in manager.records())

    def check(self) -> None:
        """What must hold at every moment."""
        manager = self.front.manager
        assert manager.free_slots + manager.active_calls == SLOTS
        assert manager.no_calls.is_set() == (manager.active_calls == 0)
        assert self.front.redirector.unreserved == [], "somebody is redirected who has no slot"
        assert not (manager.ready and len(self.front.call_queue)), "somebody waits before a free slot"
        slots = [call.reservation.slot for call in manager.calls]
        assert len(set(slots)) == len(slots)
        assert len({call.session.record.call_sid for call in manager.calls}) == manager.active_calls
        assert len(self.opened()) - len(self.closed()) == manager.active_calls
        if self.rung % 50 == 0:
            self.check_records()

    def check_records(self) -> None:
        records = self.front.manager.records()
        assert len({record.call_sid for record in records}) == len(records)
        for record in records:
            on = self.front.manager.call(record.call_sid) is not None
            assert [stream.number for stream in record.streams] == list(range(1, len(record.streams) + 1))
            assert [stream.end is None for stream in record.streams].count(True) == on
            assert on or record.end is not None
            for stream in record.streams:
                if stream.end is not None:
                    told = replace(stream)
                    # a call that comes back after its record was dropped gets a new one
                    before = self.ended.setdefault((record.call_sid, record.reserved_s, stream.number), told)
                    assert before == told, "an end is for good"

    def opened(self) -> list[int]:
        return sorted({message.epoch for message in self.front.sent if isinstance(message, Open | Resume)})

    def closed(self) -> list[int]:
        return sorted(message.epoch for message in self.front.sent if isinstance(message, Close))

    # What callers do.

    def ring(self) -> None:
        self.rung += 1
        self.answered(CallSid(f"CA{self.rung}"))

    def answered(self, call_sid: CallSid) -> None:
        match self.front.ring(call_sid):
            case twiml.Connect() as verb:
                self.ringing[call_sid] = verb
            case twiml.Enqueue():
                self.ringing.pop(call_sid, None)
                self.waiting.append(call_sid)

    def repeat_webhook(self) -> None:
        if self.ringing:
            call_sid = self.random.choice(list(self.ringing))
            if self.front.manager.holds(call_sid):
                before = self.ringing[call_sid]
                again = self.front.ring(call_sid)
                assert isinstance(again, twiml.Connect)
                assert again == replace(before, action=again.action), "but for the count of lost streams"

    def come_back(self) -> None:
        """A call that was served rings again, after keys or a transfer."""
        over = [record for record in self.front.manager.records() if record.end is not None and not record.over]
        if over:
            self.answered(self.random.choice(over).call_sid)

    def ask_after_stream(self) -> None:
        """Twilio asks what to do when a stream is over."""
        over = [record for record in self.front.manager.records() if record.end is not None]
        if over:
            record = self.random.choice(over)
            rings_again = self.front.manager.call(record.call_sid) is not None
            match self.front.after_stream(record.call_sid, again=self.random.randrange(7)):
                case twiml.Connect() as verb:
                    assert record.end is EndReason.SOCKET_LOST or rings_again
                    self.ringing[record.call_sid] = verb
                case twiml.Enqueue():
                    self.waiting.append(record.call_sid)

    def come_back_while_on(self) -> None:
        """Its stream was lost, and we have not noticed; or Twilio repeats the webhook."""
        if call := self.somebody():
            self.answered(call.session.record.call_sid)
            self.talking.append(call)

    def connect(self) -> None:
        if not self.ringing:
            return
        _, verb = self.ringing.popitem()
        call = self.front.manager.claim(verb.url.rpartition("/")[2])
        if call:
            self.talking.append(call)

    def begin(self) -> None:
        for call in self.talking:
            if call.session.state is CallState.CONNECTED:
                call.handle_event(Connected())
                call.handle_event(Started(StreamSid("MZ1"), call.session.record.call_sid, "AC1"))

    def give_up_waiting(self) -> None:
        if self.waiting:
            call_sid = self.waiting.pop(self.random.randrange(len(self.waiting)))
            self.front.left(call_sid, "hangup")

    def hang_up(self) -> None:
        """While it rings: nobody says anything but the status callback."""
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            self.front.post_status(call_sid, CallStatus="completed")

    def never_connect(self) -> None:
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            if call := self.front.manager.call(call_sid):
                call.carry_out(call.session.handle_timer(call.reservation.expires_s), call.clock())

    def fail_handshake(self) -> None:
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            self.front.post_status(call_sid, StreamEvent="stream-error", StreamError="31920")

    def say_stop(self) -> None:
        if call := self.somebody():
            call.handle_event(Stopped())

    def lose_socket(self) -> None:
        if call := self.somebody():
            call.end(EndReason.SOCKET_LOST)
            call.end(EndReason.SOCKET_LOST)

    def claim_to_be_another(self) -> None:
        if call := self.somebody():
            call.handle_event(Started(StreamSid("MZ1"), CallSid("CAanother"), "AC1"))

    def operator_hangs_up(self) -> None:
        if call := self.somebody():
            self.front.manager.hang_up(call.session.record.call_sid)
            self.talking.append(call)

    def end_by_status(self) -> None:
        if call := self.somebody():
            self.front.post_status(call.session.record.call_sid, CallStatus="completed", CallDuration="1")

    def ask_page(self) -> None:
        for call_sid in list(self.waiting):
            match self.front.page(call_sid):
                case twiml.Hangup():
                    self.waiting.remove(call_sid)
                case twiml.Leave():
                    self.waiting.remove(call_sid)
                    verb = self.front.left(call_sid, "leave")
                    assert isinstance(verb, twiml.Connect)
                    self.ringing[call_sid] = verb

    # What the service does.

    def follow_redirects(self) -> None:
        """Some redirects arrive, others fail from now on."""
        redirected = [CallSid(call_sid) for call_sid, _ in self.front.redirector.redirected]
        self.front.redirector.redirected.clear()
        self.front.redirector.fails = set(self.random.sample(self.waiting, len(self.waiting) // 3))
        for call_sid in redirected:
            if call_sid in self.waiting:
                self.waiting.remove(call_sid)
                self.answered(call_sid)
                self.put_through_from_queue += call_sid in self.ringing

    def fail_stage(self) -> None:
        if call := self.somebody():
            reservation = call.reservation
            self.front.manager.handle_message(Frame(reservation.slot, reservation.epoch, 0, None))
            self.front.manager.handle_message(Failed(reservation.slot, reservation.epoch, Stage.STEP, "broken"))

    def on_pipeline_lost(self) -> None:
        self.front.warm = False
        self.front.manager.on_pipeline_lost("encode: killed by SIGKILL")
        self.front.warm = True
        self.front.manager.on_pipeline_ready()
        self.front.call_queue.reserve_next()

    def goes_on(self) -> None:
        """The pipeline goes on with the call that has waited longest, or its time is over."""
        for call in self.front.manager.suspended[:1]:
            held, since_s = call.reservation, call.session.suspended_since_s or 0.0
            if self.random.random() < 0.5:
                self.front.manager.handle_message(Resumed(held.slot, held.epoch, 3, 0))
            else:
                call.carry_out(call.session.handle_timer(since_s + RESUME_S), call.clock())

    def everybody_goes(self) -> None:
        for call_sid in [*self.waiting, *self.ringing]:
            self.front.left(call_sid, "hangup")
        while calls := self.front.manager.calls:  # behind some another stream stands by
            for call in calls:
                call.end(EndReason.CALLER_HUNG_UP)

    def somebody(self) -> ActiveCall | None:
        if not self.talking:
            return None
        return self.talking.pop(self.random.randrange(len(self.talking)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reject", "say", "queue"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(5))
def test_of_a_thousand_calls_that_end_at_every_stage_none_keeps_its_slot(mode: str, seed: int) -> None:
    asyncio.run(Story(mode, seed, CALLS).run())


async def test_calls_end_in_every_way_and_none_keeps_its_slot() -> None:
    story = Story("queue", seed=2, calls=300)
    await story.run()
    ends = {record.end for record in story.front.manager.records()}
    assert ends >= {
        EndReason.CALLER_HUNG_UP,
        EndReason.SOCKET_LOST,
        EndReason.WRONG_CALL,
        EndReason.NO_SOCKET,
        EndReason.WORKER_LOST,
        EndReason.STAGE_FAILED,
    }
    assert story.put_through_from_queue > 10
    assert EndReason.REPLACED in story.front.manager.statistics.stream_ends
    assert any(len(record.streams) > 2 for record in story.front.manager.records())
