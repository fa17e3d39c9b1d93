"""What the routes for operators answer and are sent: from these `GET /api/openapi.json` is generated.

Times that end in `_s` are seconds since the call's slot was reserved, unless they say otherwise.
"""

from typing import Any, get_type_hints

from pydantic import BaseModel, create_model

from app.calls.end_reason import EndReason
from app.calls.record_json import Exact, WordRow
from app.calls.transcript import Word
from app.telemetry.call_log import search
from app.telemetry.call_log.entry import KINDS, CallEntry, EventEntry, StreamEntry


class CallSidAnswer(Exact):
    call_sid: str


class SayRequest(Exact):
    text: str


class SayAnswer(Exact):
    """`whole` only with `?wait=true`: whether no word was left out."""

    id: int
    whole: bool | None = None


class TransferRequest(Exact):
    """A number or SIP address; "" for that of the persona or TRANSFER_TO."""

    to: str = ""


class TransferAnswer(Exact):
    call_sid: str
    to: str


class DrainAnswer(Exact):
    calls: int
    seconds: float


class LoopLag(Exact):
    p50_ms: float
    p99_ms: float
    p100_ms: float


class PublicAnswer(Exact):
    base_url: str
    open: bool
    service: str


class ReadyAnswer(Exact):
    ready: bool
    free_slots: int
    calls: int
    suspended: int
    draining: bool
    pipeline: str


class AliveAnswer(Exact):
    status: str


class PersonaAnswer(Exact):
    name: str
    default: bool
    numbers: list[str]
    greeting: str
    voice: str
    prompt_characters: int
    prompt_steps: int | None
    prompt_bytes: int | None
    prompt_refused: str


class PromptRequest(Exact):
    text: str
    persona: str = ""


class PromptAnswer(Exact):
    id: str


class SentenceCounts(Exact):
    queued: int
    said: int
    cut: int


class LiveTranscript(Exact):
    """`first` is the number of the first word that is told."""

    first: int
    words: list[WordRow]


class LiveParties(Exact):
    call_sid: str
    number: str
    direction: str
    persona: str


class LiveCall(LiveParties):
    slot: int
    state: str
    for_s: float
    caller_dbfs: float
    moshi_dbfs: float
    latency_ms: float | None
    buffered_ms: float
    stages_ms: dict[str, float]
    overruns: int
    dropped: int
    resumed: int
    sentences: SentenceCounts
    transcript: LiveTranscript


class LiveSnapshot(Exact):
    """`now_s` and the first number of each step are seconds of the service's own clock."""

    now_s: float
    ready: bool
    pipeline: str
    draining: bool
    slots: int
    free_slots: int
    waiting: int
    model: str
    frame_period_ms: float
    processing_ms: float
    lag_ms: float
    steps: list[tuple[float, float]]
    calls: list[LiveCall]
    cluster: dict[str, Any] | None = None
    """With NATS_URL all nodes, as in `/api/cluster`."""


class LiveDetail(LiveParties):
    end: EndReason | None
    detail: str
    started_s: float | None
    ended_s: float | None
    counts: dict[str, int]
    transcript: LiveTranscript
    latencies_ms: list[float]


class Outline(Exact):
    """The waveform of one side: the least and the greatest sample of each stretch."""

    min: list[float]
    max: list[float]


class Waveform(Exact):
    call_sid: str
    live: bool
    seconds: float
    buckets: int
    caller: Outline
    moshi: Outline


def _fields_of(kind: type, *left_out: str) -> dict[str, Any]:
    return {name: (hint, ...) for name, hint in get_type_hints(kind).items() if name not in left_out}


FoundTurn = create_model("FoundTurn", __base__=Exact, **_fields_of(search.FoundTurn))
KeptWord = create_model("KeptWord", __base__=Exact, **_fields_of(Word))
KeptEvent = create_model("KeptEvent", __base__=Exact, **_fields_of(EventEntry))
KeptStream = create_model("KeptStream", __base__=Exact, **_fields_of(StreamEntry))
KeptCall = create_model("KeptCall", __base__=Exact, **_fields_of(CallEntry, "caller", "called", *KINDS))
"""A call of the call log."""
WholeKeptCall = create_model(
    "WholeKeptCall",
    __base__=KeptCall,
    transcript=(list[KeptWord], ...),
    events=(list[KeptEvent], ...),
    streams=(list[KeptStream], ...),
)


def body_of(model: type[BaseModel]) -> dict[str, object]:
    """Return the description of what is sent, for a route that reads it itself."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
