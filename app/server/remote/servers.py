"""Which server has how many sessions, and which are set aside; `now` in seconds, monotonic.

A server that does not answer, is locked or ends a session is set aside: it gets no session until a trial has shown that
it answers again. Trials come at growing intervals; a session in which Moshi was heard resets them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from app.calls.speech_backend import ServerVitals
from app.server_urls import ServerUrl

BACK_OFF_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass
class Server:
    url: ServerUrl
    sessions: int = 0
    up: bool = False
    reason: str = "not tried yet"
    """Why it is set aside."""
    trial_s: float = 0.0
    """When it is tried again."""
    failures: int = 0
    """How often it was set aside."""
    answers: int = 0
    """How many trials it has answered."""
    _in_turn: int = 0

    @property
    def name(self) -> str:
        return self.url.shown

    @property
    def free(self) -> int:
        return max(0, self.url.sessions - self.sessions) if self.up else 0

    @property
    def load(self) -> float:
        return self.sessions / self.url.sessions

    def fail(self, reason: str, now: float) -> float:
        """Set it aside; return for how many seconds."""
        back_off_s = BACK_OFF_S[min(self._in_turn, len(BACK_OFF_S) - 1)]
        self.up, self.reason, self.trial_s = False, reason, now + back_off_s
        self._in_turn += 1
        self.failures += 1
        return back_off_s

    def is_new_loss(self, answers: int) -> bool:
        """Whether the loss of a session shows that it fails: not if it is set aside already or has answered since.

        The session was last alive after so many `answers`. A server that restarts loses all its sessions at about the
        same time.
        """
        return self.up and answers == self.answers

    def answer(self) -> None:
        self.up = True
        self.answers += 1

    def speak(self) -> None:
        """Moshi was heard."""
        self._in_turn = 0


class Servers:
    """All of them; the first one wins where two are as busy."""

    def __init__(self, urls: Iterable[ServerUrl]) -> None:
        self.all = [Server(url) for url in urls]

    @property
    def slots(self) -> int:
        return sum(server.url.sessions for server in self.all)

    @property
    def ready(self) -> bool:
        """Whether a session could begin, or could but for the sessions that are on."""
        return any(server.free for server in self.all) or all(server.up for server in self.all)

    @property
    def settled(self) -> bool:
        """Whether each has been tried, and one of them has answered."""
        return any(server.up for server in self.all) and all(server.up or server.failures for server in self.all)

    @property
    def vitals(self) -> list[ServerVitals]:
        return [
            ServerVitals(server.name, server.sessions, server.url.sessions, server.up, server.failures)
            for server in self.all
        ]

    def acquire(self) -> Server | None:
        """Return the least busy server that is up, with one session more; None if all are full or set aside."""
        free = [server for server in self.all if server.free]
        if not free:
            return None
        server = min(free, key=lambda one: one.load)
        server.sessions += 1
        return server

    def begin_trials(self, now: float) -> list[Server]:
        """Return those to be tried now; each is to `answer` or to `fail`."""
        due = [server for server in self.all if not server.up and now >= server.trial_s]
        for server in due:
            server.trial_s = math.inf
        return due

    def get_timer(self) -> float:
        """Return when the next trial is due, infinity without one."""
        return min((server.trial_s for server in self.all if not server.up), default=math.inf)

    @property
    def reasons(self) -> str:
        """Why no session can begin, in one line."""
        return "; ".join(f"{one.name}: {'full' if one.up else one.reason}" for one in self.all)
