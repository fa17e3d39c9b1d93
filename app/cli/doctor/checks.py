"""`moshi-bridge doctor`: checks everything that a call needs, one line a finding, with what to type."""

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.doctor.account import examine_account
from app.cli.doctor.cluster import examine_cluster
from app.cli.doctor.finding import Finding, Severity, good, note, problem
from app.cli.doctor.personas import examine_personas
from app.cli.doctor.servers import examine_servers
from app.cli.doctor.storage import examine_storage
from app.cli.doctor.survey import survey_checkpoint
from app.cli.doctor.tunnel import examine_tunnel
from app.cli.service_client import running_service
from app.config import CodecKind, EngineKind, Settings, SettingsError, is_loopback
from app.server.listener import listen
from workers.logging import mask_userinfo

PACKAGES = ("fastapi", "uvicorn", "websockets", "twilio", "numpy", "soxr")
OF_MODELS = ("mlx", "moshi-mlx", "rustymimi")
"""Packages that a service with Moshi servers elsewhere needs not."""
STYLES = {Severity.GOOD: "green", Severity.NOTE: "yellow", Severity.PROBLEM: "bold red"}
_GIB = 1 << 30


def examine(settings: Settings) -> Iterator[Finding]:
    service = running_service(settings)
    base_url = str(service["base_url"]) if service else settings.server.base_url
    yield good("Python", f"{platform.python_version()} on {platform.platform()}")
    yield _packages(PACKAGES if settings.model.engine is EngineKind.REMOTE else (*OF_MODELS, *PACKAGES))
    yield _port(settings, is_running=service is not None)
    yield from _twilio(settings)
    if base_url == settings.server.base_url:
        yield _public_url(settings)
    else:
        yield good("PUBLIC_URL", f"{base_url}, from the tunnel of the running service")
    yield from examine_account(settings, base_url)
    yield from examine_tunnel(settings, service)
    yield from examine_cluster(settings)
    yield from examine_storage(settings)
    if settings.model.engine is EngineKind.REMOTE:
        yield from examine_personas(settings, takes_prompts=any(one.personaplex for one in settings.model.servers))
        yield from examine_servers(settings)
        return
    if settings.model.engine is EngineKind.LOOPBACK and settings.model.codec is CodecKind.LOOPBACK:
        yield from examine_personas(settings, takes_prompts=False)
        yield note("ENGINE", "loopback: callers hear themselves", "set ENGINE=mlx to hear Moshi")
        return
    survey = survey_checkpoint(settings)
    yield from examine_personas(settings, survey.get("takes_prompts"))
    yield _device(survey)
    yield _checkpoint(survey, settings)
    yield _transcriber(survey, settings)


def report(settings: Settings) -> int:
    """Print all findings; return 1 if one is a problem, else 0."""
    console, severities = Console(), set()
    for severity, subject, found, advice in examine(settings):
        severities.add(severity)
        words = escape(mask_userinfo(found))
        if advice:
            words += f" [dim]→ {escape(mask_userinfo(advice))}[/]"
        _print(console, f"[{STYLES[severity]}]{severity:8}[/]", f"{subject:22}", words)
    return int(Severity.PROBLEM in severities)


def _print(console: Console, *cells: str) -> None:
    """Print a finding: on a terminal in columns, elsewhere on one line."""
    if console.is_terminal:
        row = Table.grid(padding=(0, 1))
        row.add_row(*cells)
        console.print(row, highlight=False)
    else:
        console.print(*cells, highlight=False, soft_wrap=True)


def _packages(names: Iterable[str]) -> Finding:
    try:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    except importlib.metadata.PackageNotFoundError as error:
        return problem("packages", f"missing: {error.name}", "make setup")
    return good("packages", ", ".join(versions))


def _port(settings: Settings, is_running: bool) -> Finding:
    address, port = f"{settings.server.host}:{settings.server.port}", settings.server.port
    try:
        settings.require_host()
    except SettingsError as error:
        return problem("HOST", str(error), "MOSHI_BRIDGE_HOST=127.0.0.1 moshi-bridge serve")
    try:
        listen(settings).close()
    except SettingsError as error:
        if is_running:
            return good("PORT", f"{address}: moshi-bridge runs there already")
        return problem("PORT", str(error), f"PORT={port + 1} moshi-bridge serve")
    return good("PORT", f"{address} is free")


def _twilio(settings: Settings) -> Iterator[Finding]:
    yield _given(settings, "TWILIO_AUTH_TOKEN", Severity.NOTE, "set; requests without its signature are refused")
    if settings.twilio.auth_token_secondary:
        yield _given(settings, "TWILIO_AUTH_TOKEN_SECONDARY", Severity.NOTE, "set; accepted as well")
    yield _given(settings, "TWILIO_ACCOUNT_SID", Severity.PROBLEM, "set")
    yield _given(settings, "TWILIO_PHONE_NUMBER", Severity.PROBLEM, "set")


def _given(settings: Settings, name: str, severity_of_doubt: Severity, meaning: str) -> Finding:
    if not settings.value(name):
        return note(name, "not set: no real calls", "copy it from the Twilio console into .env")
    if doubt := settings.doubts.get(name):
        return Finding(severity_of_doubt, name, doubt, "copy it from the Twilio console")
    return good(name, meaning)


def _public_url(settings: Settings) -> Finding:
    base_url = settings.server.base_url
    url = urlsplit(base_url)
    try:
        settings.require_safe()
    except SettingsError as error:
        return problem("PUBLIC_URL", str(error))
    if settings.tunnel.start and not settings.tunnel.is_named:
        return good("PUBLIC_URL", "a quick tunnel gives one when the service runs (TUNNEL=true)")
    if is_loopback(url.hostname or ""):
        return note("PUBLIC_URL", f"{base_url}: only this machine can call", "moshi-bridge serve --tunnel")
    if url.scheme != "https":
        return problem("PUBLIC_URL", "Twilio opens sockets over TLS only", f"PUBLIC_URL=https://{url.netloc}{url.path}")
    return good("PUBLIC_URL", f"{base_url}; webhook {base_url}/twilio/voice")


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


def _transcriber(survey: dict[str, Any], settings: Settings) -> Finding:
    if not settings.transcribe:
        return good("TRANSCRIBE", "off: what callers say is not written down")
    found = survey.get("transcribe", "")
    if found == "not downloaded":
        here = f"{settings.transcribe} is not on this machine yet, nor counted above"
        return note("TRANSCRIBE", here, "serve fetches it (2 GB)")
    if not found:
        return note("TRANSCRIBE", f"{settings.transcribe}: not examined, see MOSHI_CHECKPOINT")
    return good("TRANSCRIBE", f"{settings.transcribe}: what callers say is written down; tell them")


def memory_finding(survey: dict[str, Any]) -> Finding:
    if survey["shortage"]:
        return problem("memory", survey["shortage"])
    device = f"{survey['on_device'] / _GIB:.1f} of {survey['device_bytes'] / _GIB:.1f} GiB of the device"
    ram = f"{survey['in_ram'] / _GIB:.1f} of {survey['ram_bytes'] / _GIB:.1f} GiB of RAM"
    return good("memory", f"for {survey['calls']} calls: {device}, {ram}")
