"""The calls that are over and whose caller's last words are still with the transcriber."""

import asyncio
import contextlib

from app.calls.active_call import ActiveCall
from workers.messages import Epoch

WITHIN_S = 8.0
"""For so long they are waited for."""


class LastWords:
    """Without a transcriber nothing is waited for."""

    def __init__(self, is_transcribing: bool) -> None:
        self._is_transcribing = is_transcribing
        self._calls: dict[Epoch, tuple[ActiveCall, asyncio.TimerHandle]] = {}
        self._none = asyncio.Event()
        self._none.set()

    def find(self, epoch: Epoch) -> ActiveCall | None:
        return self._calls[epoch][0] if epoch in self._calls else None

    def wait(self, call: ActiveCall) -> None:
        """Wait for the last words of a call that has ended, if some may still come."""
        has_last = call.words.is_transcribed and not call.session.has_pipeline
        if not self._is_transcribing or call.session.stream.started_s is None or has_last:
            call.end_words()
            return
        epoch = call.reservation.epoch
        self._none.clear()
        self._calls[epoch] = call, asyncio.get_running_loop().call_later(WITHIN_S, self.end, epoch)

    def end(self, epoch: Epoch) -> None:
        """They have come, or do not; nothing for a call that is on."""
        if held := self._calls.pop(epoch, None):
            call, timer = held
            timer.cancel()
            call.end_words()
        if not self._calls:
            self._none.set()

    async def finish(self, within_s: float) -> None:
        """Wait for those of all calls, so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within_s)
        for epoch in [*self._calls]:
            self.end(epoch)
