"""The calls that are over and whose caller's last words are still with the transcriber."""

import asyncio

from app.calls.active_call import ActiveCall
from workers.messages import Epoch

WITHIN_S = 8.0
"""For so long they are waited for."""


class LastWords:
    """Without a transcriber nothing is waited for."""

    def __init__(self, is_transcribing: bool) -> None:
        self._is_transcribing = is_transcribing
        self._calls: dict[Epoch, tuple[ActiveCall, asyncio.TimerHandle]] = {}

    def find(self, epoch: Epoch) -> ActiveCall | None:
        return self._calls[epoch][0] if epoch in self._calls else None

    def wait(self, call: ActiveCall) -> None:
        """Wait for the last words of a call that has ended, if it may have said any."""
        if not self._is_transcribing or call.session.stream.started_s is None:
            call.end_words()
            return
        epoch = call.reservation.epoch
        self._calls[epoch] = call, asyncio.get_running_loop().call_later(WITHIN_S, self.end, epoch)

    def end(self, epoch: Epoch) -> None:
        """They have come, or do not; nothing for a call that is on."""
        if held := self._calls.pop(epoch, None):
            call, timer = held
            timer.cancel()
            call.end_words()

    def end_all(self) -> None:
        for epoch in [*self._calls]:
            self.end(epoch)
