"""The words of a stream, and those of a whole call whose transcriber is the test."""

import asyncio

import pytest

from app.calls import last_words
from app.calls.chat_leg import ChatLeg
from app.calls.end_reason import EndReason
from app.calls.leg import Leg, PhoneLeg
from app.calls.limits import CallLimits
from app.calls.transcript import PAUSE_S, Side, Turn, Word
from app.calls.words import HEARD_LATE_S, StreamWords
from app.twilio.events import Media, Stopped
from tests.app.calls.front import ANN, Front
from workers.messages import FRAME_S, Epoch, Frame, Heard, Slot, TranscriptEnd, TurnOver


def caller(text: str, start_s: float, stop_s: float) -> Word:
    return Word(Side.CALLER, text, start_s, stop_s)


def texts(known: object) -> list[str]:
    return [f"[{one.text}]" if isinstance(one, Turn) else one.text for one in known]  # type: ignore[attr-defined]


def test_the_words_of_a_greeting_have_the_times_at_which_they_are_played() -> None:
    words = StreamWords()
    assert texts(words.add_frame(3, " Good", 0.1)) == []
    assert texts(words.add_frame(4, " day.", 0.1)) == []
    [good] = words.start(25, 5.0)
    assert good == Word(Side.MOSHI, "Good", 5.0 + 3 * FRAME_S, 5.0 + 4 * FRAME_S)
    assert [known.start_s for known in words.flush(Side.MOSHI)] == [5.0 + 4 * FRAME_S, 5.0 + 3 * FRAME_S]


def test_a_greeting_that_is_never_played_is_kept_all_the_same() -> None:
    words = StreamWords()
    assert texts(words.add_frame(0, " Hi", 0.1)) == []
    assert texts(words.flush(Side.MOSHI)) == ["Hi", "[Hi]"]


def test_a_pause_ends_the_turn_of_each_side_and_the_callers_is_waited_for_longer() -> None:
    words = StreamWords()
    assert texts(words.start(0, 0.0)) == []
    assert texts(words.add_heard(caller("Yes", 0.5, 1.0))) == ["Yes"]
    assert texts(words.add_frame(9, " No", 1.0)) == []
    assert texts(words.add_frame(10, "", 1.08 + PAUSE_S)) == ["No", "[No]"]
    assert texts(words.add_frame(11, "", 1.0 + PAUSE_S + HEARD_LATE_S)) == ["[Yes]"]


def test_digits_of_both_sides_are_masked_before_anybody_gets_them() -> None:
    words = StreamWords()
    assert texts(words.start(0, 0.0)) == []
    known = [one for number, digits in enumerate("4711") for one in words.add_heard(caller(digits, number, number + 1))]
    assert texts(known) == ["*", "*", "*", "*"]
    assert texts(words.add_frame(60, " four seven one one", 9.0)) == ["[* * * *]"]
    assert texts(words.flush(Side.MOSHI)) == ["*", "*", "*", "*", "[* * * *]"]


def test_a_turn_that_the_transcriber_ends_does_not_tear_a_run_of_digits() -> None:
    words = StreamWords()
    assert texts(words.add_heard(caller("call", 0.0, 0.5))) == ["call"]
    assert texts(words.add_heard(caller("47", 0.5, 1.0))) == []
    assert texts(words.end_turn()) == []
    assert texts(words.add_heard(caller("11", 1.5, 2.0))) == ["**", "**"]
    assert texts(words.end_turn()) == ["[call ** **]"]


# Where on our clock the caller said a word.


def spoken_s(leg: Leg, media: list[Media], start_s: float) -> float | None:
    """Start a leg at `start_s`, push audio in real time; return when its greeting's first answer was said."""
    leg.start(start_s, None)
    now = start_s
    for packet in media:
        now += len(packet.payload) / 8_000
        leg.push(packet, now)
    return leg.spoken_s(25 * FRAME_S)


def test_a_phones_first_frame_is_said_when_its_packets_arrive() -> None:
    packets = [Media(20 * number, bytes(160)) for number in range(100)]
    limits = CallLimits(25, 20.0, 600.0, 0.0)
    leg = PhoneLeg(limits)
    assert spoken_s(leg, packets, 50.0) == pytest.approx(50.0 + leg.start_s, abs=0.03)


def test_a_chats_first_frame_is_said_when_it_is_due() -> None:
    leg = ChatLeg(CallLimits(25, 20.0, 600.0, 0.0))
    assert spoken_s(leg, [], 50.0) == pytest.approx(50.0 + leg.start_s)


# A whole call.


class Line:
    """A call on a front that transcribes; `heard` says a word as the transcriber would."""

    def __init__(self, transcribe: str = "synthetic:stt") -> None:
        self.front = Front(engine="mlx", codec="mlx", greeting_frames=0, transcribe=transcribe)
        self.call = self.front.talk(ANN)
        self.record = self.call.session.record

    @property
    def slot(self) -> Slot:
        return self.call.reservation.slot

    @property
    def epoch(self) -> Epoch:
        return self.call.reservation.epoch

    def heard(self, word: str, start_s: float) -> None:
        self.front.manager.handle_transcript(Heard(self.slot, self.epoch, word, start_s, start_s + 0.25))

    def end(self, missed: int = 0) -> None:
        self.front.manager.handle_transcript(TranscriptEnd(self.slot, self.epoch, missed))

    def says(self, text: str, seq: int = 0) -> None:
        self.front.manager.handle_message(Frame(self.slot, self.epoch, seq, None, text))

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(word.speaker, word.text) for word in self.record.words]


async def test_the_words_of_both_sides_reach_the_record_in_order() -> None:
    line = Line()
    line.heard("Hello?", 0.0)
    line.says(" Moshi")
    line.says(" here.")
    line.heard("Hi!", 1.0)
    assert line.said == [("caller", "Hello?"), ("moshi", "Moshi"), ("caller", "Hi!")]
    first, third = line.record.words[0], line.record.words[2]
    assert third.start_s - first.start_s == pytest.approx(1.0)
    assert line.front.manager.statistics.words == {"caller": 2, "moshi": 1}
    assert first.stop_s - first.start_s == pytest.approx(0.25)
    line.call.handle_event(Stopped())


async def test_the_last_words_after_the_hang_up_are_kept_and_the_record_is_written_again() -> None:
    line = Line()
    async with line.front.manager.events.subscribe(ANN) as events:
        line.heard("My", 0.0)
        line.call.handle_event(Stopped())
        assert [len(kept.words) for kept in line.front.kept] == [0, 1]
        line.heard("name.", 0.3)
        line.end(missed=3)
        assert [event.kind async for event in events] == ["word", "disconnected", "word"]
    assert [word.text for word in line.front.kept[-1].words] == ["My", "name."]
    assert line.record.counts["frames_unheard"] == 3
    line.heard("late", 0.6)
    assert len(line.record.words) == 2, "after the transcript's end nothing is taken"


async def test_who_watches_a_call_that_is_back_when_its_last_words_come_goes_on_watching() -> None:
    line = Line()
    async with line.front.manager.events.subscribe(ANN) as events:
        line.call.handle_event(Stopped())
        again = line.front.talk(ANN)
        line.end()
        again.end(EndReason.OPERATOR)
        line.front.manager.handle_transcript(TranscriptEnd(again.reservation.slot, again.reservation.epoch, 0))
        kinds = [event.kind async for event in events]
    assert kinds == ["disconnected", "connected", "disconnected"]


async def test_last_words_that_do_not_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "WITHIN_S", 0.0)
    line = Line()
    line.heard("four", 0.0)  # held: it may begin a run of digits
    line.call.handle_event(Stopped())
    assert line.said == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert line.said == [("caller", "four")]


@pytest.mark.parametrize(
    ("steps", "waits"),
    [
        (["lost", "end"], False),
        (["lost", "end", "lost"], False),
        (["lost"], True),
        (["end", "lost"], True),
        (["lost", "end", "ready"], True),
        (["lost", "end", "ready", "lost"], True),
        (["end"], True),
    ],
)
async def test_last_words_that_nobody_can_give_any_more_are_not_waited_for(steps: list[str], waits: bool) -> None:
    line = Line()
    manager = line.front.manager
    told = {"lost": lambda: manager.on_pipeline_lost("gone"), "ready": manager.on_pipeline_ready, "end": line.end}
    for step in steps:
        told[step]()
    line.call.handle_event(Stopped())
    assert (manager.last_words.find(line.epoch) is line.call) is waits
    await manager.last_words.finish(0.0)


async def test_at_the_stop_of_the_service_what_is_known_is_kept() -> None:
    line = Line()
    line.heard("four", 0.0)
    line.front.manager.stop()
    await line.front.manager.last_words.finish(0.0)
    assert [word.text for word in line.front.kept[-1].words] == ["four"]


async def test_the_stop_waits_for_words_that_are_on_their_way() -> None:
    line = Line()
    line.front.manager.stop()
    finishing = asyncio.create_task(line.front.manager.last_words.finish(60.0))
    await asyncio.sleep(0)
    line.heard("bye", 0.0)
    line.end()
    await finishing
    assert line.said == [("caller", "bye")]


async def test_without_a_transcriber_nothing_is_waited_for() -> None:
    line = Line("off")
    line.says(" Bye")
    line.call.handle_event(Stopped())
    line.heard("Hello", 0.0)
    assert line.said == [("moshi", "Bye")]


async def test_a_lost_transcriber_ends_no_call_and_words_go_on_when_it_is_back() -> None:
    line = Line()
    line.heard("one", 0.0)
    line.end()
    assert not line.call.over
    line.heard("fish", 5.0)
    assert [text for _, text in line.said] == ["one", "fish"]


async def test_words_of_another_call_in_the_slot_are_dropped() -> None:
    line = Line()
    line.front.manager.handle_transcript(Heard(line.slot, Epoch(line.epoch + 1), "no", 0.0, 0.2))
    line.front.manager.handle_transcript(TurnOver(line.slot, Epoch(line.epoch + 1), 0.2))
    assert line.said == []


async def test_a_word_that_we_cannot_handle_costs_the_call_nothing(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()
    line.heard(None, 0.0)  # type: ignore[arg-type]
    assert not line.call.over
    assert "words of this call are lost" in caplog.text
    line.heard("fine", 1.0)
    assert line.said == [("caller", "fine")]
