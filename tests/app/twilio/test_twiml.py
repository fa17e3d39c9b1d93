import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.twilio import twiml
from app.twilio.twiml import Connect, Dial, Enqueue, Hangup, Leave, Other, Pause, Reject, SayVerb, Verb

SOCKET, AFTER = "wss://a.b/media/t", "https://a.b/after"
ANN, CALLER = "+15550100009", "+15550100001"


@pytest.mark.parametrize(
    ("written", "response", "verbs"),
    [
        (
            twiml.connect(SOCKET, AFTER, {"from": "+1"}),
            '<Connect action="https://a.b/after" method="POST">'
            '<Stream url="wss://a.b/media/t"><Parameter name="from" value="+1" /></Stream></Connect>',
            [Connect(SOCKET, AFTER, {"from": "+1"})],
        ),
        (
            twiml.connect(SOCKET, AFTER, {}, "https://a.b/status"),
            '<Connect action="https://a.b/after" method="POST"><Stream statusCallback="https://a.b/status" '
            'statusCallbackMethod="POST" url="wss://a.b/media/t" /></Connect>',
            [Connect(SOCKET, AFTER, {}, "https://a.b/status")],
        ),
        (
            twiml.enqueue("https://a.b/wait", AFTER),
            '<Enqueue action="https://a.b/after" method="POST" waitUrl="https://a.b/wait" waitUrlMethod="POST">'
            "moshi</Enqueue>",
            [Enqueue("https://a.b/wait", AFTER)],
        ),
        (
            twiml.dial(ANN, AFTER, CALLER, 600),
            '<Dial action="https://a.b/after" answerOnBridge="true" callerId="+15550100001" method="POST" '
            'timeLimit="600" timeout="25"><Number>+15550100009</Number></Dial>',
            [Dial(ANN, AFTER, CALLER, 600)],
        ),
        (
            twiml.dial("sip:ann@example.com", AFTER, "", 600),
            '<Dial action="https://a.b/after" answerOnBridge="true" method="POST" timeLimit="600" timeout="25">'
            "<Sip>sip:ann@example.com</Sip></Dial>",
            [Dial("sip:ann@example.com", AFTER, "", 600)],
        ),
        (twiml.say_busy("5 < 6 & so"), "<Say>5 &lt; 6 &amp; so</Say><Hangup />", [SayVerb("5 < 6 & so"), Hangup()]),
        (twiml.pause(5), '<Pause length="5" />', [Pause(5)]),
        (twiml.reject_caller(), "<Reject />", [Reject("rejected")]),
        (twiml.reject_busy(), '<Reject reason="busy" />', [Reject("busy")]),
        (twiml.hangup(), "<Hangup />", [Hangup()]),
        (twiml.leave(), "<Leave />", [Leave()]),
    ],
)
def test_what_we_write_is_what_the_documentation_shows_and_is_read_as_verbs(
    written: str, response: str, verbs: list[Verb]
) -> None:
    assert written == f'<?xml version="1.0" encoding="UTF-8"?><Response>{response}</Response>'
    assert twiml.parse(written) == tuple(verbs)


def test_an_answer_of_others_is_read_as_verbs_in_their_order() -> None:
    assert twiml.parse("<Response/>") == ()
    verbs = Other("Play"), SayVerb("Hi"), Reject("rejected"), Pause(1), Hangup()
    assert twiml.parse("<Response><Play>x.mp3</Play><Say>Hi</Say><Reject/><Pause/><Hangup/></Response>") == verbs


@given(st.text(max_size=100))
def test_any_text_in_a_parameter_makes_xml_and_what_is_printable_of_it_arrives(value: str) -> None:
    (verb,) = twiml.parse(twiml.connect("wss://a.b/media/t", "https://a.b/after", {"from": value}))
    assert isinstance(verb, twiml.Connect)
    assert verb.parameters == {"from": "".join(letter for letter in value if letter.isprintable())}


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
        '<Response><Pause length="-5"/></Response>',
        f'<Response><Pause length="{"9" * 6}"/></Response>',
    ],
)
def test_an_answer_that_twilio_would_not_follow(answer: str) -> None:
    with pytest.raises(twiml.TwimlError):
        twiml.parse(answer)
