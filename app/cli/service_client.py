"""Asks a running service over HTTP, as an operator; whatever else answers there is one line of error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from typing import Any

import aiohttp

from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.config import Settings
from app.twilio.signature import checked_base

ANSWER_WITHIN_S = 10.0
FOUND_WITHIN_S = 5.0
"""A busy machine's service answers late; where none listens that is known at once."""
NOT_OURS = "what answers there is not moshi-bridge, or another version of it"
REFUSED = "the service refuses operators from here: set OPERATOR_TOKEN to the service's own"
ANSWERS = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE}
"""503 is /readyz of a service that accepts no call, or /api/prompts of one that can prepare none now."""
OTHER_SHAPE = (aiohttp.ContentTypeError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Raised where JSON of another shape than ours is read."""


class NoService(Exception):
    """The service was not reached, or refuses; the message is one line."""


class ServiceRefusal(NoService):
    """The service refuses what it was sent (422); the message is its own."""


class ServiceClient:
    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client, self.url = client, url

    async def ask(self, path: str, method: str = "GET", body: object = None, **query: str) -> Any:
        """Return the JSON of an answer; `body` is sent as JSON. Raises NoService, or one of OTHER_SHAPE."""
        try:
            async with self._client.request(method, path, params=query, json=body) as answer:
                if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
                    raise NoService(REFUSED)
                if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    raise ServiceRefusal(" ".join(str((await answer.json())["detail"]).split()))
                if answer.status not in ANSWERS:
                    raise NoService(f"{self.url}: {NOT_OURS} (HTTP {answer.status})")
                return await answer.json()
        except aiohttp.ContentTypeError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            where = "HOST and PORT, or the URL given, say where it is"
            raise NoService(f"no service answers at {self.url}: {where} ({one_line(error)})") from error


@contextlib.asynccontextmanager
async def open_service(
    settings: Settings, url: str | None = None, within_s: float = ANSWER_WITHIN_S
) -> AsyncIterator[ServiceClient]:
    """Connect to `url`, by default the service of these settings. Raises NoService, and ValueError for a wrong URL.

    What the block finds of another shape than our JSON is NoService.
    """
    base_url = checked_base(url or settings.server.local_url)
    headers = {"Authorization": f"Bearer {settings.operators.token}"} if settings.operators.token else {}
    timeout = aiohttp.ClientTimeout(total=within_s)
    async with aiohttp.ClientSession(base_url, headers=headers, timeout=timeout) as client:
        try:
            yield ServiceClient(client, base_url)
        except OTHER_SHAPE as error:
            raise NoService(f"{base_url}: {NOT_OURS}") from error


def running_service(settings: Settings) -> dict[str, Any] | None:
    """Return what the service at HOST and PORT reports of its public address; None without a service of ours."""

    async def ask() -> Any:
        async with open_service(settings, within_s=FOUND_WITHIN_S) as service:
            return await service.ask("/api/public")

    try:
        answer = asyncio.run(ask())
    except (NoService, ValueError):
        return None
    known = isinstance(answer, dict) and {"base_url", "open", "service"} <= answer.keys()
    return answer if known and isinstance(answer["base_url"], str) else None


def run_asking(work: Coroutine[Any, Any, None]) -> int:
    """Run a command that asks the service; return the exit status."""
    try:
        asyncio.run(work)
    except NoService as error:
        return fail(error, EXIT_FAILED)
    except ValueError as error:
        return fail(error, EXIT_SETTINGS)
    return 0


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no answer in time"
