"""The prompts of calls that go on in a pipeline which does not know them: sent before the call, dropped behind it."""

from collections.abc import Callable

from app.calls.conversation import ConversationHeader
from app.twilio.events import CallSid
from workers.messages import DropPrompt, Message, PreparePrompt


class ResumePrompts:
    """`former` returns a persona's prompt, by key, of which the pipeline would not be told otherwise."""

    def __init__(self, send: Callable[[Message], None], former: Callable[[str], PreparePrompt | None]) -> None:
        self._send, self._former = send, former
        self._keys: dict[CallSid, str] = {}

    def prepare(self, call_sid: CallSid, header: ConversationHeader) -> None:
        """Send the prompt that a call began with, if the pipeline lacks it."""
        if prompt := header.prompt or self._former(header.call.prompt):
            self._send(prompt)
            self._keys[call_sid] = prompt.key

    def drop(self, call_sid: CallSid) -> None:
        """The call has been opened, or is over; the last one that needs a prompt has it forgotten."""
        key = self._keys.pop(call_sid, None)
        if key and key not in self._keys.values():
            self._send(DropPrompt(key))

    def on_pipeline_lost(self) -> None:
        self._keys.clear()
