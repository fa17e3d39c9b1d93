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
        Operators(token, Refusals(9)).require(HTTPConnection({**scope, "query_string": b"", "server": None}))
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
