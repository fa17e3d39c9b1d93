"""How loud both sides of a call are, for the live view."""

from app.audio.level import LevelMeter
from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.observer import CallObserver
from app.calls.session import SendFrame
from app.twilio.events import Event, Media


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
