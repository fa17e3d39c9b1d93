import base64
import hashlib
import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.twilio.signature import SignatureCheck, same_url, sign

TOKEN = "12345"
DOCUMENTED_PATH = "/myapp.php?foo=1&bar=2"
DOCUMENTED_FORM = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+12349013030"),
    ("Digits", "1234"),
    ("From", "+12349013030"),
    ("To", "+18005551212"),
]
SIGNATURE = "0/KCTR6DLpKmkAf8muzZqo1nDgQ="


def by_hand(token: str, text: str) -> str:
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def check(public_url: str = "https://mycompany.com", *tokens: str) -> SignatureCheck:
    return SignatureCheck(public_url, tokens or (TOKEN,))


def test_the_known_answers_of_twilios_libraries_and_documentation() -> None:
    assert sign(TOKEN, "https://mycompany.com" + DOCUMENTED_PATH, DOCUMENTED_FORM) == SIGNATURE
    form = [(name, "+14158675310" if name in ("Caller", "From") else value) for name, value in DOCUMENTED_FORM]
    assert check().webhook_valid(DOCUMENTED_PATH, form, "GvWf1cFY/Q7PnoempGyD5oXAezc=")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ([("To", "+2"), ("From", "+1"), ("Empty", "")], "EmptyFrom+1To+2"),
        ([("MediaUrl", "b"), ("MediaUrl", "a"), ("MediaUrl", "b")], "MediaUrlaMediaUrlb"),
    ],
)
def test_a_signature_is_the_hmac_of_url_and_sorted_form_each_value_once(form: list[tuple[str, str]], text: str) -> None:
    signature = by_hand(TOKEN, f"https://mycompany.com/voice{text}")
    assert sign(TOKEN, "https://mycompany.com/voice", form) == signature
    assert check().webhook_valid("/voice", form, signature)


def test_the_order_of_the_form_does_not_matter_but_every_value_does() -> None:
    assert check().webhook_valid(DOCUMENTED_PATH, reversed(DOCUMENTED_FORM), SIGNATURE)
    assert not check().webhook_valid(DOCUMENTED_PATH, DOCUMENTED_FORM[:-1], SIGNATURE)
    assert not check().webhook_valid(DOCUMENTED_PATH, [*DOCUMENTED_FORM, ("New", "")], SIGNATURE)
    assert not check().webhook_valid("/myapp.php?foo=1", DOCUMENTED_FORM, SIGNATURE)


@pytest.mark.parametrize("signature", [None, "", "0/KCTR6DLpKmkAf8muzZqo1nDgQ", "x" * 28, "ä" * 28, "\ud800"])
def test_a_missing_or_wrong_signature_is_refused(signature: str | None) -> None:
    assert not check().webhook_valid(DOCUMENTED_PATH, DOCUMENTED_FORM, signature)
    assert not check().socket_valid("/media/t", signature)


def test_primary_and_secondary_token_are_both_good() -> None:
    signature = by_hand("old", "https://mycompany.com/voice")
    assert check("https://mycompany.com", "new", "old").webhook_valid("/voice", [], signature)
    assert not check("https://mycompany.com", "new").webhook_valid("/voice", [], signature)


@pytest.mark.parametrize("tokens", [[], [""], ["good", ""]])
def test_a_token_that_anybody_knows_stops_the_start(tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="token"):
        SignatureCheck("https://mycompany.com", tokens)


@pytest.mark.parametrize(
    ("signed", "valid"),
    [
        ("wss://mycompany.com/media/t", True),
        ("wss://mycompany.com/media/t/", True),
        ("wss://mycompany.com:443/media/t", True),
        ("wss://mycompany.com:443/media/t/", True),
        ("wss://mycompany.com/media/t//", False),
        ("wss://mycompany.com/media/other", False),
        ("wss://mycompany.com:8443/media/t", False),
        ("wss://evil.com/media/t", False),
        ("https://mycompany.com/media/t", False),
        ("ws://mycompany.com/media/t", False),
    ],
)
@pytest.mark.parametrize("path", ["/media/t", "/media/t/"])
def test_every_form_of_the_socket_url_that_twilio_may_sign_is_accepted_and_no_other(
    signed: str, valid: bool, path: str
) -> None:
    assert check().socket_valid(path, by_hand(TOKEN, signed)) is valid


PUBLIC_URLS = (
    ("https://Phone.Example.COM", ("https://Phone.Example.COM", "https://phone.example.com")),
    ("https://Phone.Example.COM/", ("https://Phone.Example.COM", "https://phone.example.com")),
    ("HTTPS://phone.example.com", ("https://phone.example.com",)),
    ("https://Phone.Example.COM:443", ("https://Phone.Example.COM:443", "https://phone.example.com")),
    ("https://Phone.Example.COM/Bridge/", ("https://Phone.Example.COM/Bridge", "https://phone.example.com/Bridge")),
    (
        "https://Me:Pass%2FWord@phone.example.com",
        ("https://Me:Pass%2FWord@phone.example.com", "https://phone.example.com"),
    ),
    (
        "https://Me:Pass%2FWord@Phone.Example.COM:443/b",
        (
            "https://Me:Pass%2FWord@Phone.Example.COM:443/b",
            "https://Me:Pass%2FWord@phone.example.com/b",
            "https://Phone.Example.COM/b",
            "https://phone.example.com:443/b",
        ),
    ),
    ("https://Me:Word@Phone.Example.COM:8443", ("https://Me:Word@Phone.Example.COM:8443", "https://phone.example.com")),
)
"""PUBLIC_URL as it may be written, and the URLs that Twilio may sign for it, without the path."""


LOOPBACK_URLS = ("http://127.0.0.1:5001", "http://localhost:5001", "http://[::1]:5001")


@pytest.mark.parametrize(("public_url", "bases"), [*PUBLIC_URLS, *((url, (url,)) for url in LOOPBACK_URLS)])
def test_what_is_signed_for_each_spelling_of_the_public_url_is_accepted(
    public_url: str, bases: tuple[str, ...]
) -> None:
    one = check(public_url)
    for base in bases:
        assert one.webhook_valid("/voice", [("a", "b")], by_hand(TOKEN, f"{base}/voiceab"))
        assert one.socket_valid("/media/t", by_hand(TOKEN, f"{base}/media/t".replace("http", "ws", 1)))
    for other in ("https://phone.example.com.evil.com", "https://me:pass%2fword@phone.example.com", "https://evil.com"):
        assert not one.webhook_valid("/voice", [("a", "b")], by_hand(TOKEN, f"{other}/voiceab"))
        assert not one.socket_valid("/media/t", by_hand(TOKEN, f"{other}/media/t".replace("http", "ws", 1)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://A.example/voice", "https://a.example/voice", True),
        ("https://a.example:443/voice", "https://a.example/voice", True),
        ("https://a.example/voice/", "https://a.example/voice", False),
        ("https://a.example/Voice", "https://a.example/voice", False),
        ("http://a.example/voice", "https://a.example/voice", False),
        ("", "", True),
        ("", "https://a.example", False),
        ("http://[::1", "http://[::1", True),
        ("http://a:port", "https://a.example", False),
    ],
)
def test_urls_are_the_same_but_for_the_case_of_the_host_and_a_default_port(one: str, other: str, same: bool) -> None:
    assert same_url(one, other) is same


def test_a_url_that_is_refused_shows_no_password() -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        check("ftp://me:secret@phone.example.com")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "mycompany.com", "wss://mycompany.com", "https://", "https://a?b=c", "https://a#b", "https://a:port"]
)
def test_a_bad_public_url_stops_the_start(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        SignatureCheck(url, [TOKEN])


@example("/\ud800", [("\udfff", "\ud800")], "x" * 28)
@given(st.text(), st.lists(st.tuples(st.text(), st.text())), st.none() | st.text())
def test_no_request_raises(path: str, form: list[tuple[str, str]], signature: str | None) -> None:
    assert not check().webhook_valid(path, form, signature)
    assert not check().socket_valid(path, signature)
