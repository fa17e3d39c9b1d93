"""Who speaks in the calls: the pipeline of this machine, or Moshi servers elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workers.messages import Epoch, Message, PipelineMessage, Slot, Stage
from workers.supervisor import WorkerState

if TYPE_CHECKING:
    from workers.transcription import Transcription


@dataclass(frozen=True, slots=True)
class Moved:
    """A call goes on at another Moshi server, which remembers nothing of it, for this reason."""

    slot: Slot
    epoch: Epoch
    reason: str


BackendMessage = PipelineMessage | Moved
"""What comes from a backend to a call."""


@dataclass(frozen=True, slots=True)
class ServerVitals:
    """A Moshi server: sessions that are on, how many it may have, whether it takes more, how often it failed."""

    name: str
    sessions: int
    limit: int
    up: bool
    failures: int


class SpeechBackend(Protocol):
    """Messages of calls go in by `send`; who makes it says where those to the calls come out."""

    def send(self, message: Message) -> None:
        """Send a message. Never waits."""

    @property
    def ready(self) -> bool:
        """Whether a call could begin now."""

    @property
    def answering(self) -> bool:
        """Whether it has lately shown a sign of life."""

    @property
    def slots(self) -> int:
        """How many calls it serves; 0 while that is not known."""

    @property
    def checkpoint(self) -> str:
        """The digest of what speaks, "" if there is none: see `workers.control_messages.Prepared`."""

    @property
    def transcription(self) -> "Transcription | None":
        """What writes down the callers' words, None if nothing does."""

    @property
    def sampling(self) -> tuple[tuple[str, float], ...]:
        """How it samples, by the names of the fields of `SamplingSettings`; empty if that is not known."""

    @property
    def process_ids(self) -> Mapping[Stage, int]: ...

    @property
    def workers(self) -> Sequence[WorkerState]: ...

    @property
    def dropped(self) -> int:
        """Frames of callers that found no room on their way."""

    async def wait_ready(self) -> None: ...

    async def run(self) -> None:
        """Keep it running until cancelled, then stop it."""
