"""Runs the transcriber, the process beside the pipeline, and starts it again alone: no call waits for it.

The encoder sends its codes over its control link, and the app passes them on: the transcriber's links are made anew
with each process, since no descriptor travels. `Link` drops the oldest frames when the transcriber does not read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from workers.control_messages import (
    TRANSCRIBER,
    FromWorker,
    Ping,
    Progress,
    Ready,
    StartRefused,
    TranscriberConfig,
    WorkerVitals,
)
from workers.link import pair
from workers.liveness import CHECK_EVERY_S, PING_EVERY_S, Limits
from workers.messages import Epoch, Frame, Slot, Speech, SpeechEnded, SpeechMessage, TranscriptEnd, TranscriptMessage
from workers.process import LoopLink, WorkerProcess

log = logging.getLogger(__name__)

BACK_OFF_S = (1.0, 5.0, 30.0)
JUMP_S = 2.0
"""A check that comes so late says nothing: this process itself was stopped."""


class HeldSpeech:
    """Holds the newest frame of each call until the pipeline has answered it.

    So the transcriber steps while the engine waits for the next frames: on one GPU, or on few processors, two steps at
    once make both longer.
    """

    def __init__(self) -> None:
        self._held: dict[Slot, Speech] = {}

    def add(self, message: SpeechMessage) -> list[SpeechMessage]:
        """Return what may go now; what was held of this call goes before it in any case."""
        before = self._held.pop(message.slot, None)
        now: list[SpeechMessage] = [before] if before else []
        if isinstance(message, Speech):
            self._held[message.slot] = message
            return now
        return [*now, message]

    def answered(self, frame: Frame) -> list[SpeechMessage]:
        """Return what may go now that this frame has come back."""
        held = self._held.get(frame.slot)
        is_due = held is not None and (held.epoch, held.seq) <= (frame.epoch, frame.seq)
        return [self._held.pop(frame.slot)] if is_due else []

    def flush(self) -> list[SpeechMessage]:
        """Return all: nothing comes back any more."""
        held, self._held = self._held, {}
        return [*held.values()]


class Transcription:
    """`on_transcript` gets what the callers say; one that raises loses that message alone."""

    def __init__(self, on_transcript: Callable[[TranscriptMessage], None], limits: Limits | None = None) -> None:
        self._on_transcript, self._limits = on_transcript, limits or Limits()
        self._config: TranscriberConfig | None = None
        self._configured = asyncio.Event()
        self._ready, self._begun = asyncio.Event(), asyncio.Event()
        self._process: WorkerProcess | None = None
        self._links: Sequence[LoopLink] = ()
        self._held = HeldSpeech()
        self._calls: set[tuple[Slot, Epoch]] = set()
        """Of which something went to the transcriber, and whose end has not come."""
        self._alive_s = 0.0
        self.losses = self.hangs = 0
        self.missed = 0
        """Frames that it did not hear, because it was away or late; those of calls that are on come with their end."""

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    @property
    def process_id(self) -> int | None:
        return self._process.process_id if self._process else None

    @property
    def vitals(self) -> WorkerVitals | None:
        return self._process.vitals if self._process else None

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def wait_begun(self) -> None:
        """Wait until the first process is ready, or over: one that cannot run is not waited for again."""
        await self._begun.wait()

    def configure(self, config: TranscriberConfig) -> None:
        """All that it needs is known; `run` goes on."""
        self._config = config
        self._configured.set()

    def send(self, message: SpeechMessage) -> None:
        """Never waits; while the transcriber is not ready, what the callers say is lost and transcripts end at once.

        So does that of a call of which the transcriber has heard nothing.
        """
        self._send_all(self._held.add(message))

    def on_answer(self, frame: Frame) -> None:
        """The pipeline has answered a frame."""
        self._send_all(self._held.answered(frame))

    def _send_all(self, messages: Iterable[SpeechMessage]) -> None:
        for message in messages:
            self._send(message)

    def _send(self, message: SpeechMessage) -> None:
        match message:
            case Speech() if not self.ready:
                self.missed += 1
            case SpeechEnded(slot, epoch) if not self.ready or (slot, epoch) not in self._calls:
                self._handle(TranscriptEnd(slot, epoch))
            case Speech(slot, epoch):
                self._calls.add((slot, epoch))
                self._links[0].send(message)
            case SpeechEnded():
                self._links[0].send(message)

    def end_calls(self) -> None:
        """The pipeline is lost: nobody says any more."""
        self._send_all(self._held.flush())
        for slot, epoch in self._calls if self.ready else ():
            self._links[0].send(SpeechEnded(slot, epoch))

    async def run(self) -> None:
        """Keep the transcriber running until cancelled, then end it."""
        await self._configured.wait()
        failures = 0
        while True:
            try:
                reason = await self._run_process()
            finally:
                was_ready = self.ready
                self._begun.set()
                await self._end_process()
            failures = 0 if was_ready else failures + 1
            self.losses += 1
            log.error("the transcriber %s, it is started again; calls go on without their words", reason)
            await asyncio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])

    async def _run_process(self) -> str:
        """Run one process; return why it is over."""
        assert self._config
        process = self._process = WorkerProcess(TRANSCRIBER, self._handle_control)
        try:
            (out, there), (back, here) = pair(), pair()
            self._links = LoopLink(out, self._handle), LoopLink(here, self._handle)
            with there, back:
                await process.start([there, back])
        except OSError as error:
            return f"cannot start ({error.strerror})"
        assert process.exit
        process.send(self._config)
        checked_s = self._alive_s = time.monotonic()
        next_ping_s = 0.0
        while not process.exit.done():
            await asyncio.wait({process.exit}, timeout=CHECK_EVERY_S)
            now = time.monotonic()
            if now - checked_s > JUMP_S:
                self._alive_s = now
            checked_s = now
            if now - self._alive_s > (self._limits.beside_s if self.ready else self._limits.start_s):
                self.hangs += 1
                return "hangs"
            if self.ready and now >= next_ping_s:
                next_ping_s = now + PING_EVERY_S
                process.send(Ping())
        process.read_control()
        self._links[1].read()
        return f"refuses to start ({process.refusal})" if process.refusal else f"is gone ({process.ending})"

    async def _end_process(self) -> None:
        self._ready.clear()
        for link in self._links:
            link.close()
        self._links = ()
        if process := self._process:
            process.close()
            process.kill()
            if process.exit:
                await asyncio.wait({process.exit}, timeout=JUMP_S)
        for slot, epoch in list(self._calls):
            self._handle(TranscriptEnd(slot, epoch))

    def _handle(self, message: TranscriptMessage) -> None:
        if isinstance(message, TranscriptEnd):
            self._calls.discard((message.slot, message.epoch))
            self.missed += message.missed
        try:
            self._on_transcript(message)
        except Exception:
            log.exception("slot %d: %s cannot be handled", message.slot, type(message).__name__)

    def _handle_control(self, message: FromWorker) -> None:
        process, self._alive_s = self._process, time.monotonic()
        assert process
        match message:
            case Progress():
                pass
            case Ready(note):
                log.info("the transcriber is ready: %s", note)
                process.ready = True
                self._ready.set()
                self._begun.set()
            case StartRefused(reason):
                process.refusal = reason
            case WorkerVitals():
                process.vitals = message
            case _:
                raise TypeError(f"no message of the transcriber: {message!r}")
