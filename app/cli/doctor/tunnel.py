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

from app.cli.doctor.finding import Finding, Severity, good, note, problem
from app.config import Settings, is_loopback
from app.http.selftest import ProbeFailed, probe
from app.server.cloudflared import CREDENTIALS, HOW_TO_INSTALL, PROGRAM

VERSION_WITHIN_S = 5.0
TOKEN_KEYS = {"a", "t", "s"}
"""Account, tunnel and secret, in the JSON that a tunnel's token is."""


def examine_tunnel(settings: Settings, service: dict[str, Any] | None) -> Iterator[Finding]:
    """Check cloudflared and the tunnel's settings; open a signed socket through the public URL of a running service."""
    yield _cloudflared(settings)
    if settings.tunnel.is_named:
        if not settings.server.public_url:
            found = "the tunnel has a URL of its own, and PUBLIC_URL does not say it"
            yield problem("tunnel", found, "PUBLIC_URL=https://… as you routed it")
        yield _token(settings) if settings.tunnel.token else _credentials(settings)
    yield _selftest(settings, service)


def _cloudflared(settings: Settings) -> Finding:
    program = shutil.which(PROGRAM)
    if not program:
        severity = Severity.PROBLEM if settings.tunnel.start else Severity.NOTE
        return Finding(severity, PROGRAM, "not installed: serve --tunnel needs it", HOW_TO_INSTALL)
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": VERSION_WITHIN_S, "check": False}
    try:
        run = subprocess.run([program, "--version"], **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        return problem(PROGRAM, f"{program} does not run: {error}", HOW_TO_INSTALL)
    version = re.search(r"version (\S+)", run.stdout)
    if run.returncode or not version:
        return problem(PROGRAM, f"{program} --version says nothing of a version", HOW_TO_INSTALL)
    return good(PROGRAM, f"{version[1]} at {program}")


def _token(settings: Settings) -> Finding:
    try:
        content = json.loads(base64.b64decode(settings.tunnel.token, validate=True))
    except ValueError:
        content = None
    if not (isinstance(content, dict) and content.keys() >= TOKEN_KEYS):
        return problem("TUNNEL_TOKEN", "is no token of a tunnel", "copy it anew: cloudflared tunnel token NAME")
    leads = f"its public host name must lead to {settings.server.local_url}"
    return good("TUNNEL_TOKEN", f"set; {leads} (Cloudflare's dashboard)")


def _credentials(settings: Settings) -> Finding:
    name = settings.tunnel.name
    if any(CREDENTIALS.expanduser().glob("*.json")):
        return good("TUNNEL_NAME", f"{name}, with credentials in {CREDENTIALS}")
    advice = f"cloudflared tunnel login && cloudflared tunnel create {name}"
    return problem("TUNNEL_NAME", f"{name}: no credentials in {CREDENTIALS}", advice)


def _selftest(settings: Settings, service: dict[str, Any] | None) -> Finding:
    here = settings.server.local_url
    if service is None:
        advice = "moshi-bridge serve, and the doctor in a second terminal"
        return note("self-test", f"not tried: no service answers at {here}", advice)
    if not service["open"]:
        return problem("self-test", "the service runs, but its tunnel is not open", "see the service's last log lines")
    url = str(service["base_url"])
    if is_loopback(urlsplit(url).hostname or ""):
        return note("self-test", f"{url} is this machine alone", "moshi-bridge serve --tunnel")
    try:
        asyncio.run(probe(url, next(iter(settings.twilio.auth_tokens), None), str(service["service"])))
    except ProbeFailed as error:
        advice = f"{url} must lead to {here}, path unchanged, and both must have the same .env"
        return problem("self-test", str(error), advice)
    return good("self-test", f"a signed socket came back through {url}")
