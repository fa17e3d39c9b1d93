"""Who watches calls: the one interface for events, levels, statistics, log lines, recordings, call log and traces."""

from collections.abc import Callable, Sequence

from app.audio.playout import PlayoutCommand
from app.calls.record import CallRecord
from app.calls.session import CallSession, End, SendFrame
from app.logging import CallLog
from app.twilio.events import Event
from workers.messages import Frame, Slot

Hook = Callable[..., None]


class CallObserver:
    """Watches one stream of a call. A method that is not overridden costs nothing; `now` in seconds, monotonic.

    The methods run on the event loop and must not wait. When one raises, that is logged, `on_error` and later `on_end`
    are still called, nothing else is, and the call goes on.
    """

    def on_reserved(self, now: float) -> None:
        """A slot is reserved and the greeting has been started."""

    def on_connected(self, now: float) -> None:
        """The media socket is open."""

    def on_event(self, event: Event, now: float) -> None:
        """The session has handled one of Twilio's events."""

    def on_frame(self, frame: Frame, now: float) -> None:
        """One of Moshi's frames has come; the session handles it next."""

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """A command has gone to the socket's writer, or a frame to the workers."""

    def on_end(self, end: End, now: float) -> None:
        """The stream has ended."""

    def on_error(self) -> None:
        """One of the methods above has raised."""


class Observers:
    """The observers of one stream, in order."""

    def __init__(self, log: CallLog, observers: Sequence[CallObserver]) -> None:
        self._log = log
        self._end = _hooks(observers, "on_end")
        self._watch(observers)

    def on_reserved(self, now: float) -> None:
        self._call(self._reserved, now)

    def on_connected(self, now: float) -> None:
        self._call(self._connected, now)

    def on_event(self, event: Event, now: float) -> None:
        self._call(self._event, event, now)

    def on_frame(self, frame: Frame, now: float) -> None:
        self._call(self._frame, frame, now)

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        self._call(self._sent, command, now)

    def on_end(self, end: End, now: float) -> None:
        self._call(self._end, end, now)

    def _call(self, hooks: Sequence[tuple[CallObserver, Hook]], *arguments: object) -> None:
        for observer, hook in hooks:
            try:
                hook(*arguments)
            except Exception:
                self._log.exception("%s watches this call no more", type(observer).__name__)
                self._drop(observer)

    def _drop(self, failed: CallObserver) -> None:
        self._watch([observer for observer in self._observers if observer is not failed])
        try:
            failed.on_error()
        except Exception:
            self._log.exception("internal error")

    def _watch(self, observers: Sequence[CallObserver]) -> None:
        self._observers = observers
        self._reserved, self._connected = _hooks(observers, "on_reserved"), _hooks(observers, "on_connected")
        self._event, self._frame = _hooks(observers, "on_event"), _hooks(observers, "on_frame")
        self._sent = _hooks(observers, "on_sent")


def _hooks(observers: Sequence[CallObserver], name: str) -> list[tuple[CallObserver, Hook]]:
    overriding = (one for one in observers if getattr(type(one), name) is not getattr(CallObserver, name))
    return [(one, getattr(one, name)) for one in overriding]


class RecordObserver(CallObserver):
    """Passes a call's record to `keep` when the call begins, comes back in a new stream, and ends."""

    def __init__(self, session: CallSession, slot: Slot, keep: Callable[[CallRecord, Slot], None]) -> None:
        self._session, self._slot, self._keep = session, slot, keep

    def on_reserved(self, now: float) -> None:
        if self._session.stream.number == 1:
            self._keep(self._session.record, self._slot)

    def on_connected(self, now: float) -> None:
        if self._session.stream.number > 1:
            self._keep(self._session.record, self._slot)

    def on_end(self, end: End, now: float) -> None:
        self._keep(self._session.record, self._slot)
