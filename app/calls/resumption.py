"""Opens calls in the pipeline, or has it go on with them; those that it was lost under wait for the next one.

A call that goes on may have begun with a prompt that the next pipeline does not know: that is sent before the call and
dropped behind it.
"""

from collections.abc import Callable, Iterable

from app.calls.active_call import ActiveCall
from app.twilio.events import CallSid
from workers.messages import DropPrompt, Message, PreparePrompt

CODEC_S = 1.5
"""What encoder and decoder may need of the time in which a call must be resumed."""


class Resumption:
    """Calls wait `within_s` seconds, 0 for not at all.

    `former_prompt` returns a persona's prompt, by key, of which the pipeline would not be told otherwise; `clock`
    returns seconds, monotonic.
    """

    def __init__(
        self,
        within_s: float,
        send: Callable[[Message], None],
        former_prompt: Callable[[str], PreparePrompt | None],
        clock: Callable[[], float],
    ) -> None:
        self.within_s = within_s
        self.loss = ""
        """Why the last pipeline was lost."""
        self._has_pipeline = True
        self._send, self._former_prompt, self._clock = send, former_prompt, clock
        self._prompts: dict[CallSid, str] = {}
        """The keys of those sent."""

    def begin(self, call: ActiveCall) -> None:
        """Open a call that is new, or go on with one that comes back, now or once there is a pipeline."""
        if self._has_pipeline:
            self._attach(call, self.within_s)
        else:
            call.suspend(self.loss, self.within_s)

    def on_pipeline_lost(self, reason: str, calls: Iterable[ActiveCall]) -> None:
        self._has_pipeline, self.loss = False, reason
        self._prompts.clear()
        for call in calls:
            call.suspend(reason, self.within_s)

    def on_pipeline_ready(self, suspended: Iterable[ActiveCall]) -> None:
        """Go on with the calls that wait, in this order."""
        if self._has_pipeline:
            return
        self._has_pipeline = True
        for call in suspended:
            self._attach(call, (call.session.suspended_since_s or 0.0) + self.within_s - self._clock())

    def drop_prompt(self, call_sid: CallSid) -> None:
        """The call has been opened, or is over; the last one that needs a prompt has it forgotten."""
        key = self._prompts.pop(call_sid, None)
        if key and key not in self._prompts.values():
            self._send(DropPrompt(key))

    def _attach(self, call: ActiveCall, left_s: float) -> None:
        session, call_sid = call.session, call.session.record.call_sid
        if session.comes_back or session.suspended_since_s is not None:
            header = session.conversation.header
            if prompt := header.prompt or self._former_prompt(header.call.prompt):
                self._send(prompt)
                self._prompts[call_sid] = prompt.key
        call.attach(self.within_s, max(0.0, left_s - CODEC_S))
        if session.suspended_since_s is None:
            self.drop_prompt(call_sid)
