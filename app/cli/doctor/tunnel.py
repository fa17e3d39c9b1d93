"""The doctor's checks of the tunnel, and of the way from outside to a running service."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from app.cli.doctor.finding import Finding, Level, good, note, problem
from app.cli.service_client import NoService, open_service
from app.config import Settings, is_loopback
from app.http.selftest import ProbeFailed, probe
from app.server.cloudflared import CREDENTIALS, HOW_TO_INSTALL, PROGRAM

ANSWER_WITHIN_S = 1.0
VERSION_WITHIN_S = 5.0
TOKEN_KEYS = {"a", "t", "s"}
"""Account, tunnel and secret, in the JSON that a tunnel's token is."""


def examine_tunnel(settings: Settings) -> Iterator[Finding]:
    """Check cloudflared and the tunnel's settings, and open a signed socket through the public URL."""
    yield _cloudflared(settings)
    if settings.tunnel.is_named:
        yield from _named_tunnel(settings)
    yield _selftest(settings)


def running_service(settings: Settings) -> dict[str, Any] | None:
    """Return what the service at HOST and PORT reports of its public address; None without a service of ours."""
    try:
        answer = asyncio.run(_public(settings))
    except (NoService, ValueError):
        return None
    known = isinstance(answer, dict) and {"base_url", "open", "service"} <= answer.keys()
    return answer if known and isinstance(answer["base_url"], str) else None


async def _public(settings: Settings) -> Any:
    async with open_service(settings, within_s=ANSWER_WITHIN_S) as service:
        return await service.ask("/api/public")


def _cloudflared(settings: Settings) -> Finding:
    program = shutil.which(PROGRAM)
    if not program:
        level = Level.PROBLEM if settings.tunnel.start else Level.NOTE
        return Finding(level, PROGRAM, "not installed: serve --tunnel needs it", HOW_TO_INSTALL)
    try:
        run = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return problem(PROGRAM, f"{program} does not run: {error}", HOW_TO_INSTALL)
    version = re.search(r"version (\S+)", run.stdout)
    if run.returncode or not version:
        return problem(PROGRAM, f"{program} --version says nothing of a version", HOW_TO_INSTALL)
    return good(PROGRAM, f"{version[1]} at {program}")


def _named_tunnel(settings: Settings) -> Iterator[Finding]:
    if not settings.server.public_url:
        found = "the tunnel has a URL of its own, and PUBLIC_URL does not say it"
        yield problem("tunnel", found, "PUBLIC_URL=https://… as you routed it")
    if settings.tunnel.token and not _is_token(settings.tunnel.token):
        found = "is no token of a tunnel"
        yield problem("TUNNEL_TOKEN", found, "copy it anew: cloudflared tunnel token NAME")
    elif settings.tunnel.token:
        where = f"its public host name must lead to {settings.server.local_url}"
        yield good("TUNNEL_TOKEN", f"set; {where} (Cloudflare's dashboard)")
    elif not list(CREDENTIALS.expanduser().glob("*.json")):
        found = f"{settings.tunnel.name}: no credentials in {CREDENTIALS}"
        advice = f"cloudflared tunnel login && cloudflared tunnel create {settings.tunnel.name}"
        yield problem("TUNNEL_NAME", found, advice)
    else:
        yield good("TUNNEL_NAME", f"{settings.tunnel.name}, with credentials in {CREDENTIALS}")


def _is_token(token: str) -> bool:
    try:
        content = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() >= TOKEN_KEYS


def _selftest(settings: Settings) -> Finding:
    service = running_service(settings)
    if service is None:
        found = f"not tried: no service answers at {settings.server.local_url}"
        return note("self-test", found, "moshi-bridge serve, and the doctor in a second terminal")
    url = str(service["base_url"])
    if not service["open"]:
        found = "the service runs, but its tunnel is not open"
        return problem("self-test", found, "see the service's last log lines")
    if is_loopback(urlsplit(url).hostname or ""):
        return note("self-test", f"{url} is this machine alone", "moshi-bridge serve --tunnel")
    return _proved(url, settings, str(service["service"]))


def _proved(url: str, settings: Settings, service_name: str) -> Finding:
    try:
        asyncio.run(probe(url, next(iter(settings.twilio.auth_tokens), None), service_name))
    except ProbeFailed as error:
        advice = f"{url} must lead to {settings.server.local_url}, path unchanged, and both must have the same .env"
        return problem("self-test", str(error), advice)
    return good("self-test", f"a signed socket came back through {url}")
