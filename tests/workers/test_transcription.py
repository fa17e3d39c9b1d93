"""When the codes of a frame go to the transcriber, and what becomes of them without one."""

import asyncio
import resource
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.control_messages import TranscriberConfig
from workers.messages import Epoch, Frame, Slot, Speech, SpeechEnded, SpeechMessage, TranscriptEnd, TranscriptMessage
from workers.transcription import HeldSpeech, Transcription

A, B = Slot(0), Slot(1)


def speech(slot: Slot, seq: int, epoch: int = 1) -> Speech:
    return Speech(slot, Epoch(epoch), seq, np.zeros(32, np.int32))


def answer(slot: Slot, seq: int, epoch: int = 1) -> Frame:
    return Frame(slot, Epoch(epoch), seq, None)


def numbers(messages: list[SpeechMessage]) -> list[tuple[Slot, int | None]]:
    return [(one.slot, one.seq if isinstance(one, Speech) else None) for one in messages]


def test_a_frame_waits_for_its_answer_and_for_that_of_no_other_call() -> None:
    held = HeldSpeech()
    assert held.add(speech(A, 5)) == held.add(speech(B, 3)) == []
    assert held.answered(answer(A, 4)) == []
    assert numbers(held.answered(answer(B, 3))) == [(B, 3)]
    assert numbers(held.answered(answer(A, 5))) == [(A, 5)]
    assert held.answered(answer(A, 5)) == []


def test_a_frame_that_is_not_answered_goes_before_the_next_one_and_before_the_end() -> None:
    held = HeldSpeech()
    held.add(speech(A, 5))
    assert numbers(held.add(speech(A, 6))) == [(A, 5)]
    assert numbers(held.add(SpeechEnded(A, Epoch(1)))) == [(A, 6), (A, None)]
    held.add(speech(B, 0))
    assert numbers(held.flush()) == [(B, 0)]
    assert held.flush() == []


def test_the_next_call_in_a_slot_is_not_let_go_by_answers_to_the_one_before() -> None:
    held = HeldSpeech()
    held.add(speech(A, 0, epoch=2))
    assert held.answered(answer(A, 90, epoch=1)) == []
    assert numbers(held.answered(answer(A, 0, epoch=2))) == [(A, 0)]


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["says", "answer", "end"])), max_size=40))
def test_everything_goes_once_and_in_order_and_one_frame_of_a_call_is_held(moves: list[tuple[Slot, str]]) -> None:
    held, added, gone = HeldSpeech(), list[SpeechMessage](), list[SpeechMessage]()
    for seq, (slot, move) in enumerate(moves):
        if move == "answer":
            gone += held.answered(answer(slot, seq))
        else:
            added.append(speech(slot, seq) if move == "says" else SpeechEnded(slot, Epoch(1)))
            gone += held.add(added[-1])
        assert len(added) - len(gone) <= len({one.slot for one in added})
    gone += held.flush()
    for slot in (A, B):
        assert numbers([one for one in gone if one.slot == slot]) == numbers([one for one in added if one.slot == slot])


def test_without_a_transcriber_a_transcript_ends_with_its_call() -> None:
    came: list[TranscriptMessage] = []
    transcription = Transcription(came.append)
    transcription.send(speech(A, 0))
    transcription.send(speech(A, 1))
    transcription.send(SpeechEnded(A, Epoch(1)))
    assert came == [TranscriptEnd(A, Epoch(1))], "nobody waits for last words that do not come"
    assert transcription.missed == 2


async def test_a_transcriber_that_cannot_start_is_not_waited_for(tmp_path: Path) -> None:
    transcription = Transcription(lambda _: None)
    transcription.configure(TranscriberConfig(tmp_path, None, 1, np.zeros((1, 32), np.int32)))
    running = asyncio.create_task(transcription.run())
    async with asyncio.timeout(60):
        await transcription.wait_begun()
    assert not transcription.ready
    running.cancel()
    await asyncio.wait({running})


async def test_a_transcriber_that_gets_no_sockets_is_started_again_later() -> None:
    """While this process may open no more files, as in a flood of connections."""
    transcription, (soft, hard) = Transcription(lambda _: None), resource.getrlimit(resource.RLIMIT_NOFILE)
    transcription.configure(TranscriberConfig(Path("/nonexistent"), None, 1, np.zeros((1, 32), np.int32)))
    running = asyncio.create_task(transcription.run())
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        while not transcription.losses and not running.done():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
