"""What nodes send each other, as JSON, checked like any peer's input.

Two versions run side by side while nodes are replaced: a field may be added, with a default, and none is ever removed
or given another meaning; fields that are not known are ignored. `v` says which version wrote a message.
"""

from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.twilio.events import CallSid
from app.twilio.form import Form

VERSION = 1
FRESH_S = 20.0
"""How old a message may be, or how far in the future of this clock: what was recorded has no effect later."""

Sid = Annotated[CallSid, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,128}$")]
Text = Annotated[str, Field(max_length=512)]
FormFields = Annotated[dict[Text, Annotated[str, Field(max_length=65_536)]], Field(max_length=1_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
EpochNumber = Annotated[int, Field(ge=1, lt=2**53)]
Number = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, lt=2**53)]
_CHECKED = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class NodeMessage(BaseModel):
    """What every message has in common; `sent_s` in seconds since 1970, by the clock of who sent it."""

    model_config = _CHECKED

    v: Annotated[int, Field(ge=1)] = VERSION
    sent_s: Seconds = 0.0

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()

    def fits(self, subject: str, now_s: float) -> bool:
        """Return whether it was sent just now, by a node that may publish here; `now_s` in seconds since 1970."""
        return abs(now_s - self.sent_s) <= FRESH_S


class Move(BaseModel):
    """A call went on at the node that says so; `moved_s` in seconds since 1970, `steps` of its log were found."""

    model_config = _CHECKED

    call: Sid
    from_node: Text
    moved_s: Seconds
    steps: Count = 0


class Heartbeat(NodeMessage):
    """How a node is; `boot` is the id of its process, which numbers its heartbeats.

    `calls` are those that it owns, with their epochs. After `bye` it has no calls, and is not dead.
    """

    node: NodeName
    boot: NodeName
    url: Text
    slots: Count
    free: Count
    calls: Annotated[dict[Sid, EpochNumber], Field(max_length=4_096)] = {}
    draining: bool = False
    bye: bool = False
    waiting: Count = 0
    checkpoint: Text = ""
    version: Text = ""
    moves: Annotated[tuple[Move, ...], Field(max_length=32)] = ()
    number: Number = 0

    def fits(self, subject: str, now_s: float) -> bool:
        """Return whether it is of the node whose subject this is; `Directory.is_new` says whether it is of now."""
        return subject == f"hb.{self.node}"


class Ask(NodeMessage):
    """Who has a slot for this call, or has the call?"""

    call: Sid


class Offer(NodeMessage):
    """A node's answer to `Ask`; `holds` is the epoch of the call if it owns it, or knows how it ended."""

    node: NodeName
    free: Count
    draining: bool = False
    holds: EpochNumber | None = None


class Hook(StrEnum):
    """A webhook that another node may answer."""

    VOICE = "voice"
    AFTER_STREAM = "after-stream"


class FormMessage(NodeMessage):
    """The form of a webhook whose signature has been checked; `token` is its I-Twilio-Idempotency-Token."""

    call: Sid
    form: FormFields
    query: Text = ""
    token: Text = ""

    @classmethod
    def of(cls, form: Form, **more: Any) -> Self:
        return cls(call=form.call_sid, form=dict(form.fields), query=form.query, **more)

    def as_form(self) -> Form:
        return Form(self.call, self.form, self.query)


class PlaceRequest(FormMessage):
    """Answer this webhook, and own the call with this `epoch`.

    A node that has had the call with an epoch of `newest` or more goes on with what it has. `resumes` if the call may
    have a token log, of the node that it `came_from`.
    """

    hook: Annotated[Hook, Field(strict=False)] = Hook.VOICE
    epoch: EpochNumber = 1
    newest: Number = 0
    resumes: bool = False
    came_from: Text = ""


class PlaceAnswer(NodeMessage):
    """The answer to `PlaceRequest`: TwiML, "" without a slot."""

    node: NodeName
    twiml: Annotated[str, Field(max_length=16_384)] = ""


class Wait(FormMessage):
    """A caller waits for a slot, since `since_s`, seconds since 1970 by the clock of the node that got the call."""

    since_s: Seconds


class Left(NodeMessage):
    """A caller waits no more. One who has a slot (`placed`) is to leave Twilio's queue, if not `redirected`."""

    call: Sid
    placed: bool = False
    redirected: bool = False


class Status(FormMessage):
    """Twilio's status callback, which `node` has received, or that a caller has left the queue."""

    node: NodeName


class DrainOrder(NodeMessage):
    """Drain; the calls may go on for `seconds`, None for as long as the node's settings say."""

    seconds: Annotated[int, Field(ge=0, le=14_400)] | None = None


AnyMessage = TypeVar("AnyMessage", bound=NodeMessage)


def parse(kind: type[AnyMessage], body: bytes) -> AnyMessage | None:
    """Return the message, None if it is none of this kind."""
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        return None


def node_name(url: str) -> str:
    """Return the name of the node whose NODE_URL this is."""
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in host)[:128]
