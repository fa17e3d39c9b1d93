"""Makes the session of each stream, by the settings and by who speaks."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.admission import TTL_S, VoiceRequest
from app.calls.chat_leg import ChatLeg
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.limits import CallLimits
from app.calls.personas import Chosen
from app.calls.record import CallRecord
from app.calls.session import CallSession
from app.calls.statistics import Statistics
from app.config import Settings
from app.logging import CallLogger
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

MAX_JITTER_S = 0.02


@dataclass(frozen=True)
class SessionFactory:
    """`choose` and `checkpoint` are those of `CallManager`."""

    settings: Settings
    statistics: Statistics
    choose: Callable[[str, str, str], Chosen]
    checkpoint: Callable[[], str]

    def make(
        self,
        call_sid: CallSid,
        request: VoiceRequest,
        now: float,
        memory: Conversation | None,
        record: CallRecord | None,
    ) -> CallSession:
        """Make the next stream of a call, of whose earlier ones are `memory` and `record`; `now` it is reserved."""
        conversation, comes_back = memory or self._new_conversation(request), memory is not None
        speaker = conversation.header
        limits = self._limits(request, speaker.call.greeting, comes_back)
        session = CallSession(
            call_sid,
            self.settings.twilio.account_sid,
            limits,
            now,
            record,
            request.webhook_token,
            ChatLeg(limits, request.opus) if request.chat else None,
            conversation,
            comes_back,
        )
        if comes_back and session.record.started_s is None:
            session.record.elsewhere_s = speaker.age_s(time.time())
        session.record.set_parties(request.caller, request.called, request.direction)
        session.record.persona = speaker.persona
        call_log = CallLogger(log, call_sid)
        if request.persona not in ("", speaker.persona):
            call_log.warning("there is no persona %.40a, %s speaks", request.persona, speaker.persona or "Moshi")
        if not memory and request.prompt not in ("", speaker.call.prompt):
            call_log.warning("the prompt of this call is unknown, used or expired: it begins without")
        return session

    def _new_conversation(self, request: VoiceRequest) -> Conversation:
        chosen = self.choose(request.persona, request.called, request.prompt)
        sampling = tuple(dict(chosen.call.sampling + request.sampling).items())
        seed = self.settings.sampling.seed if request.seed is None else request.seed
        persona = replace(chosen.call, sampling=sampling)
        known = self.checkpoint(), chosen.name, persona, seed, chosen.prompt, time.time(), request.record
        return Conversation(ConversationHeader(*known))

    def _limits(self, request: VoiceRequest, greeting: str, comes_back: bool) -> CallLimits:
        calls, most, wanted = self.settings.calls, self.settings.greeting_steps, request.greeting_frames
        silent = most if wanted is None else min(wanted, most)
        steps = self.settings.greeting_word_steps if greeting else silent
        return CallLimits(
            greeting_frames=0 if comes_back else steps,
            socket_within_s=TTL_S,
            max_call_s=calls.max_seconds,
            processing_s=self.statistics.processing_s,
            jitter_s=min(max(FIRST_JITTER_S, self.statistics.jitter_s), MAX_JITTER_S),
            idle_s=calls.idle_seconds,
            hangup_digit=calls.hangup_digit,
            transfer_digit=self.settings.transfer.digit,
        )
