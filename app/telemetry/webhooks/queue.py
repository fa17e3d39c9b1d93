"""Which event is posted when: no I/O, `now` in seconds, monotonic.

The events of a call are posted in order, one at a time; those of several calls side by side. One that fails is posted
again after growing pauses, and lost after the last: those behind it wait. What waits is bounded: without room the
oldest event is lost. Numbers without gaps within a call let the receiver see what is missing.
"""

from collections import deque
from dataclasses import dataclass, field

from app.twilio.events import CallSid

MOST_EVENTS = 1_000
MOST_POSTS = 8
"""At a time."""
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """`id` is the same in each attempt; `body` is JSON. To one that `asks`, the answer may carry an action."""

    id: str
    call_sid: CallSid
    body: bytes
    asks: bool = False


@dataclass
class _Waiting:
    """The events of one call; `failures` of the first one, which is due at `due_s`."""

    events: deque[WebhookEvent] = field(default_factory=deque)
    failures: int = 0
    due_s: float = 0.0
    is_posted: bool = False


class DeliveryQueue:
    """`lost` counts the events that were given up."""

    def __init__(self, most_events: int = MOST_EVENTS, most_posts: int = MOST_POSTS) -> None:
        self._calls: dict[CallSid, _Waiting] = {}
        self._most_events, self._most_posts = most_events, most_posts
        self.lost = 0

    def __len__(self) -> int:
        return sum(len(waiting.events) for waiting in self._calls.values())

    def add(self, event: WebhookEvent) -> None:
        """Queue an event; without room the first of the call that has waited longest is lost."""
        if len(self) >= self._most_events:
            self._lose_oldest()
        self._calls.setdefault(event.call_sid, _Waiting()).events.append(event)

    def start_due(self, now: float) -> list[WebhookEvent]:
        """Return the events to post now; `succeeded` or `failed` is to follow for each."""
        free = self._most_posts - sum(waiting.is_posted for waiting in self._calls.values())
        due = [waiting for waiting in self._calls.values() if not waiting.is_posted and now >= waiting.due_s][:free]
        for waiting in due:
            waiting.is_posted = True
        return [waiting.events[0] for waiting in due]

    def get_timer(self) -> float | None:
        """Return when `start_due` has something, None if only after another call of a method."""
        if sum(waiting.is_posted for waiting in self._calls.values()) >= self._most_posts:
            return None
        return min((waiting.due_s for waiting in self._calls.values() if not waiting.is_posted), default=None)

    def is_due(self, now: float) -> bool:
        """Return whether `start_due` has something now."""
        due_s = self.get_timer()
        return due_s is not None and now >= due_s

    def succeeded(self, event: WebhookEvent) -> None:
        self._remove(event.call_sid)

    def failed(self, event: WebhookEvent, now: float, *, again: bool, pause_s: float = 0.0) -> bool:
        """Post it `again`, not before `pause_s`; return False if it is lost."""
        waiting = self._calls[event.call_sid]
        waiting.is_posted = False
        if not again or waiting.failures >= len(PAUSES_S):
            self.lost += 1
            self._remove(event.call_sid)
            return False
        waiting.due_s = now + max(PAUSES_S[waiting.failures], min(pause_s, PAUSES_S[-1]))
        waiting.failures += 1
        return True

    def _remove(self, call_sid: CallSid) -> None:
        waiting = self._calls.pop(call_sid)
        waiting.events.popleft()
        if waiting.events:
            self._calls[call_sid] = _Waiting(waiting.events)  # behind those that wait longer

    def _lose_oldest(self) -> None:
        for call_sid, waiting in self._calls.items():
            oldest = 1 if waiting.is_posted else 0
            if len(waiting.events) > oldest:
                del waiting.events[oldest]
                waiting.failures = waiting.failures if oldest else 0
                self.lost += 1
                if not waiting.events:
                    del self._calls[call_sid]
                return
