import pytest

from app.calls.transfer import TransferRefusal, TransferRefused, TransferRules, parse_target

ANN, BOB = "+15550100009", "+15550100010"


@pytest.mark.parametrize("target", [ANN, "sip:ann@example.com", "sips:ann@pbx.example.com:5061;transport=tls"])
def test_numbers_and_sip_addresses_are_targets(target: str) -> None:
    assert parse_target(f" {target} ") == target


@pytest.mark.parametrize(
    "target",
    [
        *("15550100009", "+0123456789", "911", "ann@example.com", "tel:+15550100009", "+1555010000900000"),
        *("sip:ann@example.com?X-Header=1", "sip:ann", "sip:a@b@example.com", "sip:ann@example.com;maddr=evil.example"),
        *("client:ann", f"{ANN};ext=1", f"{ANN}\n{BOB}", "sip:ann@example.com\r\nEvil: 1", "+1555010000٩"),
    ],
)
def test_nothing_else_is_one(target: str) -> None:
    with pytest.raises(ValueError, match="write a number"):
        parse_target(target)


@pytest.mark.parametrize(
    ("wanted", "persona", "target"),
    [("", "", ANN), ("", BOB, BOB), (ANN, BOB, ANN), (BOB, BOB, BOB), ("+15551111111", "", "+15551111111")],
)
def test_who_is_named_or_else_the_personas_or_else_the_default(wanted: str, persona: str, target: str) -> None:
    assert TransferRules(ANN, ["+1555111*"]).target(wanted, persona) == target


@pytest.mark.parametrize(
    "wanted",
    ["+15552222222", "+4915550100009", "sip:+15551111111@evil.example", "sip:ann@example.com.evil.example"],
)
def test_nobody_else_is_dialled(wanted: str) -> None:
    with pytest.raises(TransferRefused) as refused:
        TransferRules(ANN, ["+1555111*", "sip:*@example.com"]).target(wanted, "")
    assert refused.value.reason is TransferRefusal.FORBIDDEN


def test_patterns_of_sip_addresses_match_whole_hosts() -> None:
    assert TransferRules("", ["sip:*@example.com"]).target("SIP:Ann@Example.com", "") == "SIP:Ann@Example.com"


@pytest.mark.parametrize("wanted", ["", "somebody"])
def test_without_anybody_the_reason_says_so(wanted: str) -> None:
    with pytest.raises(TransferRefused) as refused:
        TransferRules("", []).target(wanted, "")
    assert refused.value.reason is TransferRefusal.NO_TARGET
