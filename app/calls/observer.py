"""Who watches calls: the one interface for events, levels, statistics, log lines, recordings, call log and traces."""

import logging
from collections.abc import Callable, Sequence

from app.audio.level import LevelMeter
from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.end_reason import ERRORS
from app.calls.leg import SendFrame
from app.calls.record import CallRecord, Gap
from app.calls.sentences import SentenceSaid
from app.calls.session import CallSession, End
from app.calls.suspension import Suspended
from app.calls.transcript import Turn, Word
from app.calls.transfer import Transfer
from app.logging import CallLogger
from app.twilio.events import DtmfPressed, Event, Media
from workers.messages import Frame, Slot


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

    def on_said(self, sentence: SentenceSaid, now: float) -> None:
        """Moshi has said a sentence as told, or its greeting; the last of its audio may still be on its way."""

    def on_word(self, word: Word, now: float) -> None:
        """The caller or Moshi has said a word, digits masked; the caller's come about a second later."""

    def on_turn(self, turn: Turn, now: float) -> None:
        """The caller or Moshi has paused after these words."""

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """A command has gone to the socket's writer, or a frame to the workers."""

    def on_suspended(self, suspended: Suspended, now: float) -> None:
        """The pipeline is lost, and the call waits for the next one."""

    def on_resumed(self, gap: Gap, now: float) -> None:
        """The call goes on after a gap."""

    def on_transfer(self, transfer: Transfer, now: float) -> None:
        """The carrier is transferring the call: its stream ends soon."""

    def on_transfer_end(self, transfer: Transfer, now: float) -> None:
        """The transfer is over: somebody has hung up, nobody has answered, or the carrier has refused it."""

    def on_end(self, end: End, now: float) -> None:
        """The stream has ended; the caller's last words may still come."""

    def on_words_end(self, now: float) -> None:
        """After the end: no more words come."""

    def on_error(self) -> None:
        """One of the methods above has raised."""


HOOKS = tuple(name for name in vars(CallObserver) if name.startswith("on_") and name != "on_error")


class Observers:
    """The observers of one stream, in order."""

    def __init__(self, log: CallLogger, observers: Sequence[CallObserver]) -> None:
        self._log = log
        self._hooks = {name: _overriding(observers, name) for name in HOOKS}

    def notify(self, hook: str, *arguments: object) -> None:
        """Call one of `HOOKS` of each observer."""
        for observer, method in self._hooks[hook]:
            try:
                method(*arguments)
            except Exception:
                self._log.exception("%s watches this call no more", type(observer).__name__)
                self._drop(observer)

    def _drop(self, failed: CallObserver) -> None:
        """Remove an observer that has failed from all hooks except `on_end`."""
        for name, methods in self._hooks.items():
            if name != "on_end":
                self._hooks[name] = [(one, method) for one, method in methods if one is not failed]
        try:
            failed.on_error()
        except Exception:
            self._log.exception("internal error")


def _overriding(observers: Sequence[CallObserver], name: str) -> list[tuple[CallObserver, Callable[..., None]]]:
    overriding = (one for one in observers if getattr(type(one), name) is not getattr(CallObserver, name))
    return [(one, getattr(one, name)) for one in overriding]


class CallLevels(CallObserver):
    """A level meter for each side; nothing is computed until a level is read."""

    def __init__(self) -> None:
        self.caller, self.moshi = LevelMeter(), LevelMeter()

    def on_event(self, event: Event, now: float) -> None:
        if isinstance(event, Media):
            self.caller.add(event.payload, now)

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        if isinstance(command, SendAudio):
            self.moshi.add(command.payload, now)


class LogLines(CallObserver):
    """Logs one stream's slot, keys (hidden unless `log_digits`: they may be a PIN), gaps and end."""

    def __init__(self, session: CallSession, slot: Slot, log: CallLogger, log_digits: bool) -> None:
        self._session, self._slot, self._log, self._log_digits = session, slot, log, log_digits

    def on_reserved(self, now: float) -> None:
        self._log.info("slot %d reserved", self._slot)

    def on_connected(self, now: float) -> None:
        if self._session.stream.number > 1:
            self._log.info("the call is back: stream %d", self._session.stream.number)

    def on_event(self, event: Event, now: float) -> None:
        if isinstance(event, DtmfPressed):
            self._log.info("key %.1s", event.digit if self._log_digits else "*")

    def on_suspended(self, suspended: Suspended, now: float) -> None:
        self._log.warning("the pipeline is lost (%s), the call waits for the next one", suspended.reason)

    def on_resumed(self, gap: Gap, now: float) -> None:
        what = "the call goes on after %.1f s (%s): %d steps known, %d left out"
        facts = {"gap_s": round(gap.seconds or 0.0, 3), "steps": gap.steps, "left_out": gap.left_out}
        self._log.info(what, gap.seconds, gap.reason, gap.steps, gap.left_out, extra={"facts": facts})

    def on_end(self, end: End, now: float) -> None:
        counts = dict(self._session.counts)
        level = logging.WARNING if end.reason in ERRORS else logging.INFO
        detail = f" ({end.detail})" if end.detail else ""
        facts = {"end": end.reason.name.lower(), "counts": counts}
        self._log.log(level, "ended: %s%s %s", end.reason, detail, counts, extra={"facts": facts})


class RecordObserver(CallObserver):
    """Passes a call's record to `add` when the call begins, comes back in a new stream, and ends.

    If it is `amended`, once more after the end: when the caller's last words have come, when a transfer is over.
    """

    def __init__(
        self, session: CallSession, slot: Slot, add: Callable[[CallRecord, Slot], None], *, amended: bool = False
    ) -> None:
        self._session, self._slot, self._add, self._amended = session, slot, add, amended
        self._words_added = 0

    def on_reserved(self, now: float) -> None:
        if self._session.stream.number == 1:
            self._add(self._session.record, self._slot)

    def on_connected(self, now: float) -> None:
        if self._session.stream.number > 1:
            self._add(self._session.record, self._slot)

    def on_end(self, end: End, now: float) -> None:
        self._words_added = len(self._session.record.words)
        self._add(self._session.record, self._slot)

    def on_words_end(self, now: float) -> None:
        if self._amended and len(self._session.record.words) > self._words_added:
            self._add(self._session.record, self._slot)

    def on_transfer_end(self, transfer: Transfer, now: float) -> None:
        if self._amended and self._session.record.end:
            self._add(self._session.record, self._slot)
