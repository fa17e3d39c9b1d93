"""What the values of settings may be: one of a few names, or a text that is checked."""

import logging
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from app.calls.screening import parse_patterns
from app.calls.transfer import parse_target
from app.server_urls import is_loopback, parse_servers
from app.telemetry.webhooks.signature import key_of

log = logging.getLogger(__name__)

OPERATOR_TOKEN_LENGTH = 16
NATS_SCHEMES = ("nats", "tls")
NATS_PARAMETERS = ("creds", "nkey", "ca", "tls")
"""What NATS_URL may name behind its `?`: the files of a credential, the servers' authority, when TLS begins."""
E164 = re.compile(r"\+[1-9][0-9]{6,14}")


class EngineKind(StrEnum):
    MLX = "mlx"
    LOOPBACK = "loopback"
    REMOTE = "remote"


class CodecKind(StrEnum):
    AUTO = "auto"
    MLX = "mlx"
    NUMPY = "numpy"
    RUSTYMIMI = "rustymimi"
    LOOPBACK = "loopback"


class WhenBusy(StrEnum):
    REJECT = "reject"
    SAY = "say"
    QUEUE = "queue"


class RecordCalls(StrEnum):
    ALL = "all"
    ASKED = "asked"


def _base_url(url: str) -> str:
    """Return a URL without a slash at the end; raise ValueError unless it is http(s) without query."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError unless it is one
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise ValueError("must be http(s)://host[:port][/prefix]")
    if parts.path.rstrip("/").endswith("/twilio/voice"):
        raise ValueError("must end before /twilio/voice, which is added")
    return parts.geturl().rstrip("/")


def _account_sid(sid: str) -> str:
    if sid and not (sid.isascii() and sid.isalnum() and sid.startswith("AC")):
        kind = " (SK… is an API key's)" if sid.startswith("SK") else ""
        raise ValueError(f"must be AC and 32 hex digits, from the Twilio console{kind}")
    return sid


def _auth_token(token: str) -> str:
    if not token.isascii() or not token.isprintable() or any(letter in token for letter in " \"'"):
        raise ValueError("must be 32 hex digits, from the Twilio console; it holds a space, a quote or the like")
    return token


def _operator_token(token: str) -> str:
    if token and (len(token) < OPERATOR_TOKEN_LENGTH or not token.isascii() or " " in token):
        raise ValueError(f"must be {OPERATOR_TOKEN_LENGTH} characters or more, ASCII, without spaces")
    return token


def _servers(text: str) -> str:
    parse_servers(text)
    return text


def _headers(text: str) -> str:
    for name, separator, value in (part.partition("=") for part in text.split(",") if part.strip()):
        if not separator or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
            raise ValueError("must be NAME=VALUE, separated by commas")
    return text


def _nats_url(url: str) -> str:
    """Raise ValueError unless these are servers, with commas between, and perhaps the files of a credential."""
    servers, _, query = url.partition("?")
    for server in servers.split(",") if url else ():
        parts = urlsplit(server)
        _ = parts.port  # raises ValueError unless it is one
        if parts.scheme not in NATS_SCHEMES or not parts.hostname or parts.path or parts.fragment:
            raise ValueError("must be nats://host:4222 or tls://host:4222, several with commas between")
        if parts.scheme != "tls" and not is_loopback(parts.hostname):
            raise ValueError("another machine is reached by tls:// only: token logs decode to both voices")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [name for name in given if name not in NATS_PARAMETERS]:
        raise ValueError(f"knows {', '.join(NATS_PARAMETERS)} behind its ?, not {unknown[0][:20]}")
    if given.get("tls", "first") != "first":
        raise ValueError("knows no other tls= than tls=first")
    return url


def expanded(path: str | Path) -> Path:
    """Return a path with a home in place of its ~. Raises ValueError."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home folder; write ~/ or the whole path") from error


def _folder(path: str | Path | None) -> Path | None:
    return expanded(path).absolute() if path and path != "off" else None


def _off(text: str) -> str:
    return "" if text == "off" else text


def _named_checkpoint(spec: str) -> str:
    if spec.lower() in ("true", "false", "yes", "no", "on", "1", "0"):
        raise ValueError("must name a checkpoint, such as hf://kyutai/stt-1b-en_fr-mlx, or be off")
    return spec


def _codec(codec: object) -> object:
    if codec == "mimi":
        log.warning("CODEC=mimi is called rustymimi now: write CODEC=rustymimi")
        return CodecKind.RUSTYMIMI
    return codec


def _webhook_url(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError unless it is one
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if url and (not is_safe or not parts.hostname or parts.username or parts.fragment):
        raise ValueError("must be https://host[:port]/path, or http://localhost… for a program on this machine")
    return url


def _webhook_secret(secret: str) -> str:
    key_of(secret)
    return _operator_token(secret)


HomePath = Annotated[Path, AfterValidator(expanded)]
Folder = Annotated[Path | None, BeforeValidator(_folder)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
AuthToken = Annotated[str, AfterValidator(_auth_token)]
Target = Annotated[str, AfterValidator(parse_target)]
Numbers = Annotated[str, AfterValidator(lambda text: ",".join(parse_patterns(text)))]
Temperature = Annotated[float, Field(ge=0, le=5)]
TextTopK = Annotated[int, Field(ge=1, le=1_000)]
AudioTopK = Annotated[int, Field(ge=1, le=2_048)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=5)]
PaddingBias = Annotated[float, Field(ge=-20, le=20)]
AccountSid = Annotated[str, AfterValidator(_account_sid)]
OperatorToken = Annotated[str, AfterValidator(_operator_token)]
Servers = Annotated[str, AfterValidator(_servers)]
Headers = Annotated[str, AfterValidator(_headers)]
NatsUrl = Annotated[str, AfterValidator(_nats_url)]
Checkpoint = Annotated[str, AfterValidator(_named_checkpoint)]
WebhookUrl = Annotated[str, AfterValidator(_webhook_url)]
WebhookSecret = Annotated[str, AfterValidator(_webhook_secret)]
Codec = Annotated[CodecKind, BeforeValidator(_codec)]
BaseUrlOrOff = Annotated[BaseUrl, BeforeValidator(_off)]
