"""Callers of a running service, each answered by a persona, and an edit between two calls."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.twilio import twiml
from app.twilio.events import CallSid
from tests.service.phone import PUBLIC, form, new_call_sid
from tests.service.served import Served, served

OURS = "+15551234567"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("personas")
    (folder / "ada.toml").write_text(f'numbers = ["{OURS}"]\ngreeting = "Hello! I am Ada."')
    (folder / "bob.toml").write_text('greeting = "Bob here."')
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(folder: Path) -> AsyncIterator[Served]:
    database = f"sqlite:///{folder / 'calls.db'}"
    async with served(max_calls=4, personas_dir=str(folder), persona="bob", database_url=database) as one:
        yield one


async def ring(service: Served, query: str = "", called: str = "+15550100000") -> tuple[CallSid, str]:
    """Ring; return the call and the address of its socket."""
    call_sid, path = new_call_sid(), f"/twilio/voice{query}"
    answer = await service.phone.post(path, form(call_sid) | {"To": called}, url=PUBLIC + path)
    (verb,) = twiml.parse(answer.raise_for_status().text)
    assert isinstance(verb, twiml.Connect)
    return call_sid, verb.url


async def speaker(service: Served, call_sid: CallSid) -> Any:
    return (await service.http.get(f"/api/calls/{call_sid}")).json()["persona"]


async def test_two_callers_at_once_are_answered_by_two_personas_and_everything_says_so(service: Served) -> None:
    (one, _), (two, _) = await ring(service, called=OURS), await ring(service, "?persona=bob", OURS)
    assert [await speaker(service, call_sid) for call_sid in (one, two)] == ["ada", "bob"]
    live = (await service.http.get("/api/live")).json()["calls"]
    assert {call["call_sid"]: call["persona"] for call in live} == {one: "ada", two: "bob"}
    listed = (await service.http.get("/api/calls")).json()
    assert {call["call_sid"]: call["persona"] for call in listed} == {one: "ada", two: "bob"}
    service.end_calls()
    while (kept := (await service.http.get(f"/api/history/{two}")).json()).get("ended_at") is None:
        pass
    assert kept["persona"] == "bob"


async def test_files_that_are_added_or_wrong_or_deleted_take_effect_for_the_next_call(
    service: Served, folder: Path
) -> None:
    on, _ = await ring(service, called="+15550000003")
    (folder / "eve.toml").write_text('numbers = ["+15550000003"]')
    added, _ = await ring(service, called="+15550000003")
    (folder / "eve.toml").write_text("numbers = [")
    wrong, _ = await ring(service, called="+15550000003")
    await service.until("the personas stay as they were: eve.toml: is no TOML")
    (folder / "eve.toml").unlink()
    deleted, _ = await ring(service, called="+15550000003")
    assert [await speaker(service, one) for one in (on, added, wrong, deleted)] == ["bob", "eve", "eve", "bob"]
    service.end_calls()


async def test_operators_list_the_personas_and_nobody_else(service: Served) -> None:
    personas = (await service.http.get("/api/personas")).raise_for_status().json()
    assert [(one["name"], one["default"], one["numbers"]) for one in personas] == [
        ("ada", False, [OURS]),
        ("bob", True, []),
    ]
    assert (await service.http.get("/api/personas", headers={"Host": "phone.example.com"})).status_code == 403


async def test_metrics_have_no_label_for_a_persona(service: Served) -> None:
    await ring(service, "?persona=ada")
    assert "ada" not in (await service.http.get("/metrics")).raise_for_status().text
    service.end_calls()
