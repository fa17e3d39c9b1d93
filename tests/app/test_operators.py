import pytest
from fastapi import HTTPException
from starlette.requests import HTTPConnection

from app.operators import Operators
from app.refusals import Refusals

TOKEN = "a-long-operator-token"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def asks(client: str, headers: dict[str, str], token: str = "") -> int:
    """Return the status that somebody is answered who asks from an address, 200 when he is let in."""
    raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:5001", **headers}.items()]
    scope = {"type": "http", "path": "/api/calls", "client": (client, 1), "headers": raw, "scheme": "http"}
    try:
        Operators(token, Refusals(9)).require(
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
        ),
    ],
)
def test_who_is_an_operator(client: str, headers: dict[str, str], token: str, status: int) -> None:
    assert asks(client, headers, token) == status


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


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via", "cf-connecting-ip", "cf-ray"]
)
def test_who_asks_for_somebody_else_is_not_at_this_machine_whatever_host_he_names(header: str) -> None:
    """Several proxies put the address of the service in place of the host name unless they are told not to."""
    assert asks("127.0.0.1", {header: "127.0.0.1"}) == 403
    assert asks("127.0.0.1", {header: "", **BEARER}, TOKEN) == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:5001", "http://a@b"])
def test_a_page_of_another_program_at_this_machine_is_no_operator(origin: str) -> None:
    assert asks("127.0.0.1", {"origin": origin}) == 403
