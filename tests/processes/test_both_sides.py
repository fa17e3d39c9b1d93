"""A whole call in words: call manager and call log, real workers, the real transcriber; the clock is the test's.

What is written down is compared with the recordings that the demo's caller plays, and with the script that Moshi says.
"""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from app.audio import mulaw
from app.calls.manager import CallManager
from app.calls.observer import CallObserver
from app.calls.record import CallRecord
from app.calls.record_json import as_json
from app.calls.transcript import Side
from app.cli.demo.expectation import expect
from app.config import CodecKind, read_settings
from app.server.assembly import worker_config
from app.simulator.conversation import CONVERSATION, conversation
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.from_record import make_entry
from app.twilio.events import CallSid, Connected, Media, Started, Stopped, StreamSid
from tests.app.telemetry.call_log.records import SERVICE, ZERO, address_of
from tests.processes.pipeline import CALM, PATIENCE_S, supervising
from tests.processes.real_workers import IN_STEP, SLOT, caught_up
from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic.caller_speech import PACKET_S, utterances
from workers.messages import FRAME_S, Frame, Message, PipelineMessage
from workers.supervisor import Supervisor

ANN = CallSid("CA" + "a" * 32)
GREETING_FRAMES = 25


class Written(CallObserver):
    """Puts the record into a queue when no more words come."""

    def __init__(self, record: CallRecord, queue: "asyncio.Queue[CallRecord]") -> None:
        self._record, self._queue = record, queue

    def on_words_end(self, now: float) -> None:
        self._queue.put_nowait(self._record)


class Line:
    """One call; time passes by the packets that the caller sends."""

    def __init__(self, cache: Path) -> None:
        model = {"moshi_checkpoint": "synthetic:script", "cache_dir": cache, "codec": CodecKind.NUMPY}
        settings = read_settings(**model, greeting_frames=GREETING_FRAMES, transcribe="synthetic:stt")
        config = worker_config(settings)
        self.supervisor = Supervisor(config, self._receive, print, print, CALM, on_transcript=self._hear)
        observers = [lambda call: Written(call.session.record, self.kept)]
        self.manager = CallManager(settings, self._send, lambda: True, observers, clock=lambda: self.now_s)
        self.now_s = 1_000.0
        self.kept: asyncio.Queue[CallRecord] = asyncio.Queue()
        self._sent = self._back = 0
        self._arrived = asyncio.Event()

    def _send(self, message: Message) -> None:
        self._sent += isinstance(message, Frame)
        self.supervisor.send(message)

    def _receive(self, message: PipelineMessage) -> None:
        self._back += isinstance(message, Frame)
        self.manager.handle_message(message)
        self._arrived.set()

    def _hear(self, message: object) -> None:
        self.manager.handle_transcript(message)  # type: ignore[arg-type]

    async def until_back(self, frames: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self._back < frames:
                self._arrived.clear()
                await self._arrived.wait()

    async def call(self, said: bytes) -> CallRecord:
        """Have the caller say this and hang up; return the record once no more words come."""
        reservation = self.manager.reserve(ANN)
        assert reservation
        await self.until_back(GREETING_FRAMES)
        call = self.manager.claim(reservation.token)
        assert call
        for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1")):
            call.handle_event(event)
        for begin in range(0, len(said), mulaw.PACKET_SAMPLES):
            self.now_s += 0.02
            call.handle_event(Media(begin * 1000 // 8_000, said[begin : begin + mulaw.PACKET_SAMPLES]))
            await self.until_back(GREETING_FRAMES + self._sent)
            if self._sent % IN_STEP == 0:
                await caught_up(self.supervisor, self._sent - IN_STEP)
            while not call.outbox.empty():
                call.outbox.get_nowait()
        call.handle_event(Stopped())
        async with asyncio.timeout(PATIENCE_S):
            return await self.kept.get()


def said_by_caller() -> list[tuple[str, float]]:
    """Return the words with the beginnings of the frames whose codes stand for them, on the caller's clock."""
    return [
        (word, begin_s + start_s)
        for said, begin_s in zip(utterances(), sorted(CONVERSATION.values()), strict=True)
        for (_, word), start_s in zip(said.words, said.starts_s(round(begin_s / PACKET_S) % 4), strict=True)
    ]


@pytest.mark.slow
async def test_what_both_say_is_in_the_call_log_at_its_time_and_found(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    talk = mulaw.encode(conversation())
    line = Line(synthetic_cache(tmp_path_factory))
    async with supervising(line.supervisor):
        line.manager.start_accepting(1, processing_s=0.04)
        record = await line.call(talk)
    heard = [word for word in record.words if word.speaker is Side.CALLER]
    assert [word.text for word in heard] == [word for word, _ in said_by_caller()]
    assert record.started_s
    zero_s = record.started_s - record.reserved_s
    starts_s = [word.start_s - zero_s for word in heard]
    assert starts_s == pytest.approx([start_s for _, start_s in said_by_caller()], abs=FRAME_S)

    expected = expect(mulaw.decode(talk), as_json(record))
    assert record.transcript.split() == expected.transcript.split()[: len(record.transcript.split())]
    assert len(record.transcript.split()) > 20

    database = Database(address_of(f"sqlite:///{tmp_path}/calls.db", tmp_path))
    database.migrate()
    database.write(make_entry(record, SLOT, SERVICE, ZERO))
    kept = database.find(ANN)
    assert [turn.speaker for turn in kept.turns][:2] == ["moshi", "caller"]
    assert np.all(np.diff([turn.start_s for turn in kept.turns]) >= 0)
    [found] = database.search("connect person", 9)
    assert (found.speaker, found.text) == ("caller", "Please connect me to a person.")
