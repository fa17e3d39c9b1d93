"""The options of a simulated call."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.audio import mulaw
from app.simulator.stream import CallerScript
from app.simulator.trouble import STEADY, Scenario
from app.simulator.wav import Samples, read_audio
from app.twilio.events import RATE_HZ

CALLED_NUMBER = "+15550100000"


class LegKind(StrEnum):
    """How a caller reaches the service: Twilio's media stream, or a chat in PCM or Opus."""

    PHONE = "phone"
    CHAT = "chat"
    CHAT_OPUS = "chat-opus"


@dataclass(frozen=True, slots=True)
class CallOptions:
    """One call to simulate; times are in seconds since its first stream starts.

    `base_url` is the server's public URL, which is signed; `dial_url` is where it is reached, if elsewhere. Without
    `auth_token` nothing is signed. `audio` is a file or int16 samples at 8 kHz, None for silence; the caller hangs up
    after `duration_s`, by default when the audio ends, and in a queue after `patience_s` of pauses. `status_path`
    receives the status callback. An `outbound` call was placed by the server's side and is answered when the webhook is
    asked; `answered_by` is the result of machine detection. With `asks_after_cut` a connection that breaks does not end
    the call: the `action` of its `<Connect>` is asked, as when the server closes it. A call that is transferred ends
    `dial_status`. A chat has neither webhooks nor numbers.
    """

    base_url: str
    auth_token: str | None
    account_sid: str
    audio: Path | Samples | None = None
    duration_s: float | None = None
    from_number: str = "+15550100001"
    to_number: str = CALLED_NUMBER
    voice_path: str = "/twilio/voice"
    status_path: str | None = None
    call_sid: str | None = None
    dial_url: str | None = None
    line: Scenario = STEADY
    patience_s: float = 600.0
    outbound: bool = False
    answered_by: str | None = None
    leg: LegKind = LegKind.PHONE
    asks_after_cut: bool = False
    dial_status: str = "no-answer"


def read_script(options: CallOptions) -> CallerScript:
    """Read the audio file. Raises `ValueError` for a call of no length."""
    audio = read_audio(options.audio) if isinstance(options.audio, Path) else options.audio
    said = b"" if audio is None else options.line.silence(mulaw.encode(audio))
    ends_s = len(said) / RATE_HZ if options.duration_s is None else options.duration_s
    if ends_s <= 0:
        raise ValueError("a call needs audio or a duration")
    return CallerScript(said, ends_s, options.line)
