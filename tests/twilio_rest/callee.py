"""A call that was placed through REST, from the queue to its end: it rings, somebody answers, callbacks tell of it."""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from app.simulator.call import simulate
from app.simulator.client import WebhookClient, WebhookError, open_webhooks
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from app.simulator.wav import Samples
from tests.twilio_rest.account import ERROR, WARNING, Account, PlacedCall

CODES = {
    Outcome.WEBHOOK_FAILED: 11200,
    Outcome.BAD_TWIML: 12100,
    Outcome.HANDSHAKE_FAILED: 31920,
    Outcome.PROTOCOL_VIOLATION: 31951,
}
"""What Twilio notes of a call that ended so."""
DETECTED = {"Enable": "machine_start", "DetectMessageEnd": "machine_end_beep"}
DEFAULT_LIMIT_S = 14_400.0


class Answer(StrEnum):
    """What comes of ringing."""

    ANSWERED = "in-progress"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Callee:
    """Who is called: rings for `rings_s`, None for ever; answers, perhaps by machine; says `audio` and hangs up."""

    answer: Answer = Answer.ANSWERED
    audio: Samples | None = None
    duration_s: float = 1.0
    rings_s: float | None = 0.0
    machine: bool = False


class Placing:
    """One call being placed. Where `dial_url` is given our server is found there, not at its public URL."""

    def __init__(self, account: Account, call: PlacedCall, callee: Callee, dial_url: str | None) -> None:
        self._account, self._call, self._callee, self._dial_url = account, call, callee, dial_url
        self._posted = 0

    async def run(self) -> None:
        async with open_webhooks(self._account.auth_token, self._dial_url) as webhook:
            await self._post_status(webhook, "initiated", "initiated")
            await self._become(webhook, "ringing", "ringing")
            if await self._call.remote.ordered_within(self._callee.rings_s):
                await self._become(webhook, "canceled", "completed")
            elif self._callee.answer is Answer.ANSWERED:
                await self._become(webhook, "in-progress", "answered")
                await self._talk()
                await self._become(webhook, "completed", "completed")
            else:
                await self._become(webhook, self._callee.answer, "completed")

    async def _talk(self) -> None:
        form, callee = self._call.form, self._callee
        if detection := form.get("MachineDetection"):
            self._call.answered_by = DETECTED[detection] if callee.machine else "human"
        url = urlsplit(form["Url"])
        options = CallOptions(
            base_url=f"{url.scheme}://{url.netloc}",
            voice_path=url._replace(scheme="", netloc="").geturl(),
            auth_token=self._account.auth_token,
            account_sid=self._account.sid,
            audio=callee.audio,
            duration_s=min(callee.duration_s, float(form.get("TimeLimit", DEFAULT_LIMIT_S))),
            from_number=form["From"],
            to_number=form["To"],
            call_sid=self._call.sid,
            dial_url=self._dial_url,
            outbound=True,
            answered_by=self._call.answered_by,
        )
        self._call.report = report = await simulate(options, remote=self._call.remote)
        self._call.duration_s = round(report.ended_s)
        if code := CODES.get(report.outcome):
            self._call.notifications.append((ERROR, code))

    async def _become(self, webhook: WebhookClient, status: str, event: str) -> None:
        self._call.status = status
        await self._post_status(webhook, event, status)

    async def _post_status(self, webhook: WebhookClient, event: str, status: str) -> None:
        """Post a status callback, where one is wanted."""
        url = self._call.form.get("StatusCallback")
        if not url or event not in self._call.events:
            return
        duration = {} if self._call.duration_s is None else {"CallDuration": str(self._call.duration_s)}
        form = {
            "CallSid": self._call.sid,
            "AccountSid": self._account.sid,
            "From": self._call.form["From"],
            "To": self._call.form["To"],
            "CallStatus": status,
            "Direction": "outbound-api",
            "ApiVersion": "2010-04-01",
            "CallbackSource": "call-progress-events",
            "SequenceNumber": str(self._posted),
            **({"AnsweredBy": self._call.answered_by} if self._call.answered_by else {}),
            **duration,
        }
        self._posted += 1
        try:
            await webhook.post(url, form)
        except WebhookError:
            self._call.notifications.append((WARNING, 11200))
