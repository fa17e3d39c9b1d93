"""Prompts for one call each, that operators send as text: computed, opened with once, and forgotten."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from app.calls.prompts import PromptAnswer, PromptRejected, PromptUnavailable
from workers.messages import DropPrompt, PreparePrompt, PromptMessage, PromptReady, PromptRefused

MOST_PROMPTS = 4
"""Being computed, or waiting for their calls; 4 of 500 tokens and a voice fit into the engine's 3,000 steps."""
EXPIRES_S = 600.0
PREPARE_WITHIN_S = 60.0


class OneTimePrompts:
    """`send` passes a message to the workers; `clock` returns seconds, monotonic."""

    def __init__(self, send: Callable[[PromptMessage], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._computed: dict[str, tuple[PreparePrompt, asyncio.Future[PromptAnswer | None]]] = {}
        """Those that the engine computes; None: the pipeline was lost."""
        self._ready: dict[str, tuple[PreparePrompt, float]] = {}
        """Those that wait for their calls, and until when."""

    async def prepare(self, prompt: PreparePrompt) -> str:
        """Have a prompt computed, under a random key; return that. Raises PromptRejected, PromptUnavailable."""
        if len(self._computed) + len(self._ready) >= MOST_PROMPTS:
            raise PromptUnavailable(f"{MOST_PROMPTS} prompts wait for their calls already")
        key = secrets.token_urlsafe(16)
        prompt, computed = replace(prompt, key=key), asyncio.get_running_loop().create_future()
        self._computed[key] = prompt, computed
        self._send(prompt)
        try:
            await asyncio.wait({computed}, timeout=PREPARE_WITHIN_S)
        finally:
            if self._computed.pop(key, None):
                self._send(DropPrompt(key))
        if not computed.done():
            raise PromptUnavailable(f"the prompt was not computed within {PREPARE_WITHIN_S:.0f} s: calls go first")
        answer: PromptAnswer | None = computed.result()
        if answer is None:
            raise PromptUnavailable("the pipeline was lost while it computed the prompt")
        if isinstance(answer, PromptRefused):
            raise PromptRejected(answer.reason)
        return key

    def use(self, key: str) -> PreparePrompt | None:
        """Return a prompt for the call that is opened now, None for one that is unknown, used or expired.

        The engine copies it into the slot as the call opens; it is dropped right behind that message.
        """
        prompt, expires_s = self._ready.get(key, (None, 0.0))
        if prompt is None or self._clock() >= expires_s:
            return None
        del self._ready[key]
        asyncio.get_running_loop().call_soon(self._send, DropPrompt(key))
        return prompt

    def on_answer(self, answer: PromptAnswer) -> None:
        """Handle an answer of the engine; one to another prompt is ignored."""
        if answer.key in self._computed:
            prompt, computed = self._computed.pop(answer.key)
            computed.set_result(answer)
            if isinstance(answer, PromptReady):
                self._ready[answer.key] = prompt, self._clock() + EXPIRES_S

    def on_pipeline_lost(self) -> None:
        """Forget them all, as the engine did."""
        self._ready.clear()
        for _, computed in self._computed.values():
            computed.set_result(None)
        self._computed.clear()

    def expire(self) -> None:
        """Drop those whose calls did not come."""
        now = self._clock()
        for key in [key for key, (_, expires_s) in self._ready.items() if now >= expires_s]:
            del self._ready[key]
            self._send(DropPrompt(key))
