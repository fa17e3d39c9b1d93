"""A call's token log as records for JetStream, and back.

The first record of an epoch is the header, JSON; the others are steps: byte 1, the number of the first step, uint32,
little-endian, then `STEP_BYTES` each. A step may come twice, with the same tokens; what is missing is a hole, which the
owner fills from its memory. A node where a call goes on begins a new epoch with all that it knows of the steps
before, in order.
"""

import base64
import struct
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.calls.conversation import FULL_SCALE, STEP_BYTES, Conversation, ConversationHeader, to_int16
from workers.messages import FRAME_SAMPLES, CallPersona, PreparePrompt

MOST_BATCHED = 3_000
"""Steps of a record: 102 kB."""
MAX_HEADER_BYTES = 900_000
_STEPS = struct.Struct("<BI")
_STEPS_MARK = 1


class _Prompt(BaseModel):
    """`pcm` is base64 of int16; codes are made anew."""

    model_config = ConfigDict(frozen=True)

    key: str
    text: str
    voice: str = ""
    pcm: str | None = None


class _Header(BaseModel):
    """`resumed` is how many steps the call had made when this epoch began."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    v: Annotated[int, Field(ge=1)] = 1
    checkpoint: str
    persona: str
    greeting: str = ""
    listens: bool = False
    prompt_key: str = ""
    sampling: tuple[tuple[str, float], ...] = ()
    seed: int | None = None
    prompt: _Prompt | None = None
    began_s: Annotated[float, Field(ge=0)] = 0.0
    record: bool = False
    resumed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


def write_header(header: ConversationHeader, resumed: int) -> bytes:
    """Return the first record of an epoch; a prompt that is too long for NATS is left out."""
    call, prompt = header.call, header.prompt and _write_prompt(header.prompt)
    record = _Header(
        checkpoint=header.checkpoint,
        persona=header.persona,
        greeting=call.greeting,
        listens=call.listens,
        prompt_key=call.prompt,
        sampling=call.sampling,
        seed=header.seed,
        prompt=prompt,
        began_s=header.began_s,
        record=header.record,
        resumed=resumed,
    )
    body = record.model_dump_json().encode()
    return (
        body if len(body) <= MAX_HEADER_BYTES else record.model_copy(update={"prompt": None}).model_dump_json().encode()
    )


def _write_prompt(prompt: PreparePrompt) -> _Prompt:
    pcm = None if prompt.pcm is None else base64.b64encode(to_int16(prompt.pcm).tobytes()).decode()
    return _Prompt(key=prompt.key, text=prompt.text, voice=prompt.voice, pcm=pcm)


def _read_header(record: _Header) -> ConversationHeader:
    call = CallPersona(record.greeting, record.listens, record.prompt_key, record.sampling)
    prompt = _read_prompt(record.prompt) if record.prompt else None
    known = record.checkpoint, record.persona, call, record.seed, prompt, record.began_s, record.record
    return ConversationHeader(*known)


def _read_prompt(prompt: _Prompt) -> PreparePrompt:
    if prompt.pcm is None:
        return PreparePrompt(prompt.key, prompt.text, prompt.voice)
    samples = np.frombuffer(base64.b64decode(prompt.pcm), "<i2").astype(np.float32) / np.float32(FULL_SCALE)
    return PreparePrompt(prompt.key, prompt.text, prompt.voice, samples.reshape(-1, FRAME_SAMPLES))


def write_steps(first: int, tokens: bytes) -> bytes:
    return _STEPS.pack(_STEPS_MARK, first) + tokens


@dataclass
class LogCursor:
    """How far the log of a call is published, and confirmed: the next records to publish."""

    conversation: Conversation
    resumed: int = 0
    """Steps that the call had made when it came to this node."""
    has_header: bool = False
    published: int = 0
    confirmed: int = 0

    def next_record(self) -> bytes | None:
        if not self.has_header:
            self.has_header = True
            return write_header(self.conversation.header, self.resumed)
        first = max(self.published, self.conversation.skipped)
        last = min(self.conversation.steps, first + MOST_BATCHED)
        if first >= last:
            return None
        self.published, start = last, first - self.conversation.skipped
        log = self.conversation.log
        return write_steps(first, bytes(log[start * STEP_BYTES : (last - self.conversation.skipped) * STEP_BYTES]))

    def on_confirmed(self) -> None:
        """All records so far have arrived."""
        self.confirmed = self.published

    def rewind(self, is_empty: bool) -> None:
        """Publish again what may be lost; from the first record if the log `is_empty`, or none was confirmed."""
        self.confirmed = 0 if is_empty else self.confirmed
        self.has_header = self.confirmed > 0
        self.published = self.confirmed


@dataclass
class _Epoch:
    header: _Header | None = None
    steps: dict[int, bytes] = field(default_factory=dict)  # runs of steps, by the number of the first

    def add(self, record: bytes) -> None:
        if not record.startswith(bytes([_STEPS_MARK])):
            self.header = self.header or _parse_header(record)
        elif len(record) > _STEPS.size and (len(record) - _STEPS.size) % STEP_BYTES == 0:
            _, first = _STEPS.unpack_from(record)
            tokens = record[_STEPS.size :]
            if len(tokens) >= len(self.steps.get(first, b"")):
                self.steps[first] = tokens

    def runs(self) -> list[tuple[int, bytearray]]:
        """Return the runs without a hole, in order."""
        runs: list[tuple[int, bytearray]] = []
        for first, tokens in sorted(self.steps.items()):
            known = runs[-1][0] + len(runs[-1][1]) // STEP_BYTES if runs else -1
            if runs and first <= known:
                runs[-1][1].extend(tokens[(known - first) * STEP_BYTES :])
            else:
                runs.append((first, bytearray(tokens)))
        return runs


def _parse_header(record: bytes) -> _Header | None:
    try:
        return _Header.model_validate_json(record)
    except ValidationError:
        return None


@dataclass
class LogReader:
    """Puts the records of a call together, in any order."""

    _epochs: dict[int, _Epoch] = field(default_factory=dict)

    def add(self, epoch: int, record: bytes) -> None:
        self._epochs.setdefault(epoch, _Epoch()).add(record)

    @property
    def epoch(self) -> int:
        """The newest epoch, 0 for none."""
        return max(self._epochs, default=0)

    def conversation(self) -> Conversation | None:
        """Return the call as its newest epoch knows it, None without a header: its last steps without a hole.

        What that epoch has not published yet of the steps before it is taken from the one before.
        """
        known: Conversation | None = None
        for _, epoch in sorted(self._epochs.items()):
            try:
                known = _joined(known, epoch) or known
            except ValueError:  # a prompt that is none
                continue
        return known


def _joined(before: Conversation | None, epoch: _Epoch) -> Conversation | None:
    if epoch.header is None:
        return None
    runs, resumed = epoch.runs(), epoch.header.resumed
    first, log = runs[-1] if runs else (resumed, bytearray())
    end = first + len(log) // STEP_BYTES
    if before and before.skipped < first <= min(before.steps, resumed):
        log, first = _cut(before, before.skipped, first) + log, before.skipped
    if before and before.skipped <= end < resumed:  # the rest is not published yet
        log = log + _cut(before, end, resumed)
    return Conversation(_read_header(epoch.header), log, first)


def _cut(conversation: Conversation, first: int, end: int) -> bytearray:
    """Return the steps from `first` on, as far as they are known, to `end`."""
    start, stop = first - conversation.skipped, end - conversation.skipped
    return conversation.log[start * STEP_BYTES : stop * STEP_BYTES]
