import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from app.http.rate_limit import MINUTE_S, RateLimiter, RefusalReason

EVE, ANN = "203.0.113.5", "203.0.113.6"


def limit(per_minute: int = 3) -> RateLimiter:
    refusals = RateLimiter(per_minute)
    for _ in range(per_minute):
        assert not refusals.is_limited(EVE, 0.0)
        refusals.count(EVE, 0.0)
    return refusals


def test_after_so_many_refusals_an_address_has_had_them_and_another_has_not() -> None:
    refusals = limit()
    assert refusals.is_limited(EVE, 1.0)
    assert not refusals.is_limited(ANN, 1.0)


def test_a_minute_later_it_begins_anew() -> None:
    refusals = limit()
    assert refusals.is_limited(EVE, MINUTE_S - 0.1)
    assert not refusals.is_limited(EVE, MINUTE_S)
    refusals.count(EVE, MINUTE_S)
    assert not refusals.is_limited(EVE, MINUTE_S)


def test_the_addresses_of_one_subscriber_are_one() -> None:
    refusals = RateLimiter(1)
    refusals.count("2001:db8:1:2::1", 0.0)
    assert refusals.is_limited("2001:db8:1:2:ffff::9", 0.0)
    assert not refusals.is_limited("2001:db8:1:3::1", 0.0)


def test_a_caller_in_ipv4_is_one_whatever_the_socket_calls_him_and_not_everybody() -> None:
    refusals = RateLimiter(1)
    refusals.count(f"::ffff:{EVE}", 0.0)
    assert refusals.is_limited(EVE, 0.0)
    assert not refusals.is_limited(f"::ffff:{ANN}", 0.0)


ODD = ["::1", "\x1b[2J", "x" * 60_000, "fe80::1%" + "x" * 60_000, f"::ffff:{EVE}%" + "x" * 60_000, f"{EVE}, {ANN}", ""]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_what_a_proxy_says_in_place_of_an_address_is_neither_kept_nor_logged(
    odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`X-Forwarded-For` comes from this machine's proxies, who may hand on what a stranger has written."""
    refusals = RateLimiter(per_minute=1)
    with caplog.at_level(logging.WARNING):
        refusals.refuse(connection(odd), RefusalReason.UNSIGNED)
    assert max(map(len, refusals.networks)) < 50
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 200 for record in caplog.records)


@given(st.lists(st.text(max_size=3) | st.ip_addresses().map(str), max_size=50))
def test_however_many_addresses_come_only_the_last_are_remembered(addresses: list[str]) -> None:
    refusals = RateLimiter(1, addresses_kept=4)
    for address in addresses:
        refusals.count(address, 0.0)
        assert refusals.is_limited(address, 0.0)
    assert len(refusals.networks) <= 4


def connection(address: str, path: str = "/twilio/voice") -> HTTPConnection:
    return HTTPConnection({"type": "http", "path": path, "client": (address, 1), "headers": []})


def test_who_is_turned_away_too_often_is_told_so_once_and_then_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals = RateLimiter(per_minute=2)
    with caplog.at_level(logging.WARNING):
        answers = [refusals.refuse(connection(EVE), RefusalReason.UNSIGNED) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [403, 403, 429, 429, 429]
    assert [record.getMessage() for record in caplog.records] == [
        *[f"/twilio/voice refused: {RefusalReason.UNSIGNED}"] * 2,
        f"{EVE} is refused without a reason for a minute",
    ]
    assert answers[-1].headers == {"Retry-After": "60"}
    assert refusals.refuse(connection(ANN), RefusalReason.UNSIGNED).status_code == 403


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/twilio/media/the-secret-token", "/twilio/media/…"),
        ("/twilio/voice\nand a line of mine", "/twilio/voice\\nand a line of mine"),
        ("/x" * 500, "/x" * 50),
    ],
)
def test_what_is_logged_of_a_path_holds_no_secret_and_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture, path: str, shown: str
) -> None:
    with caplog.at_level(logging.WARNING):
        RateLimiter(9).refuse(connection(EVE, path), RefusalReason.UNSIGNED)
    assert caplog.records[0].getMessage() == f"{shown} refused: {RefusalReason.UNSIGNED}"
