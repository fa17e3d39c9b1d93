import pytest

from app.twilio.parties import ANONYMOUS, AddressKind, kind_of, mask_number, name_of

ANN = "+15550100001"


ANN_SPELLINGS = (
    *(ANN, "15550100001", "0015550100001", "+1 555 010-0001", "+1 (555) 010.0001", "\u202a+15550100001\u202c"),
    *("\u200e+1\u00a0555\u00a00100001", "whatsapp:+15550100001", "WhatsApp:15550100001", "tel:+1-555-010-0001"),
    *("sip:+15550100001@gw.example.com;user=phone", "sips:+15550100001@other", "sip:15550100001@gw.example.com:5060"),
)
WITHHELD = (
    "",
    "anonymous",
    "Restricted",
    "UNAVAILABLE",
    "+266696687",
    "86282452253",
    "sip:anonymous@anonymous.invalid",
)
ALICE_SPELLINGS = (
    *("sip:alice@example.com", "sip:alice@example.com;user=phone", "SIPS:Alice@Example.com:5061;transport=tls"),
)
CLIENT_SPELLINGS = ("client:ann_1", "client:Ann_1")
"""`From` as Twilio may write it: one number, a withheld one, one SIP address, one client."""


@pytest.mark.parametrize("written", ANN_SPELLINGS)
def test_a_number_has_one_name_however_it_is_written(written: str) -> None:
    assert name_of(written) == ANN
    assert mask_number(written).partition("@")[0].endswith("…0001")


@pytest.mark.parametrize("written", WITHHELD)
def test_who_withholds_the_number_has_one_name(written: str) -> None:
    assert name_of(written) == ANONYMOUS
    assert kind_of(name_of(written)) is AddressKind.ANONYMOUS


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *((spelling, "sip:alice@example.com") for spelling in ALICE_SPELLINGS),
        ("sip:1001@pbx.example.com", "sip:1001@pbx.example.com"),
        *((spelling, "client:ann_1") for spelling in CLIENT_SPELLINGS),
    ],
)
def test_parameters_port_and_capitals_do_not_make_another_address(written: str, name: str) -> None:
    assert name_of(written) == name
    assert kind_of(name) is AddressKind.URI


@pytest.mark.parametrize(("one", "other"), [("sip:1001@pbx", "+1001"), (ANN, "+15550100002"), ("client:a", "sip:a")])
def test_two_addresses_have_two_names(one: str, other: str) -> None:
    assert name_of(one) != name_of(other)


def test_masks_tell_callers_apart_and_hide_most_of_a_number_or_user() -> None:
    assert mask_number(ANN) == "…0001"
    assert mask_number("sip:alice@example.com") == "sip:…lice@example.com"
    assert mask_number("sip:robert@example.com") == "sip:…bert@example.com"
    assert mask_number("client:ann-smith") == "client:…mith"
    assert mask_number("anonymous") == "anonymous"
    assert mask_number("whatsapp:+15550100001") == "whatsapp:…0001"
