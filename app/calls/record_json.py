"""The record of a call for machines: these models are its JSON and, in the API, the description of that.

Times that end in `_s` are seconds since the call's slot was reserved, unless they say otherwise.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.calls.transcript import Side, Word
from app.twilio.parties import mask_number
from workers.messages import Span


def _since_reserved(moment_s: float | None, info: ValidationInfo) -> float | None:
    return None if moment_s is None else round(moment_s - info.context["reserved_s"], 4)  # type: ignore[index]


def _span_row(span: Span) -> tuple[str, float, float]:
    return span.stage, span.started_s, span.ended_s


Moment = Annotated[float, BeforeValidator(_since_reserved)]
"""Of the monotonic clock, as the record has it."""
MomentOrNone = Annotated[float | None, BeforeValidator(_since_reserved)]
InShort = Annotated[str, BeforeValidator(str)]
WordRow = Annotated[tuple[Side, str, float, float], BeforeValidator(Word.as_json)]
"""Who said it, the word, from when, to when."""
SpanRow = Annotated[tuple[str, Moment, Moment], BeforeValidator(_span_row)]


class Exact(BaseModel):
    """No field is left out, none is more."""

    model_config = ConfigDict(extra="forbid")


class TransferJson(Exact):
    to: Annotated[str, BeforeValidator(mask_number)]
    by: str
    at_s: Moment
    status: str
    duration_s: int | None
    ended_s: MomentOrNone


class GapJson(Exact):
    """How long Moshi did not hear the caller: `seconds` is None while that lasts; `left_out` steps are forgotten."""

    reason: str
    began_s: Moment
    seconds: float | None
    steps: int
    left_out: int


class Stream(Exact):
    number: int
    reserved_s: Moment
    connected_s: MomentOrNone
    started_s: MomentOrNone
    ended_s: MomentOrNone
    end: EndReason | None
    detail: str
    recording: InShort


class CallSummary(Exact):
    """A call that this run of the service has had."""

    call_sid: str
    persona: str
    started_s: MomentOrNone
    ended_s: MomentOrNone
    end: EndReason | None
    detail: str
    status: str
    error_code: int | None
    counts: dict[str, int]


class Call(CallSummary):
    greeting_frames: int
    takeover_s: float
    refused: str
    duration_s: int | None
    stream_error: str
    connected_s: MomentOrNone
    first_sound_s: MomentOrNone
    greeting_said_s: MomentOrNone
    advice: str
    recording: InShort
    transfers: list[TransferJson]
    moves: list[tuple[Moment, str]]
    gaps: list[GapJson]
    streams: list[Stream]
    transcript: str
    words: list[WordRow]
    spans: Annotated[list[list[SpanRow]], BeforeValidator(list)]


def as_json(record: CallRecord, model: type[Exact] = Call) -> dict[str, Any]:
    """Return the record, or what another model has of it. The whole of an hour's call takes a fifth of a second."""
    return model.model_validate(record, from_attributes=True, context={"reserved_s": record.reserved_s}).model_dump()
