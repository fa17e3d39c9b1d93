"""The messages between the supervisor and one worker, over that worker's control link."""

from dataclasses import dataclass
from pathlib import Path

from workers.histogram import Histogram
from workers.logging import LineFormat
from workers.messages import CodeArray, SamplingChanges, SpeechMessage, Stage

TRANSCRIBER = "transcriber"
"""The worker beside the pipeline that writes down what the callers say: no frame waits for it."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The first message to a worker: everything it may know, since workers never read settings.

    `slots` is how many calls are served at once, 0 for as many as the engine finds it can serve; each remembers
    `context` steps, None for the checkpoint's own. `quantize` is in bits. `mimi` is where the engine found the codec's
    weights. The codec may use so many `threads`. `lora` is added to the weights, "" for none. A step of the loopback
    engine takes `loopback_step_s`. `again`: in place of a worker that was lost, so that calls wait for it. `transcribe`
    names the checkpoint of speech-to-text, "" for none. `silence`: what an earlier encoder has given in `Ready`.
    """

    stage: Stage
    slots: int
    engine: str
    codec: str
    checkpoint: str
    quantize: int | None
    cache: Path
    greeting_frames: int
    max_call_s: float
    context: int | None = None
    threads: int = 1
    loopback_step_s: float = 0.0
    mimi: Path | None = None
    sampling: SamplingChanges = ()
    log_format: LineFormat = LineFormat.TEXT
    lora: str = ""
    again: bool = False
    transcribe: str = ""
    silence: CodeArray | None = None


@dataclass(frozen=True, slots=True)
class TranscriberConfig:
    """The first message to the transcriber; `checkpoint` is a folder, `silence` the codes of silent frames, (n, 32)."""

    checkpoint: Path
    quantize: int | None
    slots: int
    silence: CodeArray
    log_format: LineFormat = LineFormat.TEXT


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long piece of work has come; `total` 0 when unknown. It also shows that the worker does not hang."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The engine knows all that the codec workers need: where Mimi's weights are, and for how many slots.

    `checkpoint` is a digest of what it has loaded: of two engines with the same one, each can go on with the other's
    calls. The line test's is "". `speech_to_text` is the folder of the checkpoint for the transcriber.
    """

    mimi: Path | None
    slots: int
    checkpoint: str = ""
    speech_to_text: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is warm. `note` says in one line what it runs on.

    `sampling` is how the engine samples unless a call says otherwise, by the names of `SamplingSettings`, and how many
    tokens the repetition penalty looks back on (`repetition_penalty_context`). `silence`: the encoder's codes of frames
    of silence, (n, 8), or (n, 32) if the caller's words are wanted; None from the line test's.
    """

    note: str
    sampling: SamplingChanges = ()
    silence: CodeArray | None = None


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The worker cannot start as configured; `reason` is one line that names the setting."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks a worker whether its loop still runs."""


@dataclass(frozen=True, slots=True)
class Relink:
    """Encoder and decoder were lost: the engine keeps its calls until they resume, and has new links to new ones."""


@dataclass(frozen=True, slots=True)
class WorkerVitals:
    """The answer to a ping: how a worker is, counted since it was started.

    `memory_bytes` is what its process holds in memory, `device_bytes` what MLX holds of the GPU's (on a Mac they
    overlap). Each unit of work (a step of the engine, a batch of the codec) took one of `work_s` seconds and served one
    of `rows` calls. `dropped` frames found no room on the way to the next worker.
    """

    memory_bytes: int
    device_bytes: int
    cpu_s: float
    work_s: Histogram
    rows: Histogram
    dropped: int


ToWorker = WorkerConfig | TranscriberConfig | Ping | Relink
FromWorker = Progress | Prepared | Ready | StartRefused | WorkerVitals | SpeechMessage
"""The encoder's `SpeechMessage`s take the control link, which the app always reads."""
