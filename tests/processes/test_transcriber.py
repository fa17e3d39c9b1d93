"""The transcriber beside real workers: what the demo's caller says comes back in words; its troubles touch no call."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

from app.audio.resample import Interpolator
from app.config import CodecKind, read_settings
from app.server.assembly import worker_config
from app.simulator.conversation import recording
from tests.processes.pipeline import PATIENCE_S, SupervisedPipeline, all_gone, running
from tests.synthetic import synthetic_cache
from workers.liveness import Limits
from workers.messages import (
    FRAME_SAMPLES,
    Close,
    Epoch,
    Failed,
    Frame,
    Heard,
    Open,
    Pcm,
    Slot,
    Stage,
    TranscriptEnd,
    TranscriptMessage,
    TurnOver,
)
from workers.transcriber.stage import BACKLOG
from workers.transcription import Transcription

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
WORDS = {
    "question1": "Hello Moshi, can you hear me over the telephone?",
    "question3": "Please connect me to a person.",
}
SILENT_FRAMES = 10


class Line:
    """A supervised pipeline with a transcriber, and what its caller heard."""

    def __init__(self, pipeline: SupervisedPipeline) -> None:
        self.pipeline, self.supervisor, self.epoch = pipeline, pipeline.supervisor, 0
        self.answer: list[Pcm | None] = []
        """Of the last call, frame by frame."""

    @property
    def transcription(self) -> Transcription:
        assert self.supervisor.transcription
        return self.supervisor.transcription

    async def call(self, slot: int, pcm: Pcm, trouble: Callable[[int], None] = lambda _: None) -> int:
        """Open a call, pass these frames, close it; return its epoch."""
        await self.speak(slot, pcm, trouble)
        self.supervisor.send(Close(Slot(slot), Epoch(self.epoch)))
        return self.epoch

    async def speak(self, slot: int, pcm: Pcm, trouble: Callable[[int], None] = lambda _: None) -> None:
        """Open a call and pass these frames one by one. Every frame comes back.

        Before each one `trouble` is called with its number.
        """
        self.epoch += 1
        self.answer.clear()
        self.supervisor.send(Open(Slot(slot), Epoch(self.epoch)))
        for seq, frame in enumerate(pcm):
            trouble(seq)
            self.supervisor.send(Frame(Slot(slot), Epoch(self.epoch), seq, frame))
            while not isinstance(back := await self.pipeline.next_message(), Frame):
                assert not isinstance(back, Failed), back
            assert (back.slot, back.epoch, back.seq) == (slot, self.epoch, seq)
            self.answer.append(back.pcm)

    async def transcript(self, epoch: int) -> list[TranscriptMessage]:
        """Return what was heard in a call, up to its end."""
        heard: list[TranscriptMessage] = []
        async with asyncio.timeout(PATIENCE_S):
            while not (heard and isinstance(heard[-1], TranscriptEnd)):
                message = await self.pipeline.heard.get()
                heard += [message] if message.epoch == epoch else []
        return heard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Line]:
    cache = synthetic_cache(tmp_path_factory)
    model = {"moshi_checkpoint": "synthetic:script", "transcribe": "synthetic:stt", "cache_dir": cache}
    settings = read_settings(**model, codec=CodecKind.NUMPY, greeting_frames=0, max_calls=2)
    limits = Limits(busy_s=15.0, idle_s=15.0, beside_s=20.0)
    async with running(worker_config(settings), limits) as pipeline:
        yield (line := Line(pipeline))
        pids = [*line.supervisor.process_ids.values(), line.transcription.process_id or 0]
    await all_gone([pid for pid in pids if pid])


def frames_of(name: str) -> Pcm:
    """Return a recording as frames at 24 kHz, shape (frames, 1920), after silence; it ends with the call."""
    said = np.concatenate([np.zeros(640 * SILENT_FRAMES, np.int16), recording(name)])
    pcm = Interpolator().push(np.pad(said, (0, -len(said) % 640)).astype(np.float32) / np.float32(32_768))
    return pcm.reshape(-1, FRAME_SAMPLES)


def words(transcript: list[TranscriptMessage]) -> str:
    return " ".join(message.word for message in transcript if isinstance(message, Heard))


async def test_what_the_caller_said_comes_in_words_the_last_ones_after_the_hang_up(line: Line) -> None:
    for name, wanted in WORDS.items():
        transcript = await line.transcript(await line.call(0, frames_of(name)))
        assert words(transcript) == wanted
        heard = [message for message in transcript if isinstance(message, Heard)]
        assert heard[0].start_s == pytest.approx(SILENT_FRAMES * 0.08, abs=0.08)
        assert [word.start_s for word in heard] == sorted(word.start_s for word in heard)
        assert sum(isinstance(message, TurnOver) for message in transcript) == 1
        assert isinstance(transcript[-2], TurnOver)
        assert transcript[-1] == TranscriptEnd(Slot(0), Epoch(line.epoch), missed=0)


async def test_a_slot_given_out_at_once_keeps_two_calls_apart(line: Line) -> None:
    first = await line.call(1, frames_of("question1"))
    second = await line.call(1, frames_of("question3"))
    assert words(await line.transcript(first)) == WORDS["question1"]
    assert words(await line.transcript(second)) == WORDS["question3"]


async def test_the_transcript_of_a_caller_who_hangs_up_during_the_greeting_ends_at_once(line: Line) -> None:
    epoch = await line.call(0, np.zeros((0, FRAME_SAMPLES), np.float32))
    assert await line.transcript(epoch) == [TranscriptEnd(Slot(0), Epoch(epoch))]


async def test_the_transcriber_gives_way_to_the_pipeline(line: Line) -> None:
    def priorities(process: int) -> tuple[int, str]:
        group = Path(f"/proc/{process}/autogroup")  # of Linux, if it shares processors between sessions
        return psutil.Process(process).nice(), group.read_text().rpartition(" nice ")[2] if group.exists() else ""

    beside, engine = (
        priorities(one or 0) for one in (line.transcription.process_id, line.supervisor.process_ids[Stage.STEP])
    )
    assert beside[0] == min(engine[0] + 10, 19)
    assert (beside[1] == engine[1]) is (not beside[1])


async def test_a_killed_transcriber_is_started_again_alone(line: Line) -> None:
    pipeline, process = dict(line.supervisor.process_ids), line.transcription.process_id
    assert process
    spoken = frames_of("question1")
    calling = asyncio.create_task(line.call(0, np.concatenate([spoken, spoken, spoken])))
    first = await line.pipeline.next_heard()
    os.kill(process, signal.SIGKILL)
    epoch = await calling
    assert first.epoch == epoch
    assert isinstance((await line.transcript(epoch))[-1], TranscriptEnd), "the call's transcript is over"
    async with asyncio.timeout(PATIENCE_S):
        await line.transcription.wait_ready()
    assert words(await line.transcript(await line.call(0, frames_of("question3")))) == WORDS["question3"]
    assert line.supervisor.process_ids == pipeline
    assert line.pipeline.lost.empty()
    assert line.transcription.losses == 1


async def test_a_stopped_transcriber_is_not_waited_for_and_drops_to_catch_up(line: Line) -> None:
    process = line.transcription.process_id
    assert process
    os.kill(process, signal.SIGSTOP)
    epoch = await line.call(0, np.concatenate([np.zeros((50, FRAME_SAMPLES), np.float32), frames_of("question3")]))
    os.kill(process, signal.SIGCONT)
    transcript = await line.transcript(epoch)
    end = transcript[-1]
    assert isinstance(end, TranscriptEnd)
    assert end.missed == 50 + len(frames_of("question3")) - BACKLOG
    assert words(transcript) == WORDS["question3"], "the newest were kept"
    assert line.pipeline.lost.empty()
    assert line.transcription.process_id == process


async def test_a_transcriber_that_is_late_all_the_time_is_not_heard_in_the_call(line: Line) -> None:
    process = line.transcription.process_id
    assert process
    said = np.concatenate([frames_of("question1"), np.zeros((20, FRAME_SAMPLES), np.float32)])
    await line.transcript(await line.call(0, said))
    wanted = list(line.answer)

    def hold_up(seq: int) -> None:
        os.kill(process, signal.SIGSTOP if seq % 8 else signal.SIGCONT)

    epoch = await line.call(0, said, hold_up)
    os.kill(process, signal.SIGCONT)
    end = (await line.transcript(epoch))[-1]
    assert isinstance(end, TranscriptEnd)
    assert [None if pcm is None else pcm.tobytes() for pcm in line.answer] == [
        None if pcm is None else pcm.tobytes() for pcm in wanted
    ]


async def test_a_transcriber_that_hangs_is_started_again(line: Line) -> None:
    process, pipeline = line.transcription.process_id, dict(line.supervisor.process_ids)
    assert process
    losses = line.transcription.losses
    os.kill(process, signal.SIGSTOP)
    async with asyncio.timeout(2 * PATIENCE_S):
        while line.transcription.process_id == process:
            await line.call(1, frames_of("question3")[:12])
        await line.transcription.wait_ready()
    assert words(await line.transcript(await line.call(1, frames_of("question1")))) == WORDS["question1"]
    assert line.transcription.losses == losses + 1
    assert line.supervisor.process_ids == pipeline


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DECODE])
async def test_a_lost_pipeline_ends_transcripts_and_the_transcriber_stays(line: Line, stage: Stage) -> None:
    process = line.transcription.process_id
    await line.speak(0, frames_of("question1"))
    os.kill(line.supervisor.process_ids[stage], signal.SIGKILL)
    assert words(await line.transcript(line.epoch)) == WORDS["question1"]
    await line.pipeline.next_lost()
    await line.pipeline.until_ready()
    assert words(await line.transcript(await line.call(0, frames_of("question3")))) == WORDS["question3"]
    assert line.transcription.process_id == process
