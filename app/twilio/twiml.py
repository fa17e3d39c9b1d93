"""The TwiML that we answer with, and its counterpart that reads it as Twilio does.

`<Connect>` blocks until our side closes the socket; Twilio then asks the `action` URL what to do next. `<Enqueue>` puts
the caller in line and asks the `waitUrl` for a page, again and again, until the call is redirected or told to leave.
The only voice on the line is Moshi's: `<Say>` is for those who never get to him.
https://www.twilio.com/docs/voice/twiml/stream, https://www.twilio.com/docs/voice/twiml/enqueue
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from twilio.twiml.voice_response import Connect as ConnectVerb  # type: ignore[import-untyped]
from twilio.twiml.voice_response import VoiceResponse

MAX_LENGTH_DIGITS = 5
MAX_PARAMETER_LENGTH = 500
"""Twilio cuts off where the name and the value of a parameter are longer than this together."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a bidirectional stream to `url`, tell its fate to `status_url`; ask `action` when our side has closed it."""

    url: str
    action: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    status_url: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """Do not answer the call."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Say:
    """Speak a sentence with a voice of Twilio's."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Wait in line, with the pages of `wait_url`; ask `action` when the call has left the line."""

    wait_url: str
    action: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Be quiet for some seconds."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the line."""


@dataclass(frozen=True, slots=True)
class Other:
    """A verb that we never send."""

    name: str


Verb = Connect | Reject | Hangup | Say | Enqueue | Pause | Leave | Other

LINE = "moshi"
"""The name of Twilio's queue."""


class TwimlError(ValueError):
    """The answer is not TwiML, or not such as Twilio would follow."""


def connect(stream_url: str, action_url: str, parameters: Mapping[str, str], status_url: str | None = None) -> str:
    """Return the TwiML that puts the caller through to our socket; `status_url` is told of the stream's fate.

    Raises `TwimlError` for what Twilio would lose: a query string in `stream_url`, or a parameter of more than 500
    characters. What is not printable in a parameter is left out: a caller's name may hold what XML cannot carry.
    """
    if "?" in stream_url:
        raise TwimlError("Twilio strips the query string of a stream URL")
    verb = ConnectVerb(action=action_url, method="POST")
    status = {"status_callback": status_url, "status_callback_method": "POST"} if status_url else {}
    stream = verb.stream(url=stream_url, **status)
    for name, value in parameters.items():
        if len(name) + len(value) >= MAX_PARAMETER_LENGTH:
            raise TwimlError(f"parameter {name!r} is too long")
        stream.parameter(name=name, value="".join(letter for letter in value if letter.isprintable()))
    return _serialize(verb)


def reject_busy() -> str:
    """Return the TwiML that leaves the call unanswered, and unbilled."""
    response = VoiceResponse()
    response.reject(reason="busy")
    return str(response)


def reject_caller() -> str:
    """Return the TwiML that leaves the call of somebody unwanted unanswered, and unbilled."""
    response = VoiceResponse()
    response.reject()
    return str(response)


def say_busy(sentence: str) -> str:
    """Return the TwiML that answers the call with a sentence, and hangs up."""
    response = VoiceResponse()
    response.say(sentence)
    response.hangup()
    return str(response)


def enqueue(wait_url: str, action_url: str) -> str:
    """Return the TwiML that puts the caller in line."""
    response = VoiceResponse()
    response.enqueue(LINE, action=action_url, method="POST", wait_url=wait_url, wait_url_method="POST")
    return str(response)


def pause(seconds: int) -> str:
    """Return a wait page: nothing to be heard for so long."""
    response = VoiceResponse()
    response.pause(length=seconds)
    return str(response)


def leave() -> str:
    """Return the wait page that sends the caller out of the line, to the action of his `<Enqueue>`."""
    response = VoiceResponse()
    response.leave()
    return str(response)


def hangup() -> str:
    """Return the TwiML that ends the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)


def parse(twiml: str) -> tuple[Verb, ...]:
    """Return the verbs of an answer, in the order in which Twilio follows them; raises `TwimlError`."""
    try:
        response = ElementTree.fromstring(twiml)  # noqa: S314 - our own server's answer
    except (ElementTree.ParseError, ValueError) as error:
        raise TwimlError("the answer is not XML") from error
    if response.tag != "Response":
        raise TwimlError(f"the answer is a <{response.tag}>, not a <Response>")
    return tuple(_parse_verb(element) for element in response)


def _serialize(verb: ConnectVerb) -> str:
    response = VoiceResponse()
    response.append(verb)
    return str(response)


def _parse_verb(element: ElementTree.Element) -> Verb:
    match element.tag:
        case "Connect":
            return _parse_connect(element)
        case "Reject":
            return Reject(element.get("reason", "rejected"))
        case "Hangup":
            return Hangup()
        case "Say":
            return Say(element.text or "")
        case "Enqueue":
            return _parse_enqueue(element)
        case "Pause":
            return Pause(_parse_length(element.get("length", "1")))
        case "Leave":
            return Leave()
        case name:
            return Other(name)


def _parse_length(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_LENGTH_DIGITS):
        raise TwimlError(f"<Pause length> must be a number of seconds, not {text[:20]!r}")
    return int(text)


def _parse_connect(element: ElementTree.Element) -> Connect:
    stream = element.find("Stream")
    if stream is None or not stream.get("url", "").startswith(("ws://", "wss://")):
        raise TwimlError("<Connect> without a <Stream> to a ws or wss URL")
    parameters = {item.get("name", ""): item.get("value", "") for item in stream.findall("Parameter")}
    return Connect(stream.get("url", ""), element.get("action"), parameters, stream.get("statusCallback"))


def _parse_enqueue(element: ElementTree.Element) -> Enqueue:
    wait_url, action = element.get("waitUrl"), element.get("action")
    if not wait_url or not action:
        raise TwimlError("<Enqueue> without a waitUrl or an action")
    return Enqueue(wait_url, action)
