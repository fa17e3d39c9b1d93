"""The running bridge, as `make-call` needs it: is it ready, where does Twilio reach it, why did it refuse a call.

With `--prompt` it prepares a prompt for the one call before anybody is called.
"""

from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.cli.service_client import ANSWER_WITHIN_S, NoService, ServiceRefusal, one_line, open_service
from app.config import Settings, SettingsError, is_loopback
from app.twilio.events import CallSid
from workers.logging import mask_userinfo

PREPARED_WITHIN_S = 75.0
"""The bridge gives up preparing a prompt after a minute."""
MOST_FILE_BYTES = 65_536


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


def read_prompt_text(option: str | None) -> str:
    """Return the text of the option, or that of the file which it names after an @; "" for none.

    Raises SettingsError.
    """
    text = option or ""
    if text.startswith("@"):
        text = _read(Path(text[1:]))
    if option is not None and not text.strip():
        raise SettingsError("--prompt: the text is empty")
    return text


async def prepare_prompt(settings: Settings, text: str, persona: str) -> str:
    """Have the bridge prepare a prompt in the voice of a persona; return its id, "" for no text.

    Raises SettingsError if the bridge refuses it, NotReady if it cannot prepare it now.
    """
    if not text:
        return ""
    try:
        async with open_service(settings, within_s=PREPARED_WITHIN_S) as service:
            answer = await service.ask("/api/prompts", "POST", {"text": text, "persona": persona})
            if "id" not in answer:
                raise NotReady(f"--prompt: {answer['detail']}")
            return str(answer["id"])
    except ServiceRefusal as error:
        raise SettingsError(f"--prompt: {error}") from error
    except NoService as error:
        raise NotReady(f"--prompt: {error}") from error


async def refusal(settings: Settings, call_sid: CallSid) -> str:
    """Return why the bridge did not take a call that was answered, "" if it took it or does not say."""
    return str(await _told(settings, f"/api/calls/{call_sid}", "refused") or "")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise SettingsError(f"--prompt @{path}: has more than {MOST_FILE_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8; save it as plain UTF-8 text"
        raise SettingsError(f"--prompt @{path}: {why}") from error


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
