"""docs/api.md names what there is: routes, sockets, events, webhooks."""

import re
from pathlib import Path

import pytest

from app.calls.events import EventKind
from app.http.operator_routes import describe
from app.telemetry.webhooks import observer
from app.telemetry.webhooks.actions import parse_answer
from tests.service.front import Front

TEXT = (Path(__file__).parents[3] / "docs/api.md").read_text()
TYPES = {"caller.said", "moshi.said", *re.findall(r'"(call\.[a-z_]+)"', Path(observer.__file__).read_text())}


@pytest.mark.parametrize("kind", [kind.value for kind in EventKind if kind is not EventKind.TEXT])
def test_every_event_of_the_socket_is_described(kind: str) -> None:
    assert re.search(rf"^\| .*`{kind}`", TEXT, re.MULTILINE)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_webhook_has_an_example(kind: str) -> None:
    assert len(TYPES) == 7
    assert re.search(rf"^\| `{re.escape(kind)}` \| .*\{{", TEXT, re.MULTILINE)


async def test_every_route_but_the_smallest_is_named() -> None:
    paths = set(describe(Front().app.routes)["paths"])
    named = {
        path for path in paths if f"{path}`" in TEXT or f"{path}?" in TEXT or f"…/{path.rpartition('/')[2]}" in TEXT
    }
    assert paths - named == {"/healthz", "/api/loop", "/api/public"}


def test_the_actions_are_those_that_are_read() -> None:
    actions = re.findall(r'`(\{"(?:say|transfer|hangup)".*?\})`', TEXT)
    assert [type(parse_answer(one.encode())).__name__ for one in actions] == [
        "SayAction",
        "TransferAction",
        "HangupAction",
    ]
