from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.twilio import twiml


def test_connect_is_what_the_documentation_shows() -> None:
    assert twiml.connect("wss://a.b/media/t", "https://a.b/after", {"from": "+1"}) == (
        '<?xml version="1.0" encoding="UTF-8"?><Response>'
        '<Connect action="https://a.b/after" method="POST">'
        '<Stream url="wss://a.b/media/t"><Parameter name="from" value="+1" /></Stream>'
        "</Connect></Response>"
    )


def test_the_fate_of_a_stream_is_asked_to_be_reported() -> None:
    (verb,) = ElementTree.fromstring(twiml.connect("wss://a.b/media/t", "https://a.b/after", {}, "https://a.b/status"))
    (stream,) = verb
    assert (stream.get("statusCallback"), stream.get("statusCallbackMethod")) == ("https://a.b/status", "POST")


def test_who_is_unwanted_is_rejected_without_a_reason() -> None:
    assert twiml.reject_caller() == '<?xml version="1.0" encoding="UTF-8"?><Response><Reject /></Response>'


def test_a_place_in_the_queue_is_what_the_documentation_shows() -> None:
    assert twiml.enqueue("https://a.b/wait", "https://a.b/after") == (
        '<?xml version="1.0" encoding="UTF-8"?><Response>'
        '<Enqueue action="https://a.b/after" method="POST" waitUrl="https://a.b/wait" waitUrlMethod="POST">'
        "moshi</Enqueue></Response>"
    )


def test_a_wait_page_is_quiet() -> None:
    assert twiml.pause(5) == '<?xml version="1.0" encoding="UTF-8"?><Response><Pause length="5" /></Response>'


def test_reject_is_the_first_and_only_verb() -> None:
    assert twiml.reject_busy() == (
        '<?xml version="1.0" encoding="UTF-8"?><Response><Reject reason="busy" /></Response>'
    )


def test_what_we_write_is_read_back() -> None:
    parameters = {"name": 'O\'Neill & "Söhne" <x>', "empty": ""}
    written = twiml.connect("wss://a.b/media/t", "https://a.b/after", parameters)
    assert twiml.parse(written) == (twiml.Connect("wss://a.b/media/t", "https://a.b/after", parameters),)
    assert twiml.parse(twiml.reject_busy()) == (twiml.Reject("busy"),)
    assert twiml.parse(twiml.hangup()) == (twiml.Hangup(),)
    assert twiml.parse(twiml.reject_caller()) == (twiml.Reject("rejected"),)
    assert twiml.parse(twiml.say_busy("5 < 6 & so")) == (twiml.Say("5 < 6 & so"), twiml.Hangup())
    assert twiml.parse(twiml.enqueue("https://a.b/w", "https://a.b/a")) == (
        twiml.Enqueue("https://a.b/w", "https://a.b/a"),
    )
    assert twiml.parse(twiml.pause(5)) == (twiml.Pause(5),)
    assert twiml.parse(twiml.leave()) == (twiml.Leave(),)


@given(st.text(max_size=100))
def test_any_text_in_a_parameter_makes_xml_and_what_is_printable_of_it_arrives(value: str) -> None:
    (verb,) = twiml.parse(twiml.connect("wss://a.b/media/t", "https://a.b/after", {"from": value}))
    assert isinstance(verb, twiml.Connect)
    assert verb.parameters == {"from": "".join(letter for letter in value if letter.isprintable())}


def test_verbs_come_in_their_order() -> None:
    verbs = twiml.parse("<Response><Play>x.mp3</Play><Say>Hi</Say><Reject/><Pause/><Hangup/></Response>")
    rejected = twiml.Reject("rejected")
    assert verbs == (twiml.Other("Play"), twiml.Say("Hi"), rejected, twiml.Pause(1), twiml.Hangup())
    assert twiml.parse("<Response/>") == ()


@pytest.mark.parametrize(("url", "parameters"), [("wss://a.b/t?x=1", {}), ("wss://a.b/t", {"n" * 250: "v" * 250})])
def test_what_twilio_would_lose_is_our_mistake(url: str, parameters: dict[str, str]) -> None:
    with pytest.raises(twiml.TwimlError):
        twiml.connect(url, "https://a.b/after", parameters)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Internal Server Error",
        "<html/>",
        "<Response><Connect/></Response>",
        "<Response><Connect><Stream/></Connect></Response>",
        '<Response><Connect><Stream url="https://a.b"/></Connect></Response>',
        '<Response><Enqueue action="/a">q</Enqueue></Response>',
        '<Response><Enqueue waitUrl="/w">q</Enqueue></Response>',
        '<Response><Pause length="soon"/></Response>',
        f'<Response><Pause length="{"9" * 5_000}"/></Response>',
    ],
)
def test_an_answer_that_twilio_would_not_follow(answer: str) -> None:
    with pytest.raises(twiml.TwimlError):
        twiml.parse(answer)
