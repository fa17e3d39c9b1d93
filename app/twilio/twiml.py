"""The TwiML that we answer with, and the parser that the simulator follows it with.

`<Connect>` blocks until our side closes the socket; Twilio then asks the `action` URL for more TwiML. `<Enqueue>` puts
the caller in a queue and fetches wait pages from `waitUrl`, one after the other, until the call is redirected or told
to leave. `<Say>` is only for callers who are turned away.
https://www.twilio.com/docs/voice/twiml/stream, https://www.twilio.com/docs/voice/twiml/enqueue
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from twilio.twiml import TwiML, voice_response  # type: ignore[import-untyped]

MAX_PARAMETER_LENGTH = 500
"""Twilio cuts off a parameter whose name and value are longer than this together."""
QUEUE_NAME = "moshi"
RING_S = 25
"""How long a person's phone rings before the call is back."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a bidirectional stream to `url`, its status to `status_url`; fetch `action` when our side has closed it."""

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
class SayVerb:
    """Speak a sentence with a voice of Twilio's."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Wait in the queue with the pages of `wait_url`; fetch `action` when the call has left it."""

    wait_url: str
    action: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait in silence."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the queue."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Call `to`, a number or a SIP address, and connect them; fetch `action` when that is over or nobody answers."""

    to: str
    action: str
    caller_id: str = ""
    time_limit_s: int | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A verb that we never send."""

    name: str


Verb = Connect | Reject | Hangup | SayVerb | Enqueue | Pause | Leave | Dial | Other


class TwimlError(ValueError):
    """The answer is not TwiML, or not such as Twilio would follow."""


def connect(stream_url: str, action_url: str, parameters: Mapping[str, str], status_url: str | None = None) -> str:
    """Connect the caller to our socket; `status_url` receives the stream's status callbacks.

    Raises `TwimlError` for what Twilio would lose: a query string in `stream_url`, or a parameter of more than 500
    characters. Unprintable letters are left out of parameters: a caller's name may hold what XML cannot carry.
    """
    if "?" in stream_url:
        raise TwimlError("Twilio strips the query string of a stream URL")
    verb = voice_response.Connect(action=action_url, method="POST")
    status = {"status_callback": status_url, "status_callback_method": "POST"} if status_url else {}
    stream = verb.stream(url=stream_url, **status)
    for name, value in parameters.items():
        if len(name) + len(value) >= MAX_PARAMETER_LENGTH:
            raise TwimlError(f"parameter {name!r} is too long")
        stream.parameter(name=name, value="".join(letter for letter in value if letter.isprintable()))
    return _response(verb)


def reject_busy() -> str:
    """Leave the call unanswered and unbilled; the caller hears the busy tone."""
    return _response(voice_response.Reject(reason="busy"))


def reject_caller() -> str:
    """Leave the call of an unwanted caller unanswered and unbilled."""
    return _response(voice_response.Reject())


def say_busy(sentence: str) -> str:
    return _response(voice_response.Say(sentence), voice_response.Hangup())


def enqueue(wait_url: str, action_url: str) -> str:
    urls = {"action": action_url, "method": "POST", "wait_url": wait_url, "wait_url_method": "POST"}
    return _response(voice_response.Enqueue(QUEUE_NAME, **urls))


def pause(seconds: int) -> str:
    """Return a wait page of silence."""
    return _response(voice_response.Pause(length=seconds))


def dial(to: str, action_url: str, caller_id: str, time_limit_s: int) -> str:
    """Connect the caller to `to`, who sees `caller_id` ("": the caller's own), for `time_limit_s` at most.

    https://www.twilio.com/docs/voice/twiml/dial
    """
    shown = {"caller_id": caller_id} if caller_id else {}
    limits = {"timeout": RING_S, "time_limit": time_limit_s}
    verb = voice_response.Dial(action=action_url, method="POST", answer_on_bridge=True, **limits, **shown)
    if to.startswith("+"):
        verb.number(to)
    else:
        verb.sip(to)
    return _response(verb)


def leave() -> str:
    """Return the wait page that sends the caller from the queue to the action of `<Enqueue>`."""
    return _response(voice_response.Leave())


def hangup() -> str:
    return _response(voice_response.Hangup())


def _response(*verbs: TwiML) -> str:
    response = voice_response.VoiceResponse()
    for verb in verbs:
        response.append(verb)
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


def _parse_verb(element: ElementTree.Element) -> Verb:
    match element.tag:
        case "Connect":
            return _parse_connect(element)
        case "Reject":
            return Reject(element.get("reason", "rejected"))
        case "Hangup":
            return Hangup()
        case "Say":
            return SayVerb(element.text or "")
        case "Enqueue":
            wait_url, action = element.get("waitUrl"), element.get("action")
            if not wait_url or not action:
                raise TwimlError("<Enqueue> without a waitUrl or an action")
            return Enqueue(wait_url, action)
        case "Pause":
            return _parse_pause(element.get("length", "1"))
        case "Leave":
            return Leave()
        case "Dial":
            return _parse_dial(element)
        case name:
            return Other(name)


def _parse_dial(element: ElementTree.Element) -> Dial:
    called, action = [*element], element.get("action")
    if len(called) != 1 or called[0].tag not in ("Number", "Sip") or not action:
        raise TwimlError("<Dial> without one <Number> or <Sip>, or without an action")
    time_limit = element.get("timeLimit")
    return Dial(called[0].text or "", action, element.get("callerId", ""), int(time_limit) if time_limit else None)


def _parse_pause(length: str) -> Pause:
    if not re.fullmatch("[0-9]{1,5}", length):
        raise TwimlError(f"<Pause length> must be a number of seconds, not {length[:20]!r}")
    return Pause(int(length))


def _parse_connect(element: ElementTree.Element) -> Connect:
    stream = element.find("Stream")
    if stream is None or not stream.get("url", "").startswith(("ws://", "wss://")):
        raise TwimlError("<Connect> without a <Stream> to a ws or wss URL")
    parameters = {item.get("name", ""): item.get("value", "") for item in stream.findall("Parameter")}
    return Connect(stream.get("url", ""), element.get("action"), parameters, stream.get("statusCallback"))
