"""Makes the session and the `ActiveCall` of each stream, by the settings and by who speaks."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.active_call import ActiveCall
from app.calls.admission import TTL_S, Reservation, VoiceRequest
from app.calls.chat_leg import ChatLeg
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.limits import CallLimits
from app.calls.personas import Chosen
from app.calls.record import CallRecord
from app.calls.session import CallSession, End
from app.calls.statistics import Statistics
from app.config import Settings
from app.logging import CallLogger
from workers.messages import Message

MAX_JITTER_S = 0.02


@dataclass(frozen=True, kw_only=True)
class CallFactory:
    """The callables are those of `CallManager` and of `ActiveCall`."""

    settings: Settings
    log: logging.Logger
    statistics: Statistics
    choose: Callable[[str, str, str], Chosen]
    checkpoint: Callable[[], str]
    send: Callable[[Message], None]
    phase_s: Callable[[], float | None]
    release: Callable[[ActiveCall, End], None]
    on_transfer_key: Callable[[ActiveCall], None]
    clock: Callable[[], float]

    def make(
        self,
        reservation: Reservation,
        request: VoiceRequest,
        now: float,
        memory: Conversation | None,
        record: CallRecord | None,
    ) -> ActiveCall:
        """Make the next stream of a call, of whose earlier ones are `memory` and `record`; `now` it is reserved."""
        conversation = memory or self._new_conversation(request)
        session = self._session(reservation, request, now, conversation, memory is not None, record)
        speaker = conversation.header
        call = ActiveCall(
            session=session,
            reservation=reservation,
            request=request,
            log=CallLogger(self.log, reservation.call_sid),
            send=self.send,
            checkpoint=self.checkpoint,
            phase_s=self.phase_s,
            release=self.release,
            clock=self.clock,
            transfer_to=self.choose(speaker.persona, request.called, "").transfer_to,
            on_transfer_key=self.on_transfer_key,
        )
        if request.persona not in ("", speaker.persona):
            call.log.warning("there is no persona %.40a, %s speaks", request.persona, speaker.persona or "Moshi")
        if not memory and request.prompt not in ("", speaker.call.prompt):
            call.log.warning("the prompt of this call is unknown, used or expired: it begins without")
        return call

    def _session(
        self,
        reservation: Reservation,
        request: VoiceRequest,
        now: float,
        conversation: Conversation,
        comes_back: bool,
        record: CallRecord | None,
    ) -> CallSession:
        limits = self._limits(request, conversation.header.call.greeting, comes_back)
        session = CallSession(
            reservation.call_sid,
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
            session.record.elsewhere_s = conversation.header.age_s(time.time())
        session.record.set_parties(request.caller, request.called, request.direction)
        session.record.persona = conversation.header.persona
        return session

    def _new_conversation(self, request: VoiceRequest) -> Conversation:
        chosen = self.choose(request.persona, request.called, request.prompt)
        sampling = tuple(dict(chosen.call.sampling + request.sampling).items())
        seed = self.settings.sampling.seed if request.seed is None else request.seed
        persona = replace(chosen.call, sampling=sampling)
        header = ConversationHeader(self.checkpoint(), chosen.name, persona, seed, chosen.prompt, time.time())
        return Conversation(header)

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
