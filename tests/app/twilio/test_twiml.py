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


@given(st.text(max_size=100))
def test_any_text_in_a_parameter_makes_xml_and_what_is_printable_of_it_arrives(value: str) -> None:
    (verb,) = twiml.parse(twiml.connect("wss://a.b/media/t", "https://a.b/after", {"from": value}))
    assert isinstance(verb, twiml.Connect)
    assert verb.parameters == {"from": "".join(letter for letter in value if letter.isprintable())}


def test_verbs_come_in_their_order() -> None:
    verbs = twiml.parse("<Response><Say>Hi</Say><Reject/><Hangup/></Response>")
    assert verbs == (twiml.Other("Say"), twiml.Reject("rejected"), twiml.Hangup())
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
    ],
)
def test_an_answer_that_twilio_would_not_follow(answer: str) -> None:
    with pytest.raises(twiml.TwimlError):
        twiml.parse(answer)
