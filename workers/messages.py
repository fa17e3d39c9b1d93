"""The messages of calls and prompts that pass between processes.

With those between the supervisor and each worker (`workers.control_messages`) they are the whole contract.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1_920
FRAME_S = 0.08
CODEBOOKS = 8
SPEECH_CODEBOOKS = 32
"""All that Mimi has; speech-to-text reads every one of them, Moshi the first eight."""
CODES = 2_048
"""Entries of a codebook."""
STEP_TOKENS = 1 + 2 * CODEBOOKS
"""What a step of Moshi reads: a text token, Moshi's eight codes, the caller's eight."""
GAP_FRAMES = 12
"""How many of the caller's frames may queue until a call that comes back has caught up: about a second."""
GREETING = 0
"""The number of the greeting among the sentences of a call."""

Slot = NewType("Slot", int)
Epoch = NewType("Epoch", int)
Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1] at 24 kHz; one frame has the shape (1920,)."""
CodeArray = NDArray[np.int32]
"""Codes of one frame, shape (8,), each in 0..2047; of many frames, shape (frames, 8)."""
Payload = CodeArray | Pcm
"""What travels as codes: between loopback stages it is the PCM itself."""
SamplingChanges = tuple[tuple[str, float], ...]
"""What replaces the checkpoint's way of sampling, by the names of the fields of `SamplingSettings`."""


class Stage(StrEnum):
    """The stages of the pipeline, in the order in which a frame passes them; each is one process."""

    ENCODE = "encode"
    STEP = "step"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Span:
    """When one stage worked on one frame, in seconds of the machine-wide monotonic clock."""

    stage: Stage
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class CallPersona:
    """Who speaks in a call, as far as the engine must know.

    `greeting` are words to say first, "" for what Moshi says by itself; until the last of them the caller is not heard,
    unless Moshi `listens`. `prompt` is the key of a `PreparePrompt`, "" for none.
    """

    greeting: str = ""
    listens: bool = False
    prompt: str = ""
    sampling: SamplingChanges = ()


@dataclass(frozen=True, slots=True)
class CallMessage:
    """A message of one call.

    The app raises the `epoch` each time it gives out a `slot`; every stage drops messages of an earlier epoch.
    """

    slot: Slot
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Open(CallMessage):
    """Give a slot to a new call: every stage forgets the last one.

    `greeting_frames` frames of silence take the place of the caller's before their first one; the encoder adds the
    `silence` codes that belong to them, shape (greeting_frames, 8), and more of them for the caller's frames in a
    greeting of the `persona`. With a `seed` Moshi samples the same way again.
    """

    greeting_frames: int = 0
    silence: Payload | None = None
    seed: int | None = None
    persona: CallPersona = CallPersona()


@dataclass(frozen=True, slots=True)
class Resume(CallMessage):
    """Go on in a slot, in place of `Open`, with a call that another pipeline had or that comes back.

    `log` are the last steps of the call, as in `Frame.tokens`, after `skipped` earlier ones that are no longer known.
    The engine prefills them within `budget_s`: where the time is short it leaves out the first ones, but never the last
    `context`. `seed` and `persona` are those of the call's `Open`; the greeting is over. A `checkpoint` other than the
    engine's own is refused, "" fits any.

    The encoder gets back to where it was from `heard`, the caller's last frames of the `log`, int16 (frames, 1920); the
    decoder from `own_codes`, Moshi's last frames, (frames, 8), which the engine reads in the `log`. `gap` are frames
    that the caller spoke since, the first numbered `seq`; more come as `Frame`s. The engine steps the last `GAP_FRAMES`
    of all that at once when the call is back. Each stage removes what only it needs.
    """

    log: bytes
    seq: int
    budget_s: float
    skipped: int = 0
    seed: int | None = None
    persona: CallPersona = CallPersona()
    checkpoint: str = ""
    heard: NDArray[np.int16] | None = None
    gap: NDArray[np.int16] | None = None
    own_codes: Payload | None = None


@dataclass(frozen=True, slots=True)
class Resumed(CallMessage):
    """A call goes on: `steps` of its log were prefilled, `left_out` earlier ones are forgotten.

    From the encoder to the engine it says the same of the frames in `heard`; all codes of the gap have been sent.
    """

    steps: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Close(CallMessage):
    """The call in this slot is over."""


@dataclass(frozen=True, slots=True)
class Frame(CallMessage):
    """One frame of PCM: from the caller (app to encoder) or to the caller (decoder to app).

    `seq` counts the frames of the greeting and on through the caller's; outbound it is that of the frame read in the
    step that yielded this one, and `text` is Moshi's text of that step ("" for none). `pcm`, float32 (1920,), is at
    times shorter if it comes from a Moshi server elsewhere, and None for the first steps of a call, which yield no
    sound yet because of the acoustic delay. `dropped` counts the caller's frames that were dropped on the way because
    newer ones had arrived. `tokens` are those read and sampled in that step, 17 little-endian int16 as in the engine's
    `StepResult.log`; inbound it is empty.
    """

    seq: int
    pcm: Pcm | None
    text: str = ""
    dropped: int = 0
    spans: tuple[Span, ...] = ()
    tokens: bytes = b""


@dataclass(frozen=True, slots=True)
class Codes(CallMessage):
    """One frame as codes: the caller's (encoder to engine) or Moshi's (engine to decoder); otherwise as `Frame`."""

    seq: int
    codes: Payload | None
    text: str = ""
    dropped: int = 0
    spans: tuple[Span, ...] = ()
    tokens: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed(CallMessage):
    """A stage could not go on with this call; the call must end, the others go on.

    `internal`: because of an error in our own code, whose traceback is in that process's log.
    """

    stage: Stage
    reason: str
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Say(CallMessage):
    """Moshi is to say a text, word for word, after those that wait already; `sentence` is its number, from 1."""

    sentence: int
    text: str


@dataclass(frozen=True, slots=True)
class Said(CallMessage):
    """A text of `Say` is over, or the `GREETING`; `whole` unless words were left out for lack of time."""

    sentence: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Speech(CallMessage):
    """One frame of the caller's as all codes that Mimi makes of it, int32 (32,): encoder to app to transcriber.

    `seq` is that of the frame. The first one of an epoch begins a call; frames may be missing.
    """

    seq: int
    codes: CodeArray


@dataclass(frozen=True, slots=True)
class SpeechEnded(CallMessage):
    """The caller says no more: their last words are wanted."""


@dataclass(frozen=True, slots=True)
class Heard(CallMessage):
    """A word that the caller has said, without spaces around it; transcriber to app.

    `start_s` and `stop_s` are on the clock of the call's frames, on which frame `seq` begins at `seq * FRAME_S`. The
    caller's first frame is number `greeting_frames` of the call's `Open`, and begins `takeover_s` after the stream's
    start: seconds of the stream are `start_s - greeting_frames * FRAME_S + takeover_s`. The word comes about half a
    second after it was said (the checkpoint's delay), the last ones after the call's `Close`.
    """

    word: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class TurnOver(CallMessage):
    """The caller seems to have said all they wanted, at `at_s` on the same clock: once after one or more words.

    Only checkpoints with heads for it say so; with others a pause has to do.
    """

    at_s: float


@dataclass(frozen=True, slots=True)
class TranscriptEnd(CallMessage):
    """No more words of a call come; `missed` of its frames were dropped unheard.

    One comes for each call after its `Close`, at once if the transcriber has heard nothing of it or does not run; for
    those that are on when the transcriber is lost, at once. After a loss words may follow once the transcriber runs
    again, with another end.
    """

    missed: int = 0


@dataclass(frozen=True, slots=True)
class PreparePrompt:
    """Compute the prompt of a persona, so that calls can begin with it: app to encoder to engine.

    `key` is a digest of all that it is made from. `text` is the system text. `voice` is the absolute path of a file of
    embeddings, or the name of a voice that comes with the checkpoint, "" for none; `pcm` instead the recording of a
    voice, float32 (frames, 1920), of which the encoder makes `codes`, int32 (frames, 8).
    """

    key: str
    text: str
    voice: str = ""
    pcm: Pcm | None = None
    codes: CodeArray | None = None


@dataclass(frozen=True, slots=True)
class PromptReady:
    """A prompt is computed: it takes so many steps of a call's memory, and so many bytes while it is kept."""

    key: str
    positions: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class PromptRefused:
    """A prompt cannot be computed; `reason` is one line."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class DropPrompt:
    """No call will begin with this prompt any more."""

    key: str


PipelineMessage = Open | Resume | Resumed | Close | Frame | Codes | Failed | Say | Said
PromptMessage = PreparePrompt | PromptReady | PromptRefused | DropPrompt
"""Messages of no call; they pass through the same links."""
Message = PipelineMessage | PromptMessage
TranscriptMessage = Heard | TurnOver | TranscriptEnd
"""From the transcriber to `Supervisor.on_transcript`, in order for each call."""
SpeechMessage = Speech | SpeechEnded
"""From the encoder to the transcriber."""
