import time

import pytest
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from app.http.operator_auth import COOKIE, PROXY_HEADERS, VALID_FOR_S, OperatorAuth
from app.http.rate_limit import RateLimiter

TOKEN, OTHER_TOKEN = "a-long-operator-token", "another-long-token"
HERE, ELSEWHERE = "127.0.0.1", "203.0.113.5"
SITE = {"host": "phone.example.com"}
EVIL = {"origin": "https://evil.example.com"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def connection(client: str, headers: dict[str, str]) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:5001", **headers}.items()]
    scope = {"type": "http", "path": "/api/calls", "client": (client, 1), "headers": raw, "scheme": "http"}
    return HTTPConnection({**scope, "query_string": b"", "server": ("127.0.0.1", 5001)})


def auth(token: str) -> OperatorAuth:
    return OperatorAuth(token, RateLimiter(9))


def asks(client: str, headers: dict[str, str], token: str = "") -> int:
    """Return the status of the answer to a client of a service with this token, 200 for an operator."""
    try:
        auth(token).require(connection(client, headers))
    except HTTPException as error:
        return error.status_code
    return 200


CASES: dict[str, tuple[str, dict[str, str], str, int]] = {
    "this machine": (HERE, {}, "", 200),
    "this machine in IPv6": ("::1", {"host": "[::1]:5001"}, "", 200),
    "this machine in IPv4, where HOST is ::": ("::ffff:127.0.0.1", {}, "", 200),
    "elsewhere in IPv4, where HOST is ::": (f"::ffff:{ELSEWHERE}", {}, "", 403),
    "this machine, token set": (HERE, {}, TOKEN, 200),
    "a tunnel": (HERE, SITE, "", 403),
    "a tunnel, token set": (HERE, SITE, TOKEN, 403),
    "elsewhere": (ELSEWHERE, {}, "", 403),
    "elsewhere, token set": (ELSEWHERE, {}, TOKEN, 403),
    "with the token": (ELSEWHERE, {**SITE, **BEARER}, TOKEN, 200),
    "no token set": (ELSEWHERE, BEARER, "", 403),
    "a wrong token": (ELSEWHERE, {"authorization": f"Bearer {TOKEN}x"}, TOKEN, 403),
    "no scheme": (ELSEWHERE, {"authorization": TOKEN}, TOKEN, 403),
    "another scheme": (ELSEWHERE, {"authorization": f"Basic {TOKEN}"}, TOKEN, 403),
    "the scheme in another case": (ELSEWHERE, {**SITE, "authorization": f"bearer {TOKEN}"}, TOKEN, 200),
    "an empty token": (ELSEWHERE, {"authorization": "Bearer "}, "", 403),
    "a wrong token from this machine": (HERE, {"authorization": "Bearer another"}, TOKEN, 403),
    "a page of another site": (HERE, EVIL, "", 403),
    "a page of no site": (HERE, {"origin": "null"}, "", 403),
    "a malformed origin": (HERE, {"origin": "http://[evil"}, "", 403),
    "a malformed host": (HERE, {"host": "[::1"}, "", 403),
    "our own page": (HERE, {"origin": "http://127.0.0.1:5001"}, "", 200),
    "another site with the token": (HERE, {**EVIL, **BEARER}, TOKEN, 200),
    "a script of another site": (HERE, {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "", 403),
    "a link on another site": (HERE, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "", 200),
    "a request of our own page": (HERE, {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, "", 200),
    **{
        f"a page of {origin}": (HERE, {"origin": origin}, "", 403)
        for origin in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:5001", "http://a@b")
    },
}


@pytest.mark.parametrize(("client", "headers", "token", "status"), CASES.values(), ids=CASES)
def test_who_is_an_operator(client: str, headers: dict[str, str], token: str, status: int) -> None:
    assert asks(client, headers, token) == status


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({"origin": "https://phone.example.com"}, TOKEN, 200),
        ({}, TOKEN, 200),
        (EVIL, TOKEN, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, TOKEN, 403),
        ({"origin": "null"}, TOKEN, 403),
        ({"authorization": "Basic YTpi"}, TOKEN, 200),
        ({"authorization": "Bearer another"}, TOKEN, 403),
        ({}, OTHER_TOKEN, 403),
        ({}, "", 403),
    ],
)
def test_a_session_cookie_makes_an_operator_on_our_pages_only(headers: dict[str, str], token: str, status: int) -> None:
    cookie = {"cookie": f"{COOKIE}={auth(TOKEN).issue_cookie(time.time())}"}
    assert asks(ELSEWHERE, {**SITE, **headers, **cookie}, token) == status


@pytest.mark.parametrize("name", PROXY_HEADERS)
def test_a_client_behind_a_proxy_is_not_at_this_machine(name: str) -> None:
    assert asks(HERE, {name: "127.0.0.1"}) == 403
    assert asks(HERE, {name: "127.0.0.1", **BEARER}, TOKEN) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost@evil.example", "evil.example@127.0.0.1", "evil.example/@localhost", "127.0.0.1#.evil.example"),
        *("127.0.0.1/.evil.example", "evil.example\\@127.0.0.1", "127.0.0.1, evil.example", "127.0.0.1 ", "[::1]x"),
        *("127.0.0.1:5001:80", "127.0.0.1:x", "127.0.0.1.nip.io", "localhost.", "127.1", "0", "2130706433"),
    ],
)
def test_a_host_that_no_browser_writes_so_is_not_this_machine(host: str) -> None:
    assert asks(HERE, {"host": host}) == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5001", "127.0.0.1", "127.8.8.8:80", "[::1]"])
def test_this_machine_has_several_names(host: str) -> None:
    assert asks(HERE, {"host": host}) == 200


NOW_S = 1_700_000_000.5
GOOD = auth(TOKEN).issue_cookie(NOW_S)


def test_a_cookie_is_good_for_its_time_and_its_token_and_does_not_show_it() -> None:
    assert auth(TOKEN).accepts_cookie(GOOD, NOW_S + VALID_FOR_S - 1)
    assert not auth(TOKEN).accepts_cookie(GOOD, NOW_S + VALID_FOR_S)
    assert not auth(TOKEN + "2").accepts_cookie(GOOD, NOW_S)
    assert TOKEN not in GOOD


def test_a_cookie_whose_expiry_is_changed_is_refused() -> None:
    expiry, _, mac = GOOD.partition(".")
    assert not auth(TOKEN).accepts_cookie(f"{int(expiry) + 1}.{mac}", NOW_S)


@pytest.mark.parametrize("value", ["", ".", GOOD, auth("").issue_cookie(NOW_S)])
def test_without_a_token_no_cookie_is_accepted(value: str) -> None:
    assert not auth("").accepts_cookie(value, NOW_S)


@settings(max_examples=25)  # a comparison of hashes: more examples find no other case
@given(st.text() | st.builds("{}.{}".format, st.integers(), st.text()))
def test_any_other_text_is_neither_cookie_nor_token(text: str) -> None:
    assert not auth(TOKEN).accepts_cookie(text, NOW_S)
    with pytest.raises(HTTPException, match="not the operators' token"):
        auth(TOKEN).require_token(connection(ELSEWHERE, {}), text)
