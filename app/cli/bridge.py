"""The running bridge, as `make-call` asks it: is it ready, where does Twilio reach it, why did it refuse a call."""

from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.cli.running import UNLIKE_OURS, operator_headers
from app.config import Settings, is_loopback
from app.twilio.events import CallSid
from workers.lines import mask_userinfo

ASK_WITHIN_S = 10.0


class NotReady(Exception):
    """Our service cannot take the call; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is ready: `base_url` is where Twilio reaches it, `here` where this machine does."""

    base_url: str
    here: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    async def refusal(self, call_sid: CallSid) -> str:
        """Return why the bridge did not take a call that was answered, "" if it took it or does not say."""
        try:
            async with _client() as client:
                async with client.get(f"{self.here}/api/calls/{call_sid}", headers=self.headers) as answer:
                    told = await answer.json()
                return str(told.get("refused") or "")
        except (ClientError, TimeoutError, *UNLIKE_OURS):
            return ""


async def find_bridge(settings: Settings) -> Bridge:
    """Return the service here, once it is ready and answers at its public address too; raises NotReady, SettingsError.

    The service knows best where that is: a tunnel may have given it another address than PUBLIC_URL.
    """
    settings.require_host()
    here = settings.local_url
    async with _client() as client:
        match await _status(client, f"{here}/readyz"):
            case HTTPStatus.OK:
                pass
            case HTTPStatus.SERVICE_UNAVAILABLE:
                raise NotReady(f"the bridge at {here} can take no call now: it is starting, or all its lines are taken")
            case status:
                raise NotReady(
                    f"no bridge at {here} ({status}): start it with moshi-bridge serve, or set HOST and PORT"
                )
        base_url = await _address(client, here) or settings.base_url
        shown = mask_userinfo(base_url)
        if is_loopback(urlsplit(base_url).hostname or "") and not settings.twilio_api_url:
            raise NotReady(f"PUBLIC_URL: Twilio cannot reach {shown}; set it to the tunnel's https address")
        if (status := await _status(client, f"{base_url}/healthz")) != HTTPStatus.OK:
            raise NotReady(f"no bridge behind PUBLIC_URL={shown} ({status}): is the tunnel up?")
    return Bridge(base_url, here, operator_headers(settings))


def _client() -> ClientSession:
    return ClientSession(timeout=ClientTimeout(total=ASK_WITHIN_S))


async def _address(client: ClientSession, here: str) -> str | None:
    """Return the public address that the service tells those on its machine, None if it tells none."""
    try:
        async with client.get(f"{here}/api/public") as answer:
            told = await answer.json() if answer.ok else {}
    except (ClientError, TimeoutError, *UNLIKE_OURS):
        return None
    base_url = told.get("base_url") if isinstance(told, dict) else None
    return base_url if isinstance(base_url, str) else None


async def _status(client: ClientSession, url: str) -> int | str:
    """Return the HTTP status of an answer, or why there was none, in one line without a password."""
    try:
        async with client.get(url) as answer:
            return answer.status
    except (ClientError, TimeoutError, ValueError) as error:
        return mask_userinfo(" ".join(str(error).split())) or "no answer in time"
