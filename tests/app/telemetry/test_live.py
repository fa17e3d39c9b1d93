import json
import time
from typing import Any

import numpy as np
import pytest

from app.audio.level import SILENT_DBFS
from app.calls.active_call import ActiveCall
from app.calls.admission import VoiceRequest
from app.calls.record import CallRecord
from app.calls.transcript import Side, Word
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import HISTORY_S, MAX_POINTS, REPEAT_S, SNAPSHOT_EVERY_S, WORDS_REPEATED, LiveView, call_detail
from app.twilio.events import CallSid
from tests.app.calls.front import ANN, BOB, Front
from workers.messages import Frame, Span, Stage


class Looking:
    """A live view of a front, on a clock of the test that goes on from the real one."""

    def __init__(self) -> None:
        self.front = Front(max_calls=3)
        self.now_s = time.monotonic()
        self.lag = EventLoopLag()
        self.view = LiveView(self.front.manager, lambda: 7, self.lag, "line test", lambda: self.now_s)

    def snapshot(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.view.snapshot(self.now_s, REPEAT_S)))  # type: ignore[no-any-return]

    def only(self) -> dict[str, Any]:
        (call,) = self.snapshot()["calls"]
        return call  # type: ignore[no-any-return]

    def record(self, call_sid: CallSid) -> CallRecord:
        record = self.front.manager.record(call_sid)
        assert record is not None
        return record

    def says(self, call: ActiveCall, text: str, step_ms: float = 20.0) -> None:
        """Moshi's frame of now."""
        spans = (
            Span(Stage.ENCODE, self.now_s - 0.06, self.now_s - 0.05),
            Span(Stage.STEP, self.now_s - 0.05, self.now_s - 0.05 + step_ms / 1000),
            Span(Stage.DECODE, self.now_s - 0.01, self.now_s),
        )
        call.session.record.on_frame(
            Frame(call.reservation.slot, call.reservation.epoch, 0, None, text, 0, spans), self.now_s
        )
        if text:
            call.session.record.words.append(Word(Side.MOSHI, text, 1.0, 1.5))


async def test_a_snapshot_without_calls() -> None:
    looking = Looking()
    snapshot = looking.snapshot()
    assert snapshot["calls"] == snapshot["steps"] == []
    assert (snapshot["ready"], snapshot["draining"], snapshot["slots"], snapshot["free_slots"]) == (True, False, 3, 3)
    assert (snapshot["waiting"], snapshot["model"], snapshot["frame_period_ms"]) == (7, "line test", 80)


async def test_the_state_of_a_call_from_its_ring_to_its_end() -> None:
    looking = Looking()
    verb = looking.front.ring(ANN)
    assert (looking.only()["state"], looking.only()["number"]) == ("ringing", "…0001")
    looking.front.open_socket(verb)
    assert looking.only()["state"] == "connecting"
    assert looking.front.manager.hang_up(ANN)
    assert looking.snapshot()["calls"] == []
    assert looking.snapshot()["free_slots"] == 3


async def test_calls_that_wait_for_a_pipeline_and_why() -> None:
    looking = Looking()
    call = looking.front.talk(ANN)
    looking.front.manager.on_pipeline_lost("step: killed by SIGKILL")
    looking.front.warm = False
    snapshot = looking.snapshot()
    assert (snapshot["ready"], snapshot["pipeline"]) == (False, "step: killed by SIGKILL; 1 call to resume")
    assert looking.only()["state"] == "resuming"
    looking.front.warm = True
    looking.front.manager.on_pipeline_ready()
    looking.front.go_on(call)
    assert (looking.only()["state"], looking.only()["resumed"]) == ("active", 1)


async def test_numbers_are_masked_and_an_outbound_call_shows_the_called_party() -> None:
    looking = Looking()
    looking.front.manager.reserve(ANN, VoiceRequest(None, "+15550100001", "+15550100000", "inbound"))
    looking.front.manager.reserve(BOB, VoiceRequest(None, "+15550100000", "+15550100002", "outbound-api"))
    ann, bob = looking.snapshot()["calls"]
    assert (ann["number"], ann["direction"]) == ("…0001", "inbound")
    assert (bob["number"], bob["direction"]) == ("…0002", "outbound")
    whole = looking.view.latest() + looking.view.first() + json.dumps(call_detail(looking.record(ANN)))
    assert "5550100" not in whole


async def test_words_are_repeated_with_numbers() -> None:
    looking = Looking()
    call = looking.front.talk(ANN)
    for number in range(WORDS_REPEATED + 2):
        looking.says(call, f"w{number}")
    transcript = looking.only()["transcript"]
    assert (transcript["first"], len(transcript["words"])) == (2, WORDS_REPEATED)
    assert transcript["words"][0] == ["moshi", "w2", 1.0, 1.5]
    first = json.loads(looking.view.first())["calls"][0]["transcript"]
    assert (first["first"], [word[1] for word in first["words"][:2]]) == (0, ["w0", "w1"])
    assert json.loads(json.dumps(call_detail(looking.record(ANN))["transcript"])) == first
    rest = json.loads(json.dumps(call_detail(looking.record(ANN), after=1)["transcript"]))
    assert rest == {"first": 1, "words": first["words"][1:]}
    assert call_detail(looking.record(ANN), after=99)["transcript"] == {"first": WORDS_REPEATED + 2, "words": []}


async def test_steps_are_listed_once_for_all_calls_oldest_first() -> None:
    looking = Looking()
    ann, bob = looking.front.talk(ANN), looking.front.talk(BOB)
    for step_ms in (10.0, 90.0):
        looking.now_s += 0.08
        for call in (ann, bob):
            looking.says(call, "", step_ms)
    assert [took for _, took in looking.snapshot()["steps"]] == [10.0, 90.0]
    assert [call["overruns"] for call in looking.snapshot()["calls"]] == [1, 1]
    looking.now_s += HISTORY_S + 1
    assert json.loads(looking.view.first())["steps"] == []


async def test_levels_and_lag_are_those_of_now() -> None:
    looking = Looking()
    call = looking.front.talk(ANN)
    assert (looking.only()["caller_dbfs"], looking.only()["moshi_dbfs"]) == (SILENT_DBFS, SILENT_DBFS)
    loud = np.random.default_rng(1).integers(0, 256, 640, np.uint8).tobytes()
    call.levels.caller.add(loud, looking.now_s)
    assert looking.only()["caller_dbfs"] > -20
    assert looking.only()["moshi_dbfs"] == SILENT_DBFS
    for lag_s in [0.5, *[0.001] * 60, 0.02]:
        looking.lag.add(lag_s)
    assert looking.snapshot()["lag_ms"] == 20.0, "the worst of ten seconds"


async def test_latency_is_the_recent_median_and_over_the_call_a_limited_number_of_points() -> None:
    looking = Looking()
    record = looking.front.talk(ANN).session.record
    assert looking.only()["latency_ms"] is None
    record.latencies_s.extend([0.5] * 1_000 + [0.1] * 100)
    assert looking.only()["latency_ms"] == 100.0
    latencies_ms = call_detail(record)["latencies_ms"]
    assert isinstance(latencies_ms, list)
    assert len(latencies_ms) == MAX_POINTS
    assert (latencies_ms[0], latencies_ms[-1]) == (500.0, 100.0)
    looking.front.manager.hang_up(ANN)
    assert (call_detail(looking.record(ANN))["end"], looking.snapshot()["calls"]) == ("an operator hung up", [])


@pytest.mark.parametrize("how", ["latest", "first"])
async def test_one_snapshot_is_made_for_all_readers(how: str) -> None:
    looking = Looking()
    made = getattr(looking.view, how)
    first = made()
    looking.front.ring(ANN)
    assert made() == first
    looking.now_s += SNAPSHOT_EVERY_S
    assert json.loads(made())["now_s"] == pytest.approx(looking.now_s, abs=0.001)
    assert ANN in made()


async def test_an_operator_s_hang_up_ends_a_call_once_what_was_said_is_played() -> None:
    looking = Looking()
    assert not looking.front.manager.hang_up(ANN)
    call = looking.front.talk(ANN)
    call.session.record.first_sound_s = 0.0
    assert looking.front.manager.hang_up(ANN)
    assert looking.only()["state"] == "ending"
    assert looking.front.manager.hang_up(ANN), "again does no harm"
    call.carry_out(call.session.handle_timer(time.monotonic() + 10), call.clock())
    assert call.session.record.end == "an operator hung up"
