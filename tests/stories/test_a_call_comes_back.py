"""One CallSid, several streams: whole calls over the real manager and call router, on a clock that the test moves."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from app.calls.active_call import ActiveCall
from app.calls.admission import TTL_S, VoiceRequest
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.end_reason import EndReason
from app.calls.personas import Chosen, choose_nobody
from app.calls.record import CallRecord
from app.calls.record_json import as_json
from app.calls.session import CallState
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from app.twilio.twiml import Connect, Enqueue, Hangup, Reject
from tests.app.calls.front import ANN, BOB, Front
from workers.messages import Frame, PreparePrompt

SLOTS = 2


class Line(Front):
    """A front whose clock moves when we say so."""

    def __init__(
        self,
        choose: Callable[[str, str, str], Chosen] = choose_nobody,
        former_prompt: Callable[[str], PreparePrompt | None] = lambda key: None,
        **settings: object,
    ) -> None:
        self.now_s = 1_000.0
        super().__init__(True, lambda: self.now_s, choose, former_prompt, (), **{"max_calls": SLOTS, **settings})
        self.streams = 0

    def pass_time(self, seconds: float) -> None:
        """Let timers go off in their order."""
        until_s = self.now_s + seconds
        while due := [call for call in self.manager.calls if call.session.get_timer() <= until_s]:
            call = min(due, key=lambda one: one.session.get_timer())
            self.now_s = max(self.now_s, call.session.get_timer())
            call.carry_out(call.session.handle_timer(self.now_s), call.clock())
        self.now_s = until_s

    def start(self, call: ActiveCall) -> ActiveCall:
        """Say what Twilio says first on a socket."""
        self.streams += 1
        for event in (Connected(), Started(StreamSid(f"MZ{self.streams}"), call.session.record.call_sid, "AC1")):
            call.handle_event(event)
        return call

    def talk(self, call_sid: CallSid, webhook_token: str = "", **fields: str) -> ActiveCall:
        return self.start(self.open_socket(self.ring(call_sid, webhook_token=webhook_token, **fields)))

    def say(self, call: ActiveCall, text: str) -> None:
        """The caller speaks for a moment, presses a key, and Moshi says something."""
        call.handle_event(Media(0, bytes(160)))
        call.handle_event(DtmfPressed("1"))
        held, pcm = call.reservation, np.zeros(1_920, np.float32)
        self.manager.handle_message(Frame(held.slot, held.epoch, 0, pcm, text))

    def record(self, call_sid: CallSid = ANN) -> CallRecord:
        record = self.manager.record(call_sid)
        assert record
        return record

    def ends(self, call_sid: CallSid = ANN) -> list[EndReason | None]:
        return [stream.end for stream in self.record(call_sid).streams]


async def test_a_call_that_comes_back_has_one_record_of_all_its_parts() -> None:
    line = Line(calls_per_number_per_hour=1)
    first = line.talk(ANN, CallStatus="ringing")
    line.say(first, " one")
    line.pass_time(2.0)
    first.handle_event(Stopped())
    assert (line.record().end, line.manager.free_slots) == (EndReason.CALLER_HUNG_UP, SLOTS)
    line.pass_time(30.0)
    second = line.talk(ANN, CallStatus="in-progress")
    record = line.record()
    assert second.session.record is first.session.record is record
    assert (record.end, record.ended_s, record.detail) == (None, None, ""), "the call is on"
    line.say(second, " two")
    line.pass_time(1.0)
    second.end(EndReason.SOCKET_LOST, "close code 1006")
    assert line.manager.records() == [record]
    assert (record.transcript, record.counts["packets_in"], record.counts["dtmf"]) == ("one two", 2, 2)
    assert (record.reserved_s, record.connected_s, record.ended_s) == (1_000.0, 1_000.0, 1_033.0)
    assert line.ends() == [EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST]
    assert [stream.reserved_s for stream in record.streams] == [1_000.0, 1_032.0]
    assert record.end is EndReason.SOCKET_LOST
    assert isinstance(line.ring(BOB), Reject), "the number has had its one call"


async def test_a_call_that_comes_back_is_one_call_in_the_metrics_and_counts_nothing_twice() -> None:
    line = Line()
    for text in ("one", "two", "three"):
        call = line.talk(ANN)
        line.say(call, text)
        call.handle_event(Stopped())
    assert (line.manager.counts["dtmf"], line.manager.counts["packets_in"]) == (3, 3)
    assert dict(+line.manager.statistics.ends) == {EndReason.CALLER_HUNG_UP: 1}
    assert dict(+line.manager.statistics.stream_ends) == {EndReason.CALLER_HUNG_UP: 3}


async def test_the_call_log_gets_every_stream_of_a_call_and_its_last_end() -> None:
    line = Line()
    line.talk(ANN).handle_event(Stopped())
    second = line.talk(ANN)
    assert [kept.end for kept in line.kept] == [None, EndReason.CALLER_HUNG_UP, None]
    second.end(EndReason.STAGE_FAILED)
    kept = line.kept[-1]
    assert (kept.call_sid, kept.end) == (ANN, EndReason.STAGE_FAILED)
    assert {(one.caller, one.called) for one in line.kept} == {("+15550100001", "+15550100000")}, "from the beginning"
    assert [stream.end for stream in kept.streams] == [EndReason.CALLER_HUNG_UP, EndReason.STAGE_FAILED]


@pytest.mark.parametrize("how", ["token", "status"])
async def test_a_webhook_that_is_repeated_while_its_stream_is_on_takes_no_slot_and_ends_nothing(how: str) -> None:
    line = Line(calls_per_number_per_hour=1)
    same: dict[str, str] = {"webhook_token": "t1"} if how == "token" else {"CallStatus": "ringing"}
    verb = line.ring(ANN, **same)
    assert line.ring(ANN, **same) == verb
    call = line.start(line.open_socket(verb))
    assert line.ring(ANN, **same) == verb, "the answer that it got, whose token is used up"
    assert isinstance(verb, Connect)
    assert line.manager.claim(verb.url.rpartition("/")[2]) is None
    assert (line.manager.free_slots, len(line.record().streams)) == (SLOTS - 1, 1)
    line.pass_time(2 * TTL_S)
    assert (call.session.state, line.record().end) == (CallState.LIVE, None)
    call.handle_event(Stopped())
    assert (line.manager.free_slots, line.ends()) == (SLOTS, [EndReason.CALLER_HUNG_UP])


@pytest.mark.parametrize("how", ["token", "status", "over"])
async def test_a_webhook_that_is_repeated_after_the_end_opens_nothing(how: str) -> None:
    line = Line()
    same: dict[str, str] = {"webhook_token": "t1"} if how == "token" else {"CallStatus": "ringing"}
    line.talk(ANN, **same).handle_event(Stopped())
    if how == "over":
        line.post_status(ANN, CallStatus="completed")
        same = {"CallStatus": "in-progress", "webhook_token": "t2"}
    assert line.ring(ANN, **same) == Hangup()
    line.pass_time(2 * TTL_S)
    assert (line.manager.active_calls, line.ends()) == (0, [EndReason.CALLER_HUNG_UP])


async def test_a_call_whose_stream_was_lost_unnoticed_goes_on_in_a_new_one_with_the_same_slot() -> None:
    line = Line(max_calls=1, when_busy="queue")
    old = line.talk(ANN, CallStatus="ringing")
    line.say(old, " one")
    assert isinstance(line.ring(BOB), Enqueue), "somebody waits, who must not get the slot in between"
    verb = line.ring(ANN, CallStatus="in-progress", webhook_token="t2")
    assert old.session.record.end is None
    new = line.start(line.open_socket(verb))
    assert line.ends() == [EndReason.REPLACED, None]
    assert old.outbox.get_nowait() is None, "its socket is closed"
    assert (new.session.state, line.manager.active_calls, line.manager.call(ANN)) == (CallState.LIVE, 1, new)
    old.end(EndReason.SOCKET_LOST)
    line.say(new, " two")
    assert line.record().end is None
    new.end(EndReason.SHUTDOWN)
    assert line.record().transcript == "one two"


async def test_a_stream_that_ends_after_the_webhook_of_the_next_one_leaves_it_its_slot() -> None:
    line = Line(max_calls=1, when_busy="queue")
    old = line.talk(ANN)
    line.ring(BOB)
    verb = line.ring(ANN)
    old.handle_event(Stopped())
    assert line.manager.holds(ANN)
    line.start(line.open_socket(verb))
    assert line.ends() == [EndReason.CALLER_HUNG_UP, None]


async def test_a_stream_that_never_comes_leaves_the_end_of_the_call_as_it_was() -> None:
    line = Line()
    line.talk(ANN).handle_event(Stopped())
    before = line.record().copy()
    line.pass_time(5.0)
    assert isinstance(line.ring(ANN), Connect)
    line.go_on(line.manager.call(ANN))
    line.pass_time(2 * TTL_S)
    after = line.record()
    assert line.ends() == [EndReason.CALLER_HUNG_UP, EndReason.NO_SOCKET]
    assert (after.end, after.ended_s, after.detail) == (before.end, before.ended_s, before.detail)
    assert line.manager.free_slots == SLOTS
    assert line.kept[-1].end is EndReason.CALLER_HUNG_UP


@pytest.mark.parametrize("reason", [EndReason.SOCKET_LOST, EndReason.CALLER_HUNG_UP])
async def test_a_call_that_an_operator_hangs_up_goes_on_nowhere_though_its_line_ends_first(reason: EndReason) -> None:
    line = Line()
    call = line.talk(ANN)
    line.say(call, " one")
    line.pass_time(0.1)
    verb = line.ring(ANN, CallStatus="in-progress", webhook_token="t2")
    assert line.manager.hang_up(ANN)
    assert call.session.state is CallState.DRAINING
    call.end(reason)
    assert (line.manager.active_calls, line.ends()) == (0, [EndReason.OPERATOR])
    assert line.after_stream(ANN) == Hangup()
    assert isinstance(verb, Connect)
    assert line.manager.claim(verb.url.rpartition("/")[2]) is None


@pytest.mark.parametrize("reason", [EndReason.OPERATOR, EndReason.TIME_LIMIT, EndReason.HANGUP_KEY])
async def test_a_call_that_we_end_does_not_go_on_in_a_stream_that_stands_by(reason: EndReason) -> None:
    line = Line()
    call = line.talk(ANN)
    verb = line.ring(ANN)
    call.end(reason)
    assert (line.manager.active_calls, line.ends()) == (0, [reason])
    assert isinstance(verb, Connect)
    assert line.manager.claim(verb.url.rpartition("/")[2]) is None


async def test_the_time_limit_is_that_of_all_streams_together() -> None:
    line = Line(max_call_seconds=60)
    first = line.talk(ANN)
    line.pass_time(40.0)
    first.handle_event(Stopped())
    line.pass_time(10.0)
    second = line.talk(ANN)
    line.go_on(second)
    line.pass_time(9.0)
    assert second.session.state is CallState.LIVE
    line.pass_time(1.0)
    assert line.ends() == [EndReason.CALLER_HUNG_UP, EndReason.TIME_LIMIT]


@pytest.mark.parametrize(("hours_ago", "goes_on"), [(0.5, True), (1.5, False), (-1.0, True)])
async def test_the_time_limit_is_that_of_the_call_at_all_nodes(hours_ago: float, goes_on: bool) -> None:
    """A clock that is behind the other node's gives it no more than the whole limit."""
    line = Line(max_call_seconds=3_600)
    header = ConversationHeader(began_s=time.time() - 3_600 * hours_ago)
    line.manager.restore(ANN, Conversation(header), VoiceRequest())
    line.talk(ANN).handle_event(Stopped())
    call = line.talk(ANN)
    line.go_on(call)
    line.pass_time(600.0)
    assert call.session.state is (CallState.LIVE if goes_on else CallState.ENDED)
    line.pass_time(3_000.0)
    assert line.ends()[-1] is EndReason.TIME_LIMIT


async def test_an_error_of_an_earlier_stream_does_not_end_the_next_one() -> None:
    line = Line()
    line.talk(ANN).handle_event(Stopped())
    line.ring(ANN)
    line.post_status(ANN, StreamEvent="stream-error", StreamError="31921", StreamSid="MZ1")
    assert line.manager.holds(ANN)
    line.post_status(ANN, StreamEvent="stream-error", StreamError="31920", StreamSid="MZ2")
    assert not line.manager.holds(ANN)


@pytest.mark.parametrize("mode", ["reject", "say", "queue"])
@pytest.mark.parametrize("ready", [True, False])
async def test_somebody_whom_we_called_and_who_finds_no_slot_is_hung_up_on_and_the_record_says_why(
    mode: str, ready: bool
) -> None:
    line = Line(when_busy=mode, max_calls=1)
    line.talk(BOB)
    line.manager.accepting, line.warm = ready, ready
    assert line.ring(ANN, Direction="outbound-api", CallStatus="in-progress") == Hangup()
    record = line.record()
    assert (record.end, record.detail) == (EndReason.NO_SLOT, "all lines of the bridge were taken")
    told = as_json(record)
    assert (told["end"], told["refused"], record.direction) == ("no slot was free", record.detail, "outbound-api")
    assert (sum(line.call_router.rejected.values()), len(line.call_queue)) == (1, 0)


async def test_a_caller_who_comes_back_and_finds_no_slot_hears_no_busy_tone_for_the_call_is_answered() -> None:
    line = Line(max_calls=1)
    line.talk(ANN).handle_event(Stopped())
    line.talk(BOB)
    assert line.ring(ANN, CallStatus="in-progress") == Hangup()
    assert (line.record().end, len(line.manager.records())) == (EndReason.CALLER_HUNG_UP, 2)


# Status callbacks out of order.


@pytest.mark.parametrize(
    ("late", "sequence"), [("initiated", ""), ("ringing", "0"), ("in-progress", "9"), ("busy", "x")]
)
async def test_a_status_that_comes_after_the_end_of_a_call_changes_nothing(late: str, sequence: str) -> None:
    line = Line()
    call = line.talk(ANN)
    line.post_status(ANN, CallStatus="completed", CallDuration="12", SequenceNumber="3")
    line.post_status(ANN, CallStatus=late, SequenceNumber=sequence)
    record = line.record()
    assert (record.status, record.duration_s, record.over) == ("completed", 12, True)
    assert (call.session.state, record.end, line.manager.active_calls) == (CallState.ENDED, EndReason.CALLER_HUNG_UP, 0)
    assert line.ring(ANN, CallStatus=late) == Hangup()


async def test_of_two_statuses_that_come_the_wrong_way_round_the_later_one_stays() -> None:
    line = Line()
    line.talk(ANN)
    line.post_status(ANN, CallStatus="in-progress", SequenceNumber="2")
    line.post_status(ANN, CallStatus="ringing", SequenceNumber="1")
    assert line.record().status == "in-progress"
    line.post_status(ANN, CallStatus="completed", SequenceNumber="0")
    assert line.record().status == "completed", "the end is the end, whatever its number"
