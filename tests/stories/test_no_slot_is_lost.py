"""A thousand calls, each of which dies at some stage in some way: in the end, and at every moment, all slots are known.

The manager, the line and the call_router are the real ones; Twilio, the workers and the clock are this story.
"""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.calls.manager import ActiveCall
from app.calls.record import EndReason
from app.calls.session import CallState
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, Started, Stopped, StreamSid
from tests.app.calls.front import Front, settle
from workers.messages import Close, Failed, Frame, Open, Stage

CALLS = 1_000
SLOTS = 3


class Story:
    """Callers who do whatever comes to their minds, and a service that dies now and then."""

    def __init__(self, mode: str, seed: int) -> None:
        self.front = Front(when_busy=mode, max_calls=SLOTS, queue_length=5)
        self.random = random.Random(seed)
        self.ringing: dict[CallSid, twiml.Connect] = {}
        self.waiting: list[CallSid] = []
        self.talking: list[ActiveCall] = []
        self.deeds = [self.ring] * 3 + [
            *(self.connect, self.connect, self.begin, self.hang_up, self.give_up_waiting, self.never_connect),
            *(self.fail_handshake, self.lose_socket, self.say_stop, self.claim_to_be_another, self.fail_stage),
            *(self.on_pipeline_lost, self.ask_page, self.follow_redirects, self.repeat_webhook, self.end_by_status),
            *(self.come_back, self.come_back_while_on),
        ]
        self.rung = self.put_through_from_line = 0

    async def run(self) -> None:
        async with self.front.redirecting():
            while self.rung < CALLS:
                self.random.choice(self.deeds)()
                if self.rung % 10 == 0:
                    await settle()
                self.look()
            self.everybody_goes()
            self.look()
        board = self.front.board
        assert (board.free_slots, board.active_calls, board.no_calls.is_set()) == (SLOTS, 0, True)
        assert len(self.front.call_queue) == 0
        assert self.opened() == self.closed()
        self.look_at_records()

    def look(self) -> None:
        """What must hold at every moment."""
        board = self.front.board
        assert board.free_slots + board.active_calls == SLOTS
        assert board.no_calls.is_set() == (board.active_calls == 0)
        assert self.front.redirector.unreserved == [], "somebody is redirected who has no slot"
        assert not (board.ready and len(self.front.call_queue)), "somebody waits before a free slot"
        slots = [call.reservation.slot for call in board._calls.values()]
        assert len(set(slots)) == len(slots)
        assert len({call.session.record.call_sid for call in board.calls}) == board.active_calls
        assert len(self.opened()) - len(self.closed()) == board.active_calls
        if self.rung % 50 == 0:
            self.look_at_records()

    def look_at_records(self) -> None:
        records = self.front.board.records()
        assert len({record.call_sid for record in records}) == len(records)
        for record in records:
            on = self.front.board.call(record.call_sid) is not None
            assert [stream.end is None for stream in record.streams].count(True) == on
            assert on or record.end is not None

    def opened(self) -> list[int]:
        return [message.epoch for message in self.front.sent if isinstance(message, Open)]

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
            if self.front.board.holds(call_sid):
                assert self.front.ring(call_sid) == self.ringing[call_sid]

    def come_back(self) -> None:
        """A call that was served rings again, after keys or a transfer."""
        over = [record for record in self.front.board.records() if record.end is not None and not record.over]
        if over:
            self.answered(self.random.choice(over).call_sid)

    def come_back_while_on(self) -> None:
        """Its stream was lost, and we have not noticed; or Twilio repeats the webhook."""
        if call := self.somebody():
            self.answered(call.session.record.call_sid)
            self.talking.append(call)

    def connect(self) -> None:
        if not self.ringing:
            return
        _, verb = self.ringing.popitem()
        call = self.front.board.claim(verb.url.rpartition("/")[2])
        if call:
            self.talking.append(call)

    def begin(self) -> None:
        for call in self.talking:
            if call.session.state is CallState.CONNECTED:
                self.receive(call, Connected())
                self.receive(call, Started(StreamSid("MZ1"), call.session.record.call_sid, "AC1"))

    def give_up_waiting(self) -> None:
        if self.waiting:
            call_sid = self.waiting.pop(self.random.randrange(len(self.waiting)))
            self.front.left(call_sid, "hangup")

    def hang_up(self) -> None:
        """While it rings: nobody says anything but the status callback."""
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            self.front.tell(call_sid, CallStatus="completed")

    def never_connect(self) -> None:
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            if call := self.front.board.call(call_sid):
                self.front.board.do(call, call.session.handle_timer(call.reservation.expires_s))

    def fail_handshake(self) -> None:
        if self.ringing:
            call_sid, _ = self.ringing.popitem()
            self.front.tell(call_sid, StreamEvent="stream-error", StreamError="31920")

    def say_stop(self) -> None:
        if call := self.somebody():
            self.receive(call, Stopped())

    def lose_socket(self) -> None:
        if call := self.somebody():
            self.front.board.end(call, EndReason.SOCKET_LOST)
            self.front.board.end(call, EndReason.SOCKET_LOST)

    def claim_to_be_another(self) -> None:
        if call := self.somebody():
            self.receive(call, Started(StreamSid("MZ1"), CallSid("CAanother"), "AC1"))

    def end_by_status(self) -> None:
        if call := self.somebody():
            self.front.tell(call.session.record.call_sid, CallStatus="completed", CallDuration="1")

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
                self.put_through_from_line += call_sid in self.ringing

    def fail_stage(self) -> None:
        if call := self.somebody():
            reservation = call.reservation
            self.front.board.handle_message(Frame(reservation.slot, reservation.epoch, 0, None))
            self.front.board.handle_message(Failed(reservation.slot, reservation.epoch, Stage.STEP, "broken"))

    def on_pipeline_lost(self) -> None:
        self.front.warm = False
        self.front.board.on_pipeline_lost("encode: killed by SIGKILL")
        self.front.warm = True
        self.front.call_queue.call_next()

    def everybody_goes(self) -> None:
        for call_sid in [*self.waiting, *self.ringing]:
            self.front.left(call_sid, "hangup")
        for call in list(self.front.board._calls.values()):
            self.front.board.end(call, EndReason.CALLER_HUNG_UP)

    def somebody(self) -> ActiveCall | None:
        if not self.talking:
            return None
        return self.talking.pop(self.random.randrange(len(self.talking)))

    def receive(self, call: ActiveCall, event: Connected | Started | Stopped) -> None:
        self.front.board.do(call, call.session.receive(event, call.session.record.reserved_s))


@pytest.mark.parametrize("mode", ["reject", "say", "queue"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_of_a_thousand_calls_that_die_at_every_stage_none_keeps_its_slot(mode: str, seed: int) -> None:
    asyncio.run(Story(mode, seed).run())


async def test_the_story_comes_to_every_end_that_it_tells_of() -> None:
    story = Story("queue", seed=1)
    await story.run()
    ends = {record.end for record in story.front.board.records()}
    assert ends >= {
        EndReason.CALLER_HUNG_UP,
        EndReason.SOCKET_LOST,
        EndReason.WRONG_CALL,
        EndReason.NO_SOCKET,
        EndReason.WORKER_LOST,
        EndReason.STAGE_FAILED,
    }
    assert story.put_through_from_line > 10
    assert EndReason.REPLACED in story.front.board.stream_ends
    assert any(len(record.streams) > 2 for record in story.front.board.records())
