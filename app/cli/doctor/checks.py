"""`moshi-bridge doctor`: would a call be answered, and if not, what to type. One line a finding."""

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.doctor.finding import Finding, Level
from app.cli.doctor.storage import examine_storage
from app.cli.doctor.survey import survey_checkpoint
from app.cli.doctor.tunnel import examine_tunnel, running_service
from app.config import CodecKind, EngineKind, Settings, SettingsError, is_loopback
from app.server.listener import listen
from workers.lines import mask_userinfo

PACKAGES = ("mlx", "moshi-mlx", "rustymimi", "fastapi", "uvicorn", "websockets", "twilio", "numpy", "soxr")
_GIB = 1 << 30


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a first call needs, cheapest first."""
    service = running_service(settings)
    base_url = str(service["base_url"]) if service else settings.base_url
    yield _python()
    yield from _packages()
    yield from _port(settings)
    yield from _twilio(settings)
    yield _public_url(settings) if base_url == settings.base_url else _tunnels_url(base_url)
    yield from _account(settings, base_url)
    yield from examine_tunnel(settings)
    yield from examine_storage(settings)
    if settings.engine is EngineKind.LOOPBACK and settings.codec is CodecKind.LOOPBACK:
        yield Finding(Level.NOTE, "ENGINE", "loopback: callers hear themselves", "set ENGINE=mlx to hear Moshi")
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
        return Finding(Level.GOOD, "Python", f"{version} on {platform.platform()}")
    return Finding(Level.PROBLEM, "Python", version, "use Python 3.11, 3.12 or 3.13, then: make setup")


def _packages() -> Iterator[Finding]:
    missing = [name for name in PACKAGES if not _version(name)]
    if missing:
        yield Finding(Level.PROBLEM, "packages", f"missing: {', '.join(missing)}", "make setup")
    else:
        yield Finding(Level.GOOD, "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _port(settings: Settings) -> Iterator[Finding]:
    try:
        settings.require_host()
    except SettingsError as error:
        yield Finding(Level.PROBLEM, "HOST", str(error), "MOSHI_BRIDGE_HOST=127.0.0.1 moshi-bridge serve")
        return
    try:
        listen(settings).close()
    except SettingsError as error:
        if running_service(settings):
            yield Finding(Level.GOOD, "PORT", f"{settings.host}:{settings.port}: moshi-bridge runs there already")
        else:
            yield Finding(Level.PROBLEM, "PORT", str(error), f"PORT={settings.port + 1} moshi-bridge serve")
    else:
        yield Finding(Level.GOOD, "PORT", f"{settings.host}:{settings.port} is free")


def _twilio(settings: Settings) -> Iterator[Finding]:
    yield _given(settings, "TWILIO_AUTH_TOKEN", Level.NOTE, "set; what Twilio did not sign is refused")
    if settings.twilio_auth_token_secondary:
        yield _given(settings, "TWILIO_AUTH_TOKEN_SECONDARY", Level.NOTE, "set; accepted as well")
    yield _given(settings, "TWILIO_ACCOUNT_SID", Level.PROBLEM, "set")
    yield _given(settings, "TWILIO_PHONE_NUMBER", Level.PROBLEM, "set")


def _given(settings: Settings, name: str, level_of_doubt: Level, meaning: str) -> Finding:
    """Tell whether a value from the Twilio console is there, and whether it can be one."""
    if not getattr(settings, name.lower()):
        return Finding(Level.NOTE, name, "not set: no real calls", "copy it from the Twilio console into .env")
    if doubt := settings.doubts.get(name):
        return Finding(level_of_doubt, name, doubt, "copy it from the Twilio console")
    return Finding(Level.GOOD, name, meaning)


def _public_url(settings: Settings) -> Finding:
    url = urlsplit(settings.base_url)
    try:
        settings.require_safe()
    except SettingsError as error:
        return Finding(Level.PROBLEM, "PUBLIC_URL", str(error))
    if settings.tunnel and not settings.is_named_tunnel:
        return Finding(Level.GOOD, "PUBLIC_URL", "a quick tunnel gives one when the service runs (TUNNEL=true)")
    if is_loopback(url.hostname or ""):
        advice = "moshi-bridge serve --tunnel"
        return Finding(Level.NOTE, "PUBLIC_URL", f"{settings.base_url}: only this machine can call", advice)
    if url.scheme != "https":
        advice = f"PUBLIC_URL=https://{url.netloc}{url.path}"
        return Finding(Level.PROBLEM, "PUBLIC_URL", "Twilio opens sockets over TLS only", advice)
    return Finding(Level.GOOD, "PUBLIC_URL", f"{settings.base_url}; webhook {settings.base_url}/twilio/voice")


def _tunnels_url(base_url: str) -> Finding:
    return Finding(Level.GOOD, "PUBLIC_URL", f"{base_url}, from the tunnel of the service that runs")


def _account(settings: Settings, base_url: str) -> Iterator[Finding]:
    from app.cli.doctor.account import examine_account

    yield from examine_account(settings, base_url)


def _device(survey: dict[str, Any]) -> Finding:
    if "device" not in survey:
        return Finding(Level.PROBLEM, "MLX", survey.get("mlx_error", "missing"), "make setup")
    found = f"computes on {survey['device']} {survey['device_name']}".rstrip()
    if survey["is_gpu"]:
        return Finding(Level.GOOD, "MLX", found)
    return Finding(Level.NOTE, "MLX", found, "Moshi's 7B needs Apple silicon or CUDA: make setup ACCELERATOR=cuda13")


def _checkpoint(survey: dict[str, Any], settings: Settings) -> Finding:
    if error := survey.get("checkpoint_error"):
        return Finding(Level.PROBLEM, "MOSHI_CHECKPOINT", error)
    if "on_device" not in survey:
        found = f"{settings.moshi_checkpoint} is not on this machine yet"
        return Finding(Level.NOTE, "MOSHI_CHECKPOINT", found, "serve fetches it (q4: 5.2 GB) and shows how far it is")
    return memory_finding(survey)


def memory_finding(survey: dict[str, Any]) -> Finding:
    """Return whether the calls fit into the memory of the device and the computer."""
    if survey["shortage"]:
        return Finding(Level.PROBLEM, "memory", survey["shortage"])
    device = f"{survey['on_device'] / _GIB:.1f} of {survey['device_bytes'] / _GIB:.1f} GiB of the device"
    ram = f"{survey['in_ram'] / _GIB:.1f} of {survey['ram_bytes'] / _GIB:.1f} GiB of RAM"
    return Finding(Level.GOOD, "memory", f"for {survey['calls']} calls: {device}, {ram}")
