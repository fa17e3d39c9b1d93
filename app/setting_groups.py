"""The settings by subject: each with its name outside, its default and what it means."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app import setting_types as types
from app.logging import LogFormat
from app.server_urls import ServerUrl, parse_servers


def setting(name: str, default: object, secret: bool = False, **limits: Any) -> Any:
    """Return the field of the setting `name` in the environment; `limits` are pydantic's, a `secret` is never shown."""
    return Field(default, alias=name, repr=not secret, **limits)


class Group(BaseModel):
    """Settings of one subject. The text below a field is its description in `.env.example`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(Group):
    host: str = setting("HOST", "127.0.0.1")
    """address to listen on"""
    port: int = setting("PORT", 5001, ge=1, le=65_535)
    """port to listen on"""
    public_url: types.BaseUrl = setting("PUBLIC_URL", "")
    """how Twilio reaches this service, https://…; empty: the listen address (no calls)"""

    @property
    def base_url(self) -> str:
        return self.public_url or self._url(self.host)

    @property
    def local_url(self) -> str:
        """Where programs on this machine reach us."""
        any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what HOST may say
        return self._url(any_address.get(self.host, self.host))

    def _url(self, host: str) -> str:
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class TunnelSettings(Group):
    start: bool = setting("TUNNEL", False)
    """start cloudflared and take calls at its public URL"""
    name: str = setting("TUNNEL_NAME", "")
    """a named tunnel of yours that leads to PUBLIC_URL; empty: a quick tunnel, any URL"""
    token: str = setting("TUNNEL_TOKEN", "", secret=True)
    """instead of a name: the tunnel's token, from Cloudflare's dashboard"""

    @property
    def is_named(self) -> bool:
        return bool(self.name or self.token)


class TwilioSettings(Group):
    account_sid: types.AccountSid = setting("TWILIO_ACCOUNT_SID", "")
    """AC…, from the Twilio console"""
    auth_token: types.AuthToken = setting("TWILIO_AUTH_TOKEN", "", secret=True)
    """signs every request of Twilio's"""
    auth_token_secondary: types.AuthToken = setting("TWILIO_AUTH_TOKEN_SECONDARY", "", secret=True)
    """accepted as well, while tokens are rotated"""
    phone_number: str = setting("TWILIO_PHONE_NUMBER", "")
    """your Twilio number, +15551234567"""
    set_number: bool = setting("SET_NUMBER", False)
    """point TWILIO_PHONE_NUMBER here while the service runs, and back when it ends"""
    api_url: types.BaseUrl = setting("TWILIO_API_URL", "")
    """a REST API in place of Twilio's, for tests; empty: Twilio's"""
    validate_signatures: bool = setting("VALIDATE_SIGNATURES", True)
    """refuse what Twilio did not sign; false only on loopback"""

    @property
    def auth_tokens(self) -> tuple[str, ...]:
        """The tokens that may have signed a request, the primary one first."""
        return tuple(token for token in (self.auth_token, self.auth_token_secondary) if token)

    @property
    def checks_signatures(self) -> bool:
        return self.validate_signatures and bool(self.auth_tokens)


class ModelSettings(Group):
    checkpoint: str = setting("MOSHI_CHECKPOINT", "hf://kyutai/moshiko-mlx-q4")
    """hf://owner/repo, a folder, or synthetic:script, synthetic:parrot, synthetic:random (docs/checkpoints.md)"""
    lora: str = setting("MOSHI_LORA", "")
    """a LoRA fine-tune that is added to the weights: hf://owner/repo or a folder; empty: none"""
    quantize: str = setting("MOSHI_QUANTIZE", "none", pattern="^(none|4|8)$")
    """none, 4 or 8 bits at load"""
    context: int | None = setting("CONTEXT", None, ge=50, le=3_000)
    """steps of 80 ms that Moshi remembers; empty: the checkpoint's"""
    engine: types.EngineKind = setting("ENGINE", types.EngineKind.MLX)
    """mlx, loopback for the line test, or remote: Moshi runs elsewhere (docs/remote.md)"""
    servers_list: types.Servers = setting("MOSHI_SERVERS", "", secret=True)
    """for ENGINE=remote: wss://gpu1:8998?sessions=4#sha256=…,wss://gpu2:8998?kind=personaplex (docs/remote.md)"""
    codec: types.Codec = setting("CODEC", types.CodecKind.AUTO)
    """auto, mlx, numpy, rustymimi (the reference), or loopback for the line test"""
    loopback_step_ms: float = setting("LOOPBACK_STEP_MS", 0.0, ge=0, le=1000)
    """how long a step of ENGINE=loopback takes, to try a slow model's timing"""
    cache_dir: types.HomePath = setting("CACHE_DIR", Path("~/.cache/moshi-bridge"))
    """where synthetic checkpoints are made and voices unpacked"""

    @model_validator(mode="after")
    def _engine_has_its_codec(self) -> "ModelSettings":
        if self.engine is types.EngineKind.MLX and self.codec is types.CodecKind.LOOPBACK:
            raise ValueError("CODEC=loopback needs ENGINE=loopback: Moshi speaks in Mimi's codes")
        if self.engine is types.EngineKind.REMOTE and not self.servers:
            raise ValueError("ENGINE=remote needs MOSHI_SERVERS, such as wss://gpu:8998")
        return self

    @property
    def servers(self) -> tuple[ServerUrl, ...]:
        return parse_servers(self.servers_list)

    @property
    def cache(self) -> Path:
        return self.cache_dir.expanduser()

    @property
    def quantize_bits(self) -> int | None:
        return None if self.quantize == "none" else int(self.quantize)


class TranscriptionSettings(Group):
    checkpoint: types.Checkpoint = setting("TRANSCRIBE", "off")
    """writes down what callers say (personal data): hf://kyutai/stt-1b-en_fr-mlx, a folder, synthetic:stt, or off"""

    @property
    def spec(self) -> str:
        """The checkpoint, "" for off."""
        return "" if self.checkpoint == "off" else self.checkpoint


class SamplingOptions(Group):
    """How Moshi's tokens are sampled; None is the checkpoint's own value."""

    text_temperature: types.Temperature | None = setting("TEXT_TEMPERATURE", None)
    """how freely Moshi chooses words; empty: the checkpoint's (0.7)"""
    text_top_k: types.TextTopK | None = setting("TEXT_TOP_K", None)
    """among how many text tokens; empty: the checkpoint's (25)"""
    audio_temperature: types.Temperature | None = setting("AUDIO_TEMPERATURE", None)
    """how freely the voice varies; empty: the checkpoint's (0.8)"""
    audio_top_k: types.AudioTopK | None = setting("AUDIO_TOP_K", None)
    """among how many codes; empty: the checkpoint's (250)"""
    repetition_penalty: types.RepetitionPenalty | None = setting("REPETITION_PENALTY", None)
    """divides the score of words said lately; 1 is off, 1.2 cures loops"""
    padding_bias: types.PaddingBias | None = setting("PADDING_BIAS", None)
    """above 0 Moshi is quieter, below 0 more talkative"""
    seed: int | None = setting("SEED", None, ge=0)
    """every call draws the same random numbers; empty: new ones"""

    @property
    def given(self) -> tuple[tuple[str, float], ...]:
        """What is set, by name, without the seed."""
        return tuple((name, value) for name, value in self if value is not None and name != "seed")


class CallSettings(Group):
    max: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = setting("MAX_CALLS", 1)
    """calls at once; auto: as many as fit into memory and are stepped in time"""
    max_seconds: int = setting("MAX_CALL_SECONDS", 3_600, ge=10, le=14_400)
    """a call is ended after this long"""
    greeting_frames: int = setting("GREETING_FRAMES", 25, ge=0, le=125)
    """frames of 80 ms that Moshi speaks before it listens, unless a persona has words for it"""
    when_busy: types.WhenBusy = setting("WHEN_BUSY", types.WhenBusy.REJECT)
    """when all slots are taken: reject (busy tone), say (a sentence), queue"""
    busy_sentence: str = setting(
        "BUSY_SENTENCE", "All lines are busy. Please call again later.", min_length=1, max_length=500
    )
    """what Twilio's voice says when WHEN_BUSY=say"""
    queue_length: int = setting("QUEUE_LENGTH", 10, ge=1, le=100)
    """how many callers may wait when WHEN_BUSY=queue; the others are rejected"""
    idle_seconds: int = setting("IDLE_SECONDS", 0, ge=0, le=14_400)
    """a call is ended when the caller was silent for so long; 0: never"""
    drain_seconds: int = setting("DRAIN_SECONDS", 0, ge=0, le=14_400)
    """how long running calls may go on after SIGTERM; 0: they end at once"""
    resume_seconds: int = setting("RESUME_SECONDS", 10, ge=0, le=120)
    """how long calls wait for a pipeline that is started again; also whether lost streams go on; 0: they end"""
    hangup_digit: str = setting("HANGUP_DIGIT", "", pattern="^[0-9A-D*#]?$")
    """the key that ends the call when the caller presses it: #, say"""

    @property
    def slots(self) -> int:
        return 0 if self.max == "auto" else self.max


class PersonaSettings(Group):
    folder: types.Folder = setting("PERSONAS_DIR", None)
    """the folder of the personas, NAME.toml, and of their voices (docs/personas.md); empty: none"""
    default: str = setting("PERSONA", "")
    """the name of the persona for calls that choose none by ?persona= or by the number called; empty: plain Moshi"""
    greeting_listens: bool = setting("GREETING_LISTENS", False)
    """Moshi hears the caller while it says a persona's greeting; false: not before its last word"""


class CallerSettings(Group):
    allowed: types.Numbers = setting("ALLOWED_CALLERS", "")
    """who may call: numbers or patterns such as +1555*, separated by commas; empty: everybody"""
    blocked: types.Numbers = setting("BLOCKED_CALLERS", "")
    """who may not call, even if allowed; anonymous is who withholds the number"""
    per_hour: int = setting("CALLS_PER_NUMBER_PER_HOUR", 0, ge=0, le=1_000)
    """more are rejected; withheld numbers count as one; 0: no limit"""


class OperatorSettings(Group):
    token: types.OperatorToken = setting("OPERATOR_TOKEN", "", secret=True)
    """lets operators in from elsewhere: signs in to the page, or Bearer …; empty: none"""
    refusals_per_minute: int = setting("REFUSALS_PER_MINUTE", 100, ge=1, le=100_000)
    """so many unsigned requests of one address are answered with a reason"""


class TransferSettings(Group):
    to: types.Target = setting("TRANSFER_TO", "")
    """to whom calls are transferred: +15551234567 or sip:user@host; empty: nobody, unless the persona says"""
    allowed: types.Numbers = setting("TRANSFER_ALLOWED", "")
    """who else may be named: numbers, addresses or patterns such as +1555*, separated by commas"""
    digit: str = setting("TRANSFER_DIGIT", "", pattern="^[0-9A-D*#]?$")
    """the key that has the caller transferred: 0, say"""


class WebhookSettings(Group):
    url: types.WebhookUrl = setting("WEBHOOK_URL", "")
    """events of calls are posted here, https://…; empty: none (docs/api.md)"""
    secret: types.WebhookSecret = setting("WEBHOOK_SECRET", "", secret=True)
    """signs them, as https://www.standardwebhooks.com says: whsec_ and base64, or 16 characters or more"""

    @model_validator(mode="after")
    def _posts_are_signed(self) -> "WebhookSettings":
        if self.url and not self.secret:
            raise ValueError("WEBHOOK_SECRET must be set: the receiver could not know who posts")
        return self


class ChatSettings(Group):
    enabled: bool = setting("CHAT", True)
    """answer Moshi's own clients at /api/chat; false: no"""
    token: types.OperatorToken = setting("CHAT_TOKEN", "", secret=True)
    """lets clients from elsewhere chat, and nothing else: ?token=… or Bearer …; empty: operators only"""


class LogSettings(Group):
    format: LogFormat = setting("LOG_FORMAT", LogFormat.AUTO)
    """text for people, json for machines, auto: text on a terminal, else json"""
    digits: bool = setting("LOG_DIGITS", False)
    """write the keys that callers press into the log; they can be PINs, so * stands for each"""


class CallLogSettings(Group):
    url: str = setting("DATABASE_URL", "sqlite:///~/.local/share/moshi-bridge/calls.db", secret=True)
    """the call log: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME, or off"""
    days: int = setting("CALL_LOG_DAYS", 90, ge=0, le=36_500)
    """calls and recordings are deleted so long after their end; 0: never"""


class RecordingSettings(Group):
    folder: types.Folder = setting("RECORDINGS_DIR", None)
    """the folder for recordings, which by law may need the caller's consent; empty or off: none"""
    calls: types.RecordCalls = setting("RECORD_CALLS", types.RecordCalls.ALL)
    """all, or asked: those of make-call --record, once RECORDINGS_DIR is set"""


class TraceSettings(Group):
    endpoint: types.BaseUrlOrOff = setting("TRACES_ENDPOINT", "")
    """each call's span goes here, OTLP over HTTP: http://HOST:4318/v1/traces; empty or off: none"""
    headers: types.Headers = setting("TRACES_HEADERS", "", secret=True)
    """sent along: Authorization=Bearer …, X-Other=…; separated by commas"""

    @property
    def header_fields(self) -> dict[str, str]:
        parts = (part.partition("=") for part in self.headers.split(",") if part.strip())
        return {name.strip(): value.strip() for name, _, value in parts}


class ClusterSettings(Group):
    nats_url: types.NatsUrl = setting("NATS_URL", "", secret=True)
    """the NATS servers through which nodes share calls: nats://host:4222,… (docs/cluster.md); empty: one node alone"""
    node_url: types.BaseUrl = setting("NODE_URL", "")
    """how Twilio reaches this node's media socket, https://…; empty: PUBLIC_URL"""
