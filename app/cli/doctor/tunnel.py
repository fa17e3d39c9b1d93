"""What the doctor finds about the tunnel, and about the way from outside to a service that runs."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.cli.doctor.finding import Finding, Level
from app.config import Settings, is_loopback
from app.http.selftest import ProbeFailed, probe
from app.server.cloudflared import CREDENTIALS, HOW_TO_INSTALL, PROGRAM

ANSWER_WITHIN_S = 1.0
VERSION_WITHIN_S = 5.0
TOKEN_KEYS = {"a", "t", "s"}
"""Account, tunnel and secret, in the JSON that a tunnel's token is."""


def examine_tunnel(settings: Settings) -> Iterator[Finding]:
    """Look at cloudflared, at the tunnel's settings, and send a signed socket through the public URL."""
    yield _cloudflared(settings)
    if settings.is_named_tunnel:
        yield from _named_tunnel(settings)
    yield _selftest(settings)


def running_service(settings: Settings) -> dict[str, Any] | None:
    """Return what a service on HOST and PORT says of its public address; None when none of ours answers there."""
    try:
        said = asyncio.run(_get_json(f"{settings.local_url}/api/public"))
    except (OSError, ValueError, RecursionError, ClientError):
        return None
    known = isinstance(said, dict) and {"base_url", "open", "service"} <= said.keys()
    return said if known and isinstance(said["base_url"], str) else None


async def _get_json(url: str) -> Any:
    timeout = ClientTimeout(total=ANSWER_WITHIN_S)
    async with ClientSession(timeout=timeout, raise_for_status=True) as client, client.get(url) as answer:
        return await answer.json(content_type=None)


def _cloudflared(settings: Settings) -> Finding:
    program = shutil.which(PROGRAM)
    if not program:
        level = Level.PROBLEM if settings.tunnel else Level.NOTE
        return Finding(level, PROGRAM, "not installed: serve --tunnel needs it", HOW_TO_INSTALL)
    try:
        run = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(Level.PROBLEM, PROGRAM, f"{program} does not run: {error}", HOW_TO_INSTALL)
    version = re.search(r"version (\S+)", run.stdout)
    if run.returncode or not version:
        return Finding(Level.PROBLEM, PROGRAM, f"{program} --version says nothing of a version", HOW_TO_INSTALL)
    return Finding(Level.GOOD, PROGRAM, f"{version[1]} at {program}")


def _named_tunnel(settings: Settings) -> Iterator[Finding]:
    if not settings.public_url:
        found = "the tunnel has a URL of its own, and PUBLIC_URL does not say it"
        yield Finding(Level.PROBLEM, "tunnel", found, "PUBLIC_URL=https://… as you routed it")
    if settings.tunnel_token and not _is_token(settings.tunnel_token):
        found = "is no token of a tunnel"
        yield Finding(Level.PROBLEM, "TUNNEL_TOKEN", found, "copy it anew: cloudflared tunnel token NAME")
    elif settings.tunnel_token:
        where = f"its public host name must lead to {settings.local_url}"
        yield Finding(Level.GOOD, "TUNNEL_TOKEN", f"set; {where} (Cloudflare's dashboard)")
    elif not list(CREDENTIALS.expanduser().glob("*.json")):
        found = f"{settings.tunnel_name}: no credentials in {CREDENTIALS}"
        advice = f"cloudflared tunnel login && cloudflared tunnel create {settings.tunnel_name}"
        yield Finding(Level.PROBLEM, "TUNNEL_NAME", found, advice)
    else:
        yield Finding(Level.GOOD, "TUNNEL_NAME", f"{settings.tunnel_name}, with credentials in {CREDENTIALS}")


def _is_token(token: str) -> bool:
    try:
        content = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() >= TOKEN_KEYS


def _selftest(settings: Settings) -> Finding:
    service = running_service(settings)
    if service is None:
        found = f"not tried: no service answers at {settings.local_url}"
        return Finding(Level.NOTE, "self-test", found, "moshi-bridge serve, and the doctor in a second terminal")
    url = str(service["base_url"])
    if not service["open"]:
        found = "the service runs, but its tunnel is not open"
        return Finding(Level.PROBLEM, "self-test", found, "look at the service's last log lines")
    if is_loopback(urlsplit(url).hostname or ""):
        return Finding(Level.NOTE, "self-test", f"{url} is this machine alone", "moshi-bridge serve --tunnel")
    return _proved(url, settings, str(service["service"]))


def _proved(url: str, settings: Settings, service_name: str) -> Finding:
    try:
        asyncio.run(probe(url, next(iter(settings.auth_tokens), None), service_name))
    except ProbeFailed as error:
        advice = f"{url} must lead to {settings.local_url}, path unchanged; the doctor's and the service's .env be one"
        return Finding(Level.PROBLEM, "self-test", str(error), advice)
    return Finding(Level.GOOD, "self-test", f"a signed socket came back through {url}")
