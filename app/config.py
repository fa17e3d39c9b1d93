"""The settings: the one place that reads the environment and `.env`."""

import ipaddress
import logging
import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.calls.screening import parse_patterns
from app.logging import LogFormat
from app.setting_sources import PREFIX, Found, find_values

log = logging.getLogger(__name__)


class EngineKind(StrEnum):
    """What speaks: Moshi, or the caller's own echo."""

    MLX = "mlx"
    LOOPBACK = "loopback"


class CodecKind(StrEnum):
    """What turns audio into codes: our own Mimi on MLX or numpy, rustymimi's, or nothing at all."""

    AUTO = "auto"
    MLX = "mlx"
    NUMPY = "numpy"
    RUSTYMIMI = "rustymimi"
    LOOPBACK = "loopback"


class WhenBusy(StrEnum):
    """What a caller meets when all slots are taken: the busy tone, a sentence, or a place in line."""

    REJECT = "reject"
    SAY = "say"
    QUEUE = "queue"


class RecordCalls(StrEnum):
    """Which calls are recorded: every one, or those that make-call --record asked for."""

    ALL = "all"
    ASKED = "asked"


OPERATOR_TOKEN_LENGTH = 16
"""A shorter one could be guessed."""

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
AUTH_TOKEN = re.compile(r"[0-9a-fA-F]{32}")
_SAMPLING = (
    "text_temperature",
    "text_top_k",
    "audio_temperature",
    "audio_top_k",
    "repetition_penalty",
    "padding_bias",
)


class SettingsError(Exception):
    """Settings that cannot be served; the message has one line a setting, each naming it."""


class Settings(BaseSettings):
    """Everything that can be set, from the environment or from `.env`; frozen once read."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    _found: dict[str, Found] = PrivateAttr(default_factory=dict)

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 5001
    public_url: Annotated[
        str, Field(description="how Twilio reaches this service, https://…; empty: the listen address (no calls)")
    ] = ""
    twilio_account_sid: Annotated[str, Field(description="AC…, from the Twilio console")] = ""
    twilio_auth_token: Annotated[str, Field(description="signs every request of Twilio's", repr=False)] = ""
    twilio_auth_token_secondary: Annotated[
        str, Field(description="accepted as well, while tokens are rotated", repr=False)
    ] = ""
    twilio_phone_number: Annotated[str, Field(description="your Twilio number, +15551234567")] = ""
    twilio_api_url: Annotated[
        str, Field(description="Twilio's REST API elsewhere, for a stand-in; empty: Twilio's")
    ] = ""
    validate_signatures: Annotated[
        bool, Field(description="refuse what Twilio did not sign; false only on loopback")
    ] = True
    moshi_checkpoint: Annotated[
        str, Field(description="hf://owner/repo, a folder, or synthetic:script, synthetic:parrot, synthetic:random")
    ] = "hf://kyutai/moshiko-mlx-q4"
    moshi_quantize: Annotated[str, Field(pattern="^(none|4|8)$", description="none, 4 or 8 bits at load")] = "none"
    max_calls: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=256)],
        Field(description="calls at once; auto: as many as fit into memory and are stepped in time"),
    ] = 1
    context: Annotated[
        int | None, Field(ge=50, le=3_000, description="steps of 80 ms that Moshi remembers; empty: the checkpoint's")
    ] = None
    max_call_seconds: Annotated[int, Field(ge=10, le=14_400, description="a call is ended after this long")] = 3_600
    greeting_frames: Annotated[
        int, Field(ge=0, le=125, description="frames of 80 ms that Moshi speaks before it listens")
    ] = 25
    when_busy: Annotated[
        WhenBusy,
        Field(description="when all slots are taken: reject (busy tone), say (a sentence), queue (wait in line)"),
    ] = WhenBusy.REJECT
    busy_sentence: Annotated[
        str, Field(min_length=1, max_length=500, description="what Twilio's voice says when WHEN_BUSY=say")
    ] = "All lines are busy. Please call again later."
    queue_length: Annotated[
        int, Field(ge=1, le=100, description="how many callers may wait when WHEN_BUSY=queue; the others are rejected")
    ] = 10
    allowed_callers: Annotated[
        str,
        Field(description="who may call: numbers or patterns such as +1555*, separated by commas; empty: everybody"),
    ] = ""
    blocked_callers: Annotated[
        str, Field(description="who may not call, even if allowed; anonymous is who withholds the number")
    ] = ""
    calls_per_number_per_hour: Annotated[
        int, Field(ge=0, le=1_000, description="more are rejected; withheld numbers count as one; 0: no limit")
    ] = 0
    idle_seconds: Annotated[
        int, Field(ge=0, le=14_400, description="a call is ended when the caller was silent for so long; 0: never")
    ] = 0
    drain_seconds: Annotated[
        int, Field(ge=0, le=14_400, description="how long running calls may go on after SIGTERM; 0: they end at once")
    ] = 0
    operator_token: Annotated[
        str,
        Field(
            description="lets operators in from elsewhere: signs in to the page, or Bearer …; empty: none", repr=False
        ),
    ] = ""
    refusals_per_minute: Annotated[
        int, Field(ge=1, le=100_000, description="so many unsigned requests of one address are answered with a reason")
    ] = 100
    text_temperature: Annotated[
        float | None, Field(ge=0, le=5, description="how freely Moshi chooses words; empty: the checkpoint's (0.7)")
    ] = None
    text_top_k: Annotated[
        int | None, Field(ge=1, le=1_000, description="among how many text tokens; empty: the checkpoint's (25)")
    ] = None
    audio_temperature: Annotated[
        float | None, Field(ge=0, le=5, description="how freely the voice varies; empty: the checkpoint's (0.8)")
    ] = None
    audio_top_k: Annotated[
        int | None, Field(ge=1, le=2_048, description="among how many codes; empty: the checkpoint's (250)")
    ] = None
    repetition_penalty: Annotated[
        float | None, Field(gt=0, le=5, description="divides the score of words said lately; 1 is off, 1.2 cures loops")
    ] = None
    padding_bias: Annotated[
        float | None, Field(ge=-20, le=20, description="above 0 Moshi is quieter, below 0 more talkative")
    ] = None
    seed: Annotated[int | None, Field(ge=0, description="every call draws the same chances; empty: new ones")] = None
    hangup_digit: Annotated[
        str, Field(pattern="^[0-9A-D*#]?$", description="the key that ends the call when the caller presses it: #, say")
    ] = ""
    log_digits: Annotated[
        bool,
        Field(description="write the keys that callers press into the log; they can be PINs, so * stands for each"),
    ] = False
    log_format: Annotated[
        LogFormat, Field(description="text for people, json for machines, auto: text on a terminal, else json")
    ] = LogFormat.AUTO
    engine: Annotated[EngineKind, Field(description="mlx, or loopback for the line test")] = EngineKind.MLX
    codec: Annotated[
        CodecKind, Field(description="auto, mlx, numpy, rustymimi (the reference), or loopback for the line test")
    ] = CodecKind.AUTO
    loopback_step_ms: Annotated[
        float,
        Field(ge=0, le=1000, description="how long a step of ENGINE=loopback takes, to try a slow model's timing"),
    ] = 0.0
    database_url: Annotated[
        str,
        Field(description="the call log: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME, or off", repr=False),
    ] = "sqlite:///~/.local/share/moshi-bridge/calls.db"
    call_log_days: Annotated[
        int,
        Field(ge=0, le=36_500, description="calls and recordings are deleted so long after their end; 0: never"),
    ] = 90
    recordings_dir: Annotated[
        str,
        Field(description="the folder for recordings, which by law may need the caller's consent; empty or off: none"),
    ] = ""
    record_calls: Annotated[
        RecordCalls, Field(description="all, or asked: those of make-call --record, once RECORDINGS_DIR is set")
    ] = RecordCalls.ALL
    traces_endpoint: Annotated[
        str,
        Field(description="each call's span goes here, OTLP over HTTP: http://HOST:4318/v1/traces; empty or off: none"),
    ] = ""
    traces_headers: Annotated[
        str, Field(description="sent along: Authorization=Bearer …, X-Other=…; separated by commas", repr=False)
    ] = ""
    cache_dir: Annotated[Path, Field(description="where stand-in checkpoints are made")] = Path("~/.cache/moshi-bridge")
    tunnel: Annotated[bool, Field(description="start cloudflared and take calls at its public URL")] = False
    tunnel_name: Annotated[
        str, Field(description="a named tunnel of yours that leads to PUBLIC_URL; empty: a quick tunnel, any URL")
    ] = ""
    tunnel_token: Annotated[
        str, Field(description="instead of a name: the tunnel's token, from Cloudflare's dashboard", repr=False)
    ] = ""
    set_number: Annotated[
        bool, Field(description="point TWILIO_PHONE_NUMBER here while the service runs, and back when it ends")
    ] = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `read_settings` has found, and nothing else."""
        return (init_settings,)

    @field_validator("public_url", "twilio_api_url", "traces_endpoint")
    @classmethod
    def _is_base_url(cls, url: str) -> str:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError unless it is one
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("must be http(s)://host[:port][/prefix]")
        if parts.path.rstrip("/").endswith("/twilio/voice"):
            raise ValueError("must end before /twilio/voice, which is added")
        return parts.geturl().rstrip("/")

    @field_validator("twilio_account_sid")
    @classmethod
    def _may_be_an_account_sid(cls, sid: str) -> str:
        if sid and not (sid.isascii() and sid.isalnum() and sid.startswith("AC")):
            kind = " (SK… is an API key's)" if sid.startswith("SK") else ""
            raise ValueError(f"must be AC and 32 hex digits, from the Twilio console{kind}")
        return sid

    @field_validator("twilio_auth_token", "twilio_auth_token_secondary")
    @classmethod
    def _may_be_a_token(cls, token: str) -> str:
        if not token.isascii() or not token.isprintable() or any(letter in token for letter in " \"'"):
            raise ValueError("must be 32 hex digits, from the Twilio console; it holds a space, a quote or the like")
        return token

    @field_validator("allowed_callers", "blocked_callers")
    @classmethod
    def _is_list_of_numbers(cls, text: str) -> str:
        return ",".join(parse_patterns(text))

    @field_validator("codec", mode="before")
    @classmethod
    def _is_renamed(cls, codec: object) -> object:
        if codec != "mimi":
            return codec
        log.warning("CODEC=mimi is called rustymimi now: write CODEC=rustymimi")
        return CodecKind.RUSTYMIMI

    @field_validator("traces_endpoint", mode="before")
    @classmethod
    def _is_off(cls, url: str) -> str:
        return "" if url == "off" else url

    @field_validator("traces_headers")
    @classmethod
    def _is_list_of_headers(cls, text: str) -> str:
        for name, separator, value in (part.partition("=") for part in text.split(",") if part.strip()):
            if not separator or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
                raise ValueError("must be NAME=VALUE, separated by commas")
        return text

    @field_validator("operator_token")
    @classmethod
    def _is_hard_to_guess(cls, token: str) -> str:
        if token and (len(token) < OPERATOR_TOKEN_LENGTH or not token.isascii() or " " in token):
            raise ValueError(f"must be {OPERATOR_TOKEN_LENGTH} characters or more, ASCII, without spaces")
        return token

    @model_validator(mode="after")
    def _engine_has_its_codec(self) -> "Settings":
        if self.engine is EngineKind.MLX and self.codec is CodecKind.LOOPBACK:
            raise ValueError("CODEC=loopback needs ENGINE=loopback: Moshi speaks in Mimi's codes")
        return self

    @model_validator(mode="after")
    def _named_tunnel_has_its_url(self) -> "Settings":
        if self.tunnel and self.is_named_tunnel and not self.public_url:
            raise ValueError("PUBLIC_URL must say where the tunnel of TUNNEL_NAME or TUNNEL_TOKEN begins, https://…")
        return self

    @model_validator(mode="after")
    def _number_is_whole(self) -> "Settings":
        needed = ("twilio_account_sid", "twilio_auth_token", "twilio_phone_number")
        if self.set_number and (missing := [name.upper() for name in needed if not getattr(self, name)]):
            raise ValueError(f"SET_NUMBER needs {', '.join(missing)}")
        if self.set_number and not E164.fullmatch(self.twilio_phone_number):
            raise ValueError("SET_NUMBER needs TWILIO_PHONE_NUMBER with + and country code, like +15551234567")
        if self.set_number and not self.tunnel and is_loopback(urlsplit(self.base_url).hostname or ""):
            raise ValueError("SET_NUMBER needs TUNNEL=true (serve --tunnel) or a PUBLIC_URL")
        return self

    @property
    def is_named_tunnel(self) -> bool:
        """Whether the tunnel is one of the operator's own, whose URL never changes."""
        return bool(self.tunnel_name or self.tunnel_token)

    @property
    def cache(self) -> Path:
        """CACHE_DIR in full."""
        return self.cache_dir.expanduser()

    @property
    def recordings(self) -> Path | None:
        """RECORDINGS_DIR in full, None if nothing is recorded."""
        wanted = self.recordings_dir not in ("", "off")
        return Path(self.recordings_dir).expanduser().absolute() if wanted else None

    @property
    def base_url(self) -> str:
        """Where Twilio reaches us: the public URL, or the listen address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def local_url(self) -> str:
        """Where programs on this machine reach us."""
        any_address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what HOST may say
        host = any_address.get(self.host) or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{self.port}"

    @property
    def auth_tokens(self) -> tuple[str, ...]:
        """The tokens that may have signed a request, the primary one first."""
        return tuple(token for token in (self.twilio_auth_token, self.twilio_auth_token_secondary) if token)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be seen: the settings that are not shown, and the passwords in URLs; a URL itself is none."""
        texts = {name: str(getattr(self, name)) for name in Settings.model_fields}
        kept = [text for name, text in texts.items() if not Settings.model_fields[name].repr and text != "off"]
        hidden = [text for text in kept if "://" not in text]
        passwords = [password for text in texts.values() for password in _passwords(text)]
        return tuple(filter(None, (*hidden, *self.trace_headers.values(), *passwords, *map(unquote, passwords))))

    @property
    def doubts(self) -> dict[str, str]:
        """What is wrong with values that Twilio cannot have given, though nothing is refused for it; by name."""
        shapes = (
            ("twilio_account_sid", ACCOUNT_SID, "AC and 32 hex digits"),
            ("twilio_auth_token", AUTH_TOKEN, "32 hex digits"),
            ("twilio_auth_token_secondary", AUTH_TOKEN, "32 hex digits"),
            ("twilio_phone_number", E164, "+ and country code, like +15551234567"),
        )
        return {
            name.upper(): f"it should be {shape}, and is not{self.origin(name)}"
            for name, pattern, shape in shapes
            if (value := getattr(self, name)) and not pattern.fullmatch(value)
        }

    def origin(self, name: str) -> str:
        """Return where the value of a setting was found, in brackets after a space; "" for a default or an option."""
        return _from(self._found.get(name))

    def require_host(self) -> None:
        """Raise SettingsError if HOST is no address and no name of one."""
        try:
            socket.getaddrinfo(self.host, None)
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"HOST={self.host} is no address of this machine{self.origin('host')}") from error

    @property
    def checks_signatures(self) -> bool:
        """Whether unsigned requests are refused."""
        return self.validate_signatures and bool(self.auth_tokens)

    @property
    def trace_headers(self) -> dict[str, str]:
        """TRACES_HEADERS by name."""
        parts = (part.partition("=") for part in self.traces_headers.split(",") if part.strip())
        return {name.strip(): value.strip() for name, _, value in parts}

    @property
    def quantize_bits(self) -> int | None:
        """MOSHI_QUANTIZE as a number."""
        return None if self.moshi_quantize == "none" else int(self.moshi_quantize)

    @property
    def slots(self) -> int:
        """MAX_CALLS as a number; 0 for auto."""
        return 0 if self.max_calls == "auto" else self.max_calls

    @property
    def sampling(self) -> tuple[tuple[str, float], ...]:
        """What is set of the rules by which Moshi draws, by name."""
        return tuple((name, value) for name in _SAMPLING if (value := getattr(self, name)) is not None)

    @property
    def greeting_steps(self) -> int:
        """Frames of silence that the engine is fed first; the loopback engine has nothing to say."""
        return 0 if self.engine is EngineKind.LOOPBACK else self.greeting_frames

    def require_safe(self) -> None:
        """Raise SettingsError if strangers could call unsigned."""
        if self.checks_signatures:
            return
        missing = "TWILIO_AUTH_TOKEN is not set" if not self.auth_tokens else "VALIDATE_SIGNATURES is false"
        if self.tunnel:
            raise SettingsError(
                f"{missing}, but a tunnel can be reached from outside: anyone could place calls. "
                "Set TWILIO_AUTH_TOKEN (Twilio console) and VALIDATE_SIGNATURES=true."
            )
        for name, host in (("PUBLIC_URL", urlsplit(self.base_url).hostname or ""), ("HOST", self.host)):
            if not is_loopback(host):
                origin = self.origin("public_url" if self.public_url and name == "PUBLIC_URL" else "host")
                raise SettingsError(
                    f"{missing}, but {name}={host} can be reached from outside{origin}: anyone could place calls. "
                    "Set TWILIO_AUTH_TOKEN (Twilio console) and VALIDATE_SIGNATURES=true."
                )


class ServiceManager(BaseSettings):
    """What systemd tells a service that it starts; all empty elsewhere. No setting of the operator's."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    notify_socket: str = ""
    watchdog_usec: Annotated[int, Field(ge=0)] = 0
    watchdog_pid: int = 0

    def watchdog_s(self, process_id: int) -> float:
        """Return within how many seconds this process must show that it lives; 0: it need not."""
        return self.watchdog_usec / 1e6 if self.watchdog_pid in (0, process_id) else 0.0


def read_service_manager() -> ServiceManager:
    """Read what systemd says. Raises SettingsError."""
    try:
        return ServiceManager()
    except ValidationError as error:
        raise SettingsError(_one_line_each(error, {})) from error


def read_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` (lower-case names) go before the environment. Raises SettingsError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    found: dict[str, Found] = {}
    try:
        found = {name: one for name, one in find_values(Settings).items() if name not in given}
        settings = Settings(**{name: one.value for name, one in found.items()}, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_one_line_each(error, found)) from error
    except UnicodeDecodeError as error:
        raise SettingsError(".env: is not UTF-8; save it as plain UTF-8 text") from error
    settings._found.update(found)
    return settings


def _one_line_each(error: ValidationError, found: Mapping[str, Found]) -> str:
    """Return a line for each setting that is wrong; one that may be of several kinds is told them all."""
    reasons: dict[str, list[str]] = {}
    for item in error.errors():
        name = str(item["loc"][0]).upper() if item["loc"] else "settings"
        reasons.setdefault(name, []).append(item["msg"].removeprefix("Value error, "))
    return "\n".join(
        f"{name}: {'; or '.join(wrong)}{_from(found.get(name.lower()))}" for name, wrong in reasons.items()
    )


def _from(found: Found | None) -> str:
    """Return where a value was found and what wins over it, in brackets; "" if it was given to the command."""
    if found is None:
        return ""
    if found.name.startswith(PREFIX):
        return f" ({found.name} is set in {found.place})"
    return f" (set in {found.place}; {PREFIX}{found.name} wins over it)"


def _passwords(url: str) -> list[str]:
    """Return the passwords in a URL, as they are written there: before the host and in the query."""
    if "://" not in url:
        return []
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    asked = [part.partition("=") for part in parts.query.split("&")]
    return [parts.password or "", *(value for name, _, value in asked if "password" in name.lower())]


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def example_env() -> str:
    """Return `.env.example`: every setting with what it means and its default, commented out."""
    parts = [
        "# Copy to .env. Fill in a line and take the # before it away: what stays is its default.\n"
        "# Real calls need TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_PHONE_NUMBER, and a tunnel or PUBLIC_URL.\n"
        "# MOSHI_BRIDGE_ before a name (MOSHI_BRIDGE_HOST=…), here or in the environment, wins over the plain name,\n"
        "# which another program may have set: conda exports HOST.\n"
    ]
    for name, field in Settings.model_fields.items():
        parts.append(f"\n# {field.description}\n# {name.upper()}={_env_value(field.default)}\n")
    return "".join(parts)


def _env_value(default: object) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
