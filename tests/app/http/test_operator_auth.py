import time

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from app.http.operator_auth import COOKIE, PROXY_HEADERS, VALID_FOR_S, OperatorAuth, SessionCookie
from app.http.rate_limit import RateLimiter

TOKEN = "a-long-operator-token"
HERE = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
SITE = {"host": "phone.example.com"}
OURS = {**SITE, "origin": "https://phone.example.com"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def asks(client: str, headers: dict[str, str], token: str = "") -> int:
    """Return the status that somebody is answered who asks from an address, 200 when he is let in."""
    raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:5001", **headers}.items()]
    scope = {"type": "http", "path": "/api/calls", "client": (client, 1), "headers": raw, "scheme": "http"}
    try:
        OperatorAuth(token, RateLimiter(9)).require(
            HTTPConnection({**scope, "query_string": b"", "server": ("127.0.0.1", 5001)})
        )
    except HTTPException as error:
        return error.status_code
    return 200


@pytest.mark.parametrize(
    ("client", "headers", "token", "status"),
    [
        ("127.0.0.1", {}, "", 200),
        ("::1", {"host": "[::1]:5001"}, "", 200),
        ("127.0.0.1", {}, TOKEN, 200),
        ("127.0.0.1", {"host": "phone.example.com"}, "", 403),
        ("127.0.0.1", {"host": "phone.example.com"}, TOKEN, 403),
        ("203.0.113.5", {}, "", 403),
        ("203.0.113.5", {}, TOKEN, 403),
        ("203.0.113.5", {"host": "phone.example.com", **BEARER}, TOKEN, 200),
        ("203.0.113.5", BEARER, "", 403),
        ("203.0.113.5", {"authorization": f"Bearer {TOKEN}x"}, TOKEN, 403),
        ("203.0.113.5", {"authorization": TOKEN}, TOKEN, 403),
        ("203.0.113.5", {"authorization": "Bearer "}, "", 403),
        ("127.0.0.1", {"authorization": "Bearer another"}, TOKEN, 403),
        ("127.0.0.1", {"origin": "https://evil.example.com"}, "", 403),
        ("127.0.0.1", {"origin": "null"}, "", 403),
        ("127.0.0.1", {"origin": "http://[evil"}, "", 403),
        ("127.0.0.1", {"host": "[::1"}, "", 403),
        ("127.0.0.1", {"origin": "http://127.0.0.1:5001"}, "", 200),
        ("127.0.0.1", {"origin": "https://evil.example.com", **BEARER}, TOKEN, 200),
        ("127.0.0.1", {"origin": "http://127.0.0.1:3000"}, "", 403),
        ("127.0.0.1", {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "", 403),
        ("127.0.0.1", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "", 200),
        ("127.0.0.1", HERE, "", 200),
    ],
    ids=[
        *("this machine", "in IPv6", "with a token set", "a tunnel", "a tunnel, token set", "elsewhere"),
        *("elsewhere, token set", "with the token", "no token set", "a wrong token", "no scheme", "an empty token"),
        *(
            "wrong from here",
            "another's page",
            "no page's",
            "no origin",
            "no host",
            "our own page",
            "a page with the token",
            "another program's page",
            "its script or sound",
            "a link on it",
            "our own page's request",
        ),
    ],
)
def test_who_is_an_operator(client: str, headers: dict[str, str], token: str, status: int) -> None:
    assert asks(client, headers, token) == status


def cookie(value: str) -> dict[str, str]:
    return {"cookie": f"{COOKIE}={value}"}


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        (OURS, TOKEN, 200),
        (SITE, TOKEN, 200),
        ({**SITE, "origin": "https://evil.example.com"}, TOKEN, 403),
        ({**SITE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, TOKEN, 403),
        ({**SITE, "origin": "null"}, TOKEN, 403),
        (OURS, "another-long-token", 403),
        (OURS, "", 403),
    ],
    ids=["our page", "a link", "another's page", "another's sound", "no page's", "another token", "no token set"],
)
def test_who_has_signed_in_is_an_operator_on_our_pages_only(headers: dict[str, str], token: str, status: int) -> None:
    signed_in = cookie(SessionCookie(TOKEN).issue(time.time()))
    assert asks("203.0.113.5", {**headers, **signed_in}, token) == status


@pytest.mark.parametrize("value", ["", "0.0", SessionCookie(TOKEN).issue(0.0), SessionCookie("x" * 20).issue(4e9)])
def test_a_cookie_that_is_old_or_forged_lets_nobody_in(value: str) -> None:
    assert asks("203.0.113.5", {**OURS, **cookie(value)}, TOKEN) == 403


@pytest.mark.parametrize("name", PROXY_HEADERS)
def test_whoever_comes_through_a_proxy_is_not_at_this_machine(name: str) -> None:
    assert asks("127.0.0.1", {name: "127.0.0.1"}) == 403
    assert asks("127.0.0.1", {name: "127.0.0.1", **BEARER}, TOKEN) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost@evil.example", "evil.example@127.0.0.1", "evil.example/@localhost", "127.0.0.1#.evil.example"),
        *("127.0.0.1/.evil.example", "evil.example\\@127.0.0.1", "127.0.0.1, evil.example", "127.0.0.1 ", "[::1]x"),
        *("127.0.0.1:5001:80", "127.0.0.1:x", "127.0.0.1.nip.io", "localhost.", "127.1", "0", "2130706433"),
    ],
)
def test_a_host_that_is_not_written_as_a_browser_writes_it_is_not_this_machine(host: str) -> None:
    """Nor is what the server knows of itself taken instead, which is always this machine."""
    assert asks("127.0.0.1", {"host": host}) == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5001", "127.0.0.1", "127.8.8.8:80", "[::1]"])
def test_this_machine_has_several_names(host: str) -> None:
    assert asks("127.0.0.1", {"host": host}) == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:5001", "http://a@b"])
def test_a_page_of_another_program_at_this_machine_is_no_operator(origin: str) -> None:
    assert asks("127.0.0.1", {"origin": origin}) == 403


NOW_S = 1_700_000_000.5
COOKIES = SessionCookie(TOKEN)
GOOD = COOKIES.issue(NOW_S)


def test_a_cookie_is_good_for_its_time_and_no_longer() -> None:
    assert COOKIES.accepts(GOOD, NOW_S)
    assert COOKIES.accepts(GOOD, NOW_S + VALID_FOR_S - 1)
    assert not COOKIES.accepts(GOOD, NOW_S + VALID_FOR_S)


def test_a_cookie_outlives_the_process_that_issued_it_but_not_the_token() -> None:
    assert SessionCookie(TOKEN).accepts(GOOD, NOW_S)
    assert not SessionCookie(TOKEN + "2").accepts(GOOD, NOW_S)


def test_no_cookie_tells_the_token() -> None:
    assert TOKEN not in GOOD


def test_who_moves_the_end_of_his_cookie_breaks_its_seal() -> None:
    until, _, seal = GOOD.partition(".")
    assert not COOKIES.accepts(f"{int(until) + 1}.{seal}", NOW_S)


@given(st.text() | st.builds("{}.{}".format, st.integers(), st.text()))
def test_nothing_else_is_a_cookie(value: str) -> None:
    assert not COOKIES.accepts(value, NOW_S)


@pytest.mark.parametrize("value", ["", ".", GOOD])
def test_without_a_token_there_are_no_cookies(value: str) -> None:
    assert not SessionCookie("").accepts(value, NOW_S)
    assert not SessionCookie("").accepts(SessionCookie("").issue(NOW_S), NOW_S)


@given(st.text())
def test_the_token_opens_and_nothing_else(text: str) -> None:
    assert COOKIES.is_token(TOKEN)
    assert COOKIES.is_token(text) == (text == TOKEN)
    assert not SessionCookie("").is_token(text)
