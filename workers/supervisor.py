"""Starts the pipeline, watches it, and starts again what is lost of it.

When encoder or decoder ends or hangs (`workers.liveness`), these two are ended and started again, and the engine lives
on with its weights. When the engine does, or any worker during a start, all three are. That is at once, or after a
growing pause when the last pipeline did not live to answer a ping. A worker that refuses its configuration before the
pipeline was ever ready ends the service (`WorkerRefused`). All processes start at once; the codec's wait for the engine
to find the checkpoint and the number of slots.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from workers.control_messages import (
    TRANSCRIBER,
    FromWorker,
    Prepared,
    Progress,
    Ready,
    StartRefused,
    TranscriberConfig,
    WorkerConfig,
    WorkerVitals,
)
from workers.liveness import CHECK_EVERY_S, PING_EVERY_S, Limits, Liveness, Loss
from workers.messages import (
    Close,
    CodeArray,
    Frame,
    Message,
    PipelineMessage,
    PromptMessage,
    SamplingChanges,
    Speech,
    SpeechEnded,
    Stage,
    TranscriptMessage,
)
from workers.pipeline import CODEC, Pipeline
from workers.transcription import Transcription

log = logging.getLogger(__name__)

BACK_OFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
FAILED_STARTS = 4
"""After so many, without one that succeeded, the service ends."""


class WorkerRefused(Exception):
    """A worker cannot run with these settings; the message is one line that names the setting."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as metrics show it; `losses` counts how often it was the one lost, `hangs` those by a hang."""

    name: str
    ready: bool
    vitals: WorkerVitals | None
    losses: int
    hangs: int


class Supervisor:
    """Runs the pipeline.

    `on_message` gets what comes out of it, `on_prompt` the answers about prompts, `on_transcript` what the callers say
    (if `config.transcribe` names a checkpoint), `on_lost` why it was lost (a short phrase), `on_progress` the progress
    of a long start; all on the event loop that `run` runs on. A pipeline that is started again knows no prompts.
    """

    def __init__(
        self,
        config: WorkerConfig,
        on_message: Callable[[PipelineMessage], None],
        on_lost: Callable[[str], None],
        on_progress: Callable[[Progress], None],
        limits: Limits | None = None,
        on_prompt: Callable[[PromptMessage], None] = lambda _: None,
        on_transcript: Callable[[TranscriptMessage], None] = lambda _: None,
    ) -> None:
        self._config = config
        self.sampling: SamplingChanges = ()
        """Of the engine, as in `Ready`, once it is that."""
        self._on_message, self._on_prompt = on_message, on_prompt
        self._on_lost, self._on_progress = on_lost, on_progress
        self._limits = limits
        self._pipeline = Pipeline(self._handle_message, self._handle_control)
        self.transcription = Transcription(on_transcript, limits) if config.transcribe else None
        """The transcriber beside the pipeline; None if the callers' words are not wanted."""
        self._speech_to_text: Path | None = None
        self._liveness = Liveness(0.0, limits)
        self._ready = asyncio.Event()
        self._was_ready = False
        self._next_ping_s = 0.0
        self._failures = 0
        self._losses, self._hangs = Counter[Stage](), Counter[Stage]()
        self._dropped = 0
        self._late_closes: list[Close] = []
        self.checkpoint = ""
        """The digest of what the engine has loaded, see `Prepared`."""

    def send(self, message: Message) -> None:
        """Send a message into the pipeline. Never waits; messages for a pipeline that is not ready are lost.

        But a `Close` is sent once it is ready: the engine may have kept the call.
        """
        if self.ready:
            self._liveness.sent(message, time.monotonic())
            self._pipeline.send(message)
        elif isinstance(message, Close):
            self._late_closes.append(message)

    @property
    def ready(self) -> bool:
        """Whether every worker is ready, and none is known to hang."""
        return self._ready.is_set()

    @property
    def answering(self) -> bool:
        """Whether every worker is ready and has lately shown a sign of life."""
        return self.ready and self._liveness.answering(time.monotonic())

    @property
    def slots(self) -> int:
        """How many calls the workers serve; 0 until the engine knows."""
        return self._config.slots

    @property
    def process_ids(self) -> dict[Stage, int]:
        return {stage: worker.process_id for stage, worker in self._pipeline.workers.items() if worker.process_id}

    @property
    def workers(self) -> list[WorkerState]:
        """The stages, and the transcriber if there is one."""
        states = [
            WorkerState(stage, worker.ready, worker.vitals, self._losses[stage], self._hangs[stage])
            for stage, worker in self._pipeline.workers.items()
        ]
        beside = self.transcription
        more = [WorkerState(TRANSCRIBER, beside.ready, beside.vitals, beside.losses, beside.hangs)] if beside else []
        return states + more

    @property
    def dropped(self) -> int:
        """Frames of the app's that found no room on the way to the encoder."""
        return self._dropped + self._pipeline.dropped

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def run(self) -> None:
        """Keep the pipeline running until cancelled, then stop it. Raises WorkerRefused."""
        beside = asyncio.create_task(self._transcribe())
        try:
            while True:
                loss = await self._run_pipeline()
                engine_stays = self._engine_stays(loss)
                self._report_loss(loss, "encoder and decoder are" if engine_stays else "the pipeline is")
                await (self._pipeline.end_codec() if engine_stays else self._end_pipeline())
                await asyncio.sleep(BACK_OFF_S[min(self._failures, len(BACK_OFF_S)) - 1])
        except asyncio.CancelledError:
            await self._pipeline.stop()
            raise
        finally:
            beside.cancel()
            self._ready.clear()
            await self._end_pipeline()
            await asyncio.wait({beside})

    async def _transcribe(self) -> None:
        """Run the transcriber, if there is one, until cancelled; no error of ours in it ends a call."""
        if self.transcription:
            try:
                await self.transcription.run()
            except Exception:
                log.exception("the transcriber cannot be run any more; calls go on without their words")

    def _engine_stays(self, loss: Loss) -> bool:
        """Whether encoder and decoder are to be started again alone; after a start that fails, all are."""
        return self.ready and loss.stage in CODEC and self._pipeline.engine_can_stay

    async def _end_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, Pipeline(self._handle_message, self._handle_control)
        self._late_closes.clear()
        self._dropped += pipeline.dropped
        await pipeline.kill()

    async def _run_pipeline(self) -> Loss:
        pipeline = self._pipeline
        self._liveness = Liveness(time.monotonic(), self._limits)
        engine_stays = pipeline.workers[Stage.STEP].ready
        try:
            await pipeline.start()
        except OSError as error:  # no memory for another process, say
            return Loss(Stage.ENCODE, f"cannot start: {error.strerror}", refused=True)
        if engine_stays:
            self._liveness.ready(Stage.STEP, time.monotonic())
        for stage in CODEC if engine_stays else Stage if self._was_ready else (Stage.STEP,):
            self._configure(stage)
        while True:
            if loss := await pipeline.wait_loss(CHECK_EVERY_S):
                return loss
            now = time.monotonic()
            self._ping(now)
            if loss := self._liveness.hang(now):
                return loss

    def _report_loss(self, loss: Loss, what_is: str) -> None:
        """Report a loss before the processes are ended: one that hangs in a driver may take long."""
        self._ready.clear()
        if self.transcription:
            self.transcription.end_calls()
        self._losses[loss.stage] += 1
        self._hangs[loss.stage] += loss.hangs
        self._failures += 1
        if not self._was_ready and loss.refused:
            raise WorkerRefused(loss.reason)
        if not self._was_ready and self._failures >= FAILED_STARTS:
            raise WorkerRefused(f"worker {loss.stage} fails at each start ({loss.reason}); its log lines are above")
        what = "hangs" if loss.hangs else "refuses to start" if loss.refused else "is gone"
        log.error("worker %s %s (%s), %s started again", loss.stage, what, loss.reason, what_is)
        self._on_lost(f"{loss.stage}: {'hangs, ' if loss.hangs else ''}{loss.reason}")

    def _ping(self, now: float) -> None:
        if now >= self._next_ping_s:
            self._next_ping_s = now + PING_EVERY_S
            self._pipeline.ping()

    def _configure(self, stage: Stage) -> None:
        self._pipeline.workers[stage].send(replace(self._config, stage=stage, again=self._was_ready))
        self._liveness.started(stage, time.monotonic())

    def _handle_message(self, message: Message) -> None:
        self._liveness.received(message, time.monotonic())
        if isinstance(message, PromptMessage):
            self._on_prompt(message)
        else:
            self._on_message(message)
        if self.transcription and isinstance(message, Frame):
            self.transcription.on_answer(message)

    def _handle_control(self, stage: Stage, message: FromWorker) -> None:
        worker, now = self._pipeline.workers[stage], time.monotonic()
        match message:
            case Progress():
                self._liveness.progressed(stage, now)
                if not worker.ready:
                    self._on_progress(message)
            case Prepared():
                self._liveness.progressed(stage, now)
                self._configure_codec(message)
            case Ready(note, sampling, silence):
                worker.ready = True
                log.info("worker %s is ready: %s", stage, note)
                self._liveness.ready(stage, now)
                self.sampling = sampling or self.sampling
                self._begin_if_ready(now)
                if silence is not None:
                    self._config = replace(self._config, silence=silence)
                    self._configure_transcriber(silence)
            case Speech() | SpeechEnded():
                if self.transcription:
                    self.transcription.send(message)
            case StartRefused(reason):
                worker.refusal = reason
            case WorkerVitals():
                self._liveness.answered(stage, message.work_s, now)
                worker.vitals = message
                if self.ready:
                    self._failures = 0

    def _configure_codec(self, prepared: Prepared) -> None:
        """Configure the workers that wait for it; those of a later pipeline have been: it serves as many slots."""
        self.checkpoint = prepared.checkpoint
        if self._was_ready:
            return
        self._config = replace(self._config, mimi=prepared.mimi, slots=self._config.slots or prepared.slots)
        self._speech_to_text = prepared.speech_to_text
        for stage in CODEC:
            self._configure(stage)

    def _configure_transcriber(self, silence: CodeArray) -> None:
        if self.transcription and self._speech_to_text:
            config = self._config
            sizes = config.quantize, config.slots
            self.transcription.configure(TranscriberConfig(self._speech_to_text, *sizes, silence, config.log_format))

    def _begin_if_ready(self, now: float) -> None:
        if self._pipeline.ready:
            self._was_ready = True
            self._next_ping_s = now
            self._ready.set()
            while self._late_closes:
                self.send(self._late_closes.pop())
