"""The running bridge, as `make-call` needs it: is it ready, where does Twilio reach it, why did it refuse a call."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.cli.service_client import ANSWER_WITHIN_S, NoService, open_service
from app.config import Settings, is_loopback
from app.twilio.events import CallSid
from workers.logging import mask_userinfo


class NotReady(Exception):
    """The bridge cannot take the call; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is ready; Twilio reaches it at `base_url`."""

    base_url: str
    settings: Settings

    async def refusal(self, call_sid: CallSid) -> str:
        """Return why the bridge did not take a call that was answered, "" if it took it or does not say."""
        try:
            async with open_service(self.settings) as service:
                return str((await service.ask(f"/api/calls/{call_sid}")).get("refused") or "")
        except NoService:
            return ""


async def find_bridge(settings: Settings) -> Bridge:
    """Return the service here, once it is ready and answers at its public address too; raises NotReady, SettingsError.

    The service knows its address best: a tunnel may have given it another than PUBLIC_URL.
    """
    settings.require_host()
    here = settings.server.local_url
    match await _status(f"{here}/readyz"):
        case HTTPStatus.OK:
            pass
        case HTTPStatus.SERVICE_UNAVAILABLE:
            raise NotReady(f"the bridge at {here} can take no call now: it is starting, or all its slots are taken")
        case status:
            raise NotReady(f"no bridge at {here} ({status}): start it with moshi-bridge serve, or set HOST and PORT")
    base_url = await _public_url(settings)
    shown = mask_userinfo(base_url)
    if is_loopback(urlsplit(base_url).hostname or "") and not settings.twilio.api_url:
        raise NotReady(f"PUBLIC_URL: Twilio cannot reach {shown}; set it to the tunnel's https address")
    if (status := await _status(f"{base_url}/healthz")) != HTTPStatus.OK:
        raise NotReady(f"no bridge behind PUBLIC_URL={shown} ({status}): is the tunnel up?")
    return Bridge(base_url, settings)


async def _public_url(settings: Settings) -> str:
    """Return the public URL that the service reports, by default that of the settings."""
    try:
        async with open_service(settings) as service:
            base_url = (await service.ask("/api/public")).get("base_url")
    except NoService:
        base_url = None
    return base_url if isinstance(base_url, str) else settings.server.base_url


async def _status(url: str) -> int | str:
    """Return the HTTP status of an answer, or why there was none, in one line without a password."""
    try:
        async with ClientSession(timeout=ClientTimeout(total=ANSWER_WITHIN_S)) as client, client.get(url) as answer:
            return answer.status
    except (ClientError, TimeoutError, ValueError) as error:
        return mask_userinfo(" ".join(str(error).split())) or "no answer in time"
