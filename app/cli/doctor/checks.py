"""`moshi-bridge doctor`: checks everything that a call needs, one line a finding, with what to type."""

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.doctor.account import examine_account
from app.cli.doctor.finding import Finding, Level, good, note, problem
from app.cli.doctor.storage import examine_storage
from app.cli.doctor.survey import survey_checkpoint
from app.cli.doctor.tunnel import examine_tunnel, running_service
from app.config import CodecKind, EngineKind, Settings, SettingsError, is_loopback
from app.server.listener import listen
from workers.logging import mask_userinfo

PACKAGES = ("mlx", "moshi-mlx", "rustymimi", "fastapi", "uvicorn", "websockets", "twilio", "numpy", "soxr")
_GIB = 1 << 30


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything that a first call needs, cheapest first."""
    service = running_service(settings)
    base_url = str(service["base_url"]) if service else settings.server.base_url
    yield _python()
    yield _packages()
    yield _port(settings, is_running=service is not None)
    yield from _twilio(settings)
    if base_url == settings.server.base_url:
        yield _public_url(settings)
    else:
        yield good("PUBLIC_URL", f"{base_url}, from the tunnel of the running service")
    yield from examine_account(settings, base_url)
    yield from examine_tunnel(settings)
    yield from examine_storage(settings)
    if settings.model.engine is EngineKind.LOOPBACK and settings.model.codec is CodecKind.LOOPBACK:
        yield note("ENGINE", "loopback: callers hear themselves", "set ENGINE=mlx to hear Moshi")
        return
    survey = survey_checkpoint(settings)
    yield _device(survey)
    yield _checkpoint(survey, settings)


def report(settings: Settings) -> int:
    """Print all findings; return 1 if one is a problem, else 0."""
    console = Console()
    styles = {Level.GOOD: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}
    problems = 0
    for finding in examine(settings):
        problems += finding.level is Level.PROBLEM
        advice = f" [dim]→ {escape(mask_userinfo(finding.advice))}[/]" if finding.advice else ""
        mark = f"[{styles[finding.level]}]{finding.level:8}[/]"
        _print(console, mark, f"{finding.subject:22}", f"{escape(mask_userinfo(finding.found))}{advice}")
    return 1 if problems else 0


def _print(console: Console, mark: str, subject: str, words: str) -> None:
    """Print a finding: on a terminal in columns, elsewhere on one line."""
    if not console.is_terminal:
        console.print(f"{mark} {subject} {words}", highlight=False, soft_wrap=True)
        return
    row = Table.grid(padding=(0, 1))
    row.add_row(mark, subject, words)
    console.print(row, highlight=False)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return good("Python", f"{version} on {platform.platform()}")
    return problem("Python", version, "use Python 3.11, 3.12 or 3.13, then: make setup")


def _packages() -> Finding:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if missing := [name for name in PACKAGES if name not in versions]:
        return problem("packages", f"missing: {', '.join(missing)}", "make setup")
    return good("packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _port(settings: Settings, is_running: bool) -> Finding:
    try:
        settings.require_host()
    except SettingsError as error:
        return problem("HOST", str(error), "MOSHI_BRIDGE_HOST=127.0.0.1 moshi-bridge serve")
    place = f"{settings.server.host}:{settings.server.port}"
    try:
        listen(settings).close()
    except SettingsError as error:
        if is_running:
            return good("PORT", f"{place}: moshi-bridge runs there already")
        return problem("PORT", str(error), f"PORT={settings.server.port + 1} moshi-bridge serve")
    return good("PORT", f"{place} is free")


def _twilio(settings: Settings) -> Iterator[Finding]:
    yield _given(settings, "TWILIO_AUTH_TOKEN", Level.NOTE, "set; requests without its signature are refused")
    if settings.twilio.auth_token_secondary:
        yield _given(settings, "TWILIO_AUTH_TOKEN_SECONDARY", Level.NOTE, "set; accepted as well")
    yield _given(settings, "TWILIO_ACCOUNT_SID", Level.PROBLEM, "set")
    yield _given(settings, "TWILIO_PHONE_NUMBER", Level.PROBLEM, "set")


def _given(settings: Settings, name: str, level_of_doubt: Level, meaning: str) -> Finding:
    """Check whether a value from the Twilio console is set, and has its shape."""
    if not settings.value(name):
        return note(name, "not set: no real calls", "copy it from the Twilio console into .env")
    if doubt := settings.doubts.get(name):
        return Finding(level_of_doubt, name, doubt, "copy it from the Twilio console")
    return good(name, meaning)


def _public_url(settings: Settings) -> Finding:
    url = urlsplit(settings.server.base_url)
    try:
        settings.require_safe()
    except SettingsError as error:
        return problem("PUBLIC_URL", str(error))
    if settings.tunnel.start and not settings.tunnel.is_named:
        return good("PUBLIC_URL", "a quick tunnel gives one when the service runs (TUNNEL=true)")
    if is_loopback(url.hostname or ""):
        advice = "moshi-bridge serve --tunnel"
        return note("PUBLIC_URL", f"{settings.server.base_url}: only this machine can call", advice)
    if url.scheme != "https":
        advice = f"PUBLIC_URL=https://{url.netloc}{url.path}"
        return problem("PUBLIC_URL", "Twilio opens sockets over TLS only", advice)
    return good("PUBLIC_URL", f"{settings.server.base_url}; webhook {settings.server.base_url}/twilio/voice")


def _device(survey: dict[str, Any]) -> Finding:
    if "device" not in survey:
        return problem("MLX", survey.get("mlx_error", "missing"), "make setup")
    found = f"computes on {survey['device']} {survey['device_name']}".rstrip()
    if survey["is_gpu"]:
        return good("MLX", found)
    return note("MLX", found, "Moshi's 7B needs Apple silicon or CUDA: make setup ACCELERATOR=cuda13")


def _checkpoint(survey: dict[str, Any], settings: Settings) -> Finding:
    if error := survey.get("checkpoint_error"):
        return problem("MOSHI_CHECKPOINT", error)
    if "on_device" not in survey:
        found = f"{settings.model.checkpoint} is not on this machine yet"
        return note("MOSHI_CHECKPOINT", found, "serve fetches it (q4: 5.2 GB) and shows how far it is")
    return memory_finding(survey)


def memory_finding(survey: dict[str, Any]) -> Finding:
    """Return whether the calls fit into the memory of the device and the computer."""
    if survey["shortage"]:
        return problem("memory", survey["shortage"])
    device = f"{survey['on_device'] / _GIB:.1f} of {survey['device_bytes'] / _GIB:.1f} GiB of the device"
    ram = f"{survey['in_ram'] / _GIB:.1f} of {survey['ram_bytes'] / _GIB:.1f} GiB of RAM"
    return good("memory", f"for {survey['calls']} calls: {device}, {ram}")
