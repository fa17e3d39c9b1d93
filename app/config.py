"""The settings of the service: read once from the environment and `.env`, checked, frozen."""

import re
import socket
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app import setting_groups as groups
from app.server_urls import is_loopback
from app.setting_sources import PREFIX, Found, find_values
from app.setting_types import E164, CodecKind, EngineKind, RecordCalls, WhenBusy

__all__ = ["CodecKind", "EngineKind", "RecordCalls", "Settings", "SettingsError", "WhenBusy", "is_loopback"]
__all__ += ["read_settings"]
ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
AUTH_TOKEN = re.compile(r"[0-9a-fA-F]{32}")
SHAPES = (
    ("TWILIO_ACCOUNT_SID", ACCOUNT_SID, "AC and 32 hex digits"),
    ("TWILIO_AUTH_TOKEN", AUTH_TOKEN, "32 hex digits"),
    ("TWILIO_AUTH_TOKEN_SECONDARY", AUTH_TOKEN, "32 hex digits"),
    ("TWILIO_PHONE_NUMBER", E164, "+ and country code, like +15551234567"),
)
"""What Twilio's values look like."""
WORD_STEPS = 25
"""Frames of silence, two seconds, stepped before a greeting with words takes the caller's frames."""
NATS_NEEDS = ("NODE_URL", "PUBLIC_URL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
ONE_NUMBER = "the first node to end would take the number from all; in the console it gets PUBLIC_URL/twilio/voice"
SIGN = "Set TWILIO_AUTH_TOKEN (Twilio console) and VALIDATE_SIGNATURES=true."


class SettingsError(Exception):
    """Settings that cannot be served; the message has one line a setting, each naming it."""


class Settings(BaseModel):
    """Everything that can be set, by subject. `origin` and error texts use the names outside, such as PUBLIC_URL."""

    model_config = SettingsConfigDict(env_file=".env", extra="forbid", frozen=True)

    _found: dict[str, Found] = PrivateAttr(default_factory=dict)
    server: groups.ServerSettings = groups.ServerSettings()
    tunnel: groups.TunnelSettings = groups.TunnelSettings()
    twilio: groups.TwilioSettings = groups.TwilioSettings()
    model: groups.ModelSettings = groups.ModelSettings()
    transcription: groups.TranscriptionSettings = groups.TranscriptionSettings()
    sampling: groups.SamplingOptions = groups.SamplingOptions()
    calls: groups.CallSettings = groups.CallSettings()
    personas: groups.PersonaSettings = groups.PersonaSettings()
    callers: groups.CallerSettings = groups.CallerSettings()
    operators: groups.OperatorSettings = groups.OperatorSettings()
    transfer: groups.TransferSettings = groups.TransferSettings()
    webhook: groups.WebhookSettings = groups.WebhookSettings()
    chat: groups.ChatSettings = groups.ChatSettings()
    logging: groups.LogSettings = groups.LogSettings()
    call_log: groups.CallLogSettings = groups.CallLogSettings()
    recording: groups.RecordingSettings = groups.RecordingSettings()
    traces: groups.TraceSettings = groups.TraceSettings()
    cluster: groups.ClusterSettings = groups.ClusterSettings()

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "Settings":
        if self.tunnel.start and self.tunnel.is_named and not self.server.public_url:
            raise ValueError("PUBLIC_URL must say where the tunnel of TUNNEL_NAME or TUNNEL_TOKEN begins, https://…")
        if self.transfer.digit and self.transfer.digit == self.calls.hangup_digit:
            raise ValueError(f"TRANSFER_DIGIT and HANGUP_DIGIT are both {self.transfer.digit}: one key does one thing")
        if self.chat.token and self.chat.token == self.operators.token:
            raise ValueError("CHAT_TOKEN and OPERATOR_TOKEN are the same: a link to talk would make operators")
        if self.twilio.set_number and (missing := self._missing_for_number()):
            raise ValueError(f"SET_NUMBER needs {missing}")
        if self.cluster.nats_url and (missing := ", ".join(n for n in NATS_NEEDS if not self.value(n))):
            raise ValueError(f"NATS_URL needs {missing}, the same at all nodes but NODE_URL")
        if self.cluster.nats_url and self.twilio.set_number:
            raise ValueError(f"SET_NUMBER is for one machine alone: {ONE_NUMBER}")
        return self

    def _missing_for_number(self) -> str:
        needed = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_PHONE_NUMBER")
        if missing := [name for name in needed if not self.value(name)]:
            return ", ".join(missing)
        if not E164.fullmatch(self.twilio.phone_number):
            return "TWILIO_PHONE_NUMBER with + and country code, like +15551234567"
        is_local = is_loopback(urlsplit(self.server.base_url).hostname or "")
        return "TUNNEL=true (serve --tunnel) or a PUBLIC_URL" if is_local and not self.tunnel.start else ""

    def value(self, name: str) -> Any:
        """Return the value of a setting by its name outside."""
        group, field = NAMES[name]
        return getattr(getattr(self, group), field)

    def replaced(self, **changes: object) -> "Settings":
        """Return a copy with other values, by lower-case names. Raises SettingsError."""
        values = {name.lower(): self.value(name) for name in NAMES}
        return _build({**values, **changes}, self._found)

    @property
    def slots(self) -> int:
        """How many calls there may be at once, 0 for as many as fit."""
        is_remote = self.model.engine is EngineKind.REMOTE
        return sum(server.sessions for server in self.model.servers) if is_remote else self.calls.slots

    @property
    def greeting_steps(self) -> int:
        """Frames of silence that the engine is fed first; the loopback engine has nothing to say."""
        return self.calls.greeting_frames if self.model.engine is EngineKind.MLX else 0

    @property
    def greeting_word_steps(self) -> int:
        """The same for a greeting with words: so many that its first sound comes at once."""
        return WORD_STEPS if self.model.engine is EngineKind.MLX else 0

    @property
    def transcribe(self) -> str:
        """The checkpoint of speech-to-text, "" for none: line test and Moshi servers have no codes for it."""
        has_codes = self.model.codec is not CodecKind.LOOPBACK and self.model.engine is not EngineKind.REMOTE
        return self.transcription.spec if has_codes else ""

    @property
    def prepared_steps(self) -> int:
        """Frames of silence that the workers keep ready for greetings of both kinds."""
        return max(self.greeting_steps, self.greeting_word_steps) if self.personas.folder else self.greeting_steps

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: secret settings, and the passwords in URLs; a URL itself is none."""
        texts = {name: str(self.value(name)) for name in NAMES}
        kept = [text for name, text in texts.items() if not FIELDS[name].repr and text != "off"]
        hidden = [text for text in kept if "://" not in text]
        passwords = [one for text in texts.values() for url in {text, *text.split(",")} for one in _passwords(url)]
        of_servers = [secret for server in self.model.servers for secret in server.secrets]
        found = (*hidden, *self.traces.header_fields.values(), *passwords, *map(unquote, passwords), *of_servers)
        return tuple(filter(None, found))

    @property
    def doubts(self) -> dict[str, str]:
        """What is wrong with values that Twilio cannot have given, though they are not refused; by name."""
        return {
            name: f"it should be {shape}, and is not{self.origin(name)}"
            for name, pattern, shape in SHAPES
            if (value := self.value(name)) and not pattern.fullmatch(value)
        }

    def origin(self, name: str) -> str:
        """Return where the value of a setting was found, in brackets after a space; "" for a default or an option."""
        return _from(self._found.get(name.lower()))

    def require_host(self) -> None:
        """Raise SettingsError if HOST is no address and no name of one."""
        host = self.server.host
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"HOST={host} is no address of this machine{self.origin('HOST')}") from error

    def require_safe(self) -> None:
        """Raise SettingsError if other machines could send unsigned requests."""
        if self.twilio.checks_signatures:
            return
        missing = "TWILIO_AUTH_TOKEN is not set" if not self.twilio.auth_tokens else "VALIDATE_SIGNATURES is false"
        if self.tunnel.start:
            raise SettingsError(
                f"{missing}, but a tunnel can be reached from outside: anyone could place calls. {SIGN}"
            )
        public_host = urlsplit(self.server.base_url).hostname or ""
        for name, host in (("PUBLIC_URL", public_host), ("HOST", self.server.host)):
            if not is_loopback(host):
                origin = self.origin(name if self.server.public_url else "HOST")
                where = f"{name}={host} can be reached from outside{origin}"
                raise SettingsError(f"{missing}, but {where}: anyone could place calls. {SIGN}")


GROUPS: dict[str, type[groups.Group]] = {name: type(field.default) for name, field in Settings.model_fields.items()}
FIELDS: dict[str, FieldInfo] = {
    str(field.alias): field for group in GROUPS.values() for field in group.model_fields.values()
}
"""Every setting by its name outside."""
NAMES = {str(field.alias): (group, name) for group, kind in GROUPS.items() for name, field in kind.model_fields.items()}
"""Group and field of every setting."""


class ServiceManager(BaseSettings):
    """What systemd passes to a service that it starts; all empty elsewhere. No setting of the operator's."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    notify_socket: str = ""
    watchdog_usec: Annotated[int, Field(ge=0)] = 0
    watchdog_pid: int = 0

    def watchdog_s(self, process_id: int) -> float:
        """Return within how many seconds this process must report that it lives; 0: it need not."""
        return self.watchdog_usec / 1e6 if self.watchdog_pid in (0, process_id) else 0.0


def read_service_manager() -> ServiceManager:
    try:
        return ServiceManager()
    except ValidationError as error:
        raise SettingsError(_one_line_each(error, {})) from error


def read_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` (lower-case names) go before the environment. Raises SettingsError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        values = find_values(Settings.model_config.get("env_file"), [name.lower() for name in NAMES])
    except UnicodeDecodeError as error:
        raise SettingsError(".env: is not UTF-8; save it as plain UTF-8 text") from error
    found = {name: one for name, one in values.items() if name not in given}
    return _build({**{name: one.value for name, one in found.items()}, **given}, found)


def _build(values: Mapping[str, object], found: Mapping[str, Found]) -> Settings:
    nested: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        group, _ = NAMES[name.upper()]
        nested.setdefault(group, {})[name.upper()] = value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise SettingsError(_one_line_each(error, found)) from error
    settings._found.update(found)
    return settings


def _one_line_each(error: ValidationError, found: Mapping[str, Found]) -> str:
    """Return a line for each setting that is wrong; one of several kinds gets all their reasons."""
    reasons: dict[str, list[str]] = {}
    for item in error.errors():
        names = [str(part).upper() for part in item["loc"] if str(part) not in GROUPS]
        reasons.setdefault(names[0] if names else "settings", []).append(item["msg"].removeprefix("Value error, "))
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
    query = [part.partition("=") for part in parts.query.split("&")]
    return [parts.password or "", *(value for name, _, value in query if "password" in name.lower())]
