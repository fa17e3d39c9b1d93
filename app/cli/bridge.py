"""The running bridge, as `make-call` needs it: is it ready, where does Twilio reach it, why did it refuse a call."""

from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.cli.service_client import ANSWER_WITHIN_S, NoService, one_line, open_service
from app.config import Settings, SettingsError, is_loopback
from app.twilio.events import CallSid
from workers.logging import mask_userinfo


class NotReady(Exception):
    """The bridge cannot take the call; the message is one line that says why and what to do."""


async def find_bridge(settings: Settings) -> str:
    """Return where Twilio reaches the service here, once both are ready; raises NotReady, SettingsError.

    The service knows its address best: a tunnel may have given it another than PUBLIC_URL.
    """
    settings.require_host()
    here = settings.server.local_url
    status = await _status(f"{here}/readyz")
    if status == HTTPStatus.SERVICE_UNAVAILABLE and not await _others_free(settings):
        raise NotReady(f"the bridge at {here} can take no call now: it is starting, or all its slots are taken")
    if status not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE):
        raise NotReady(f"no bridge at {here} ({status}): start it with moshi-bridge serve, or set HOST and PORT")
    told = await _told(settings, "/api/public", "base_url")
    base_url = told if isinstance(told, str) else settings.server.base_url
    shown = mask_userinfo(base_url)
    if is_loopback(urlsplit(base_url).hostname or "") and not settings.twilio.api_url:
        raise NotReady(f"PUBLIC_URL: Twilio cannot reach {shown}; set it to the tunnel's https address")
    if (status := await _status(f"{base_url}/healthz")) != HTTPStatus.OK:
        raise NotReady(f"no bridge behind PUBLIC_URL={shown} ({status}): is the tunnel up?")
    return base_url


async def _others_free(settings: Settings) -> bool:
    """Tell whether another node could take a call."""
    return bool(settings.cluster.nats_url and await _told(settings, "/api/cluster", "free_slots"))


async def require_persona(settings: Settings, name: str) -> None:
    """Raise SettingsError if the service has no persona of this name, NotReady if it does not say; "" is none."""
    if not name:
        return
    try:
        async with open_service(settings) as service:
            known = [str(persona["name"]) for persona in await service.ask("/api/personas")]
    except NoService as error:
        raise NotReady(f"--persona {name}: {error}") from error
    if name not in known:
        raise SettingsError(f"--persona {name}: the bridge has no such persona (it has {', '.join(known) or 'none'})")


async def refusal(settings: Settings, call_sid: CallSid) -> str:
    """Return why the bridge did not take a call that was answered, "" if it took it or does not say."""
    return str(await _told(settings, f"/api/calls/{call_sid}", "refused") or "")


async def _told(settings: Settings, path: str, key: str) -> object:
    try:
        async with open_service(settings) as service:
            return (await service.ask(path)).get(key)
    except NoService:
        return None


async def _status(url: str) -> int | str:
    """Return the HTTP status of an answer, or why there was none, in one line without a password."""
    try:
        async with ClientSession(timeout=ClientTimeout(total=ANSWER_WITHIN_S)) as client, client.get(url) as answer:
            return answer.status
    except (ClientError, TimeoutError, ValueError) as error:
        return mask_userinfo(one_line(error))
