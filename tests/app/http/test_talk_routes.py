"""Who gets the talk page, what it says, and what it may ask for; over HTTP, without a browser."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from app.http.page.routes import TALK_FILES
from tests.service.front import Front, front_settings
from tests.service.served import Served, served
from tests.service.test_chat import TOKEN, all_over, dial, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPERATOR_TOKEN = "a-long-operator-token"
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("personas")
    for name in ("ada", "bob"):
        (folder / f"{name}.toml").write_text('notes = "A secret"\n')
    async with served(max_calls=2, chat_token=TOKEN, personas_dir=str(folder), persona="bob") as service:
        yield service


async def get(service: Served, path: str, **headers: str) -> httpx.Response:
    return await service.http.get(path, headers=headers)


async def test_an_operator_gets_the_page_with_names_and_a_way_back(one: Served) -> None:
    page = await get(one, "/talk")
    assert (page.status_code, page.headers["referrer-policy"]) == (200, "no-referrer")
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    assert "<option>ada</option><option selected>bob</option>" in page.text
    assert 'href="./"' in page.text
    assert "A secret" not in page.text
    assert "<!--" not in page.text
    assert 'href="talk"' in (await get(one, "/")).text


async def test_whoever_has_the_token_gets_the_page_and_nobody_else(one: Served) -> None:
    for query, headers in ((f"?token={TOKEN}", {}), ("", {"Authorization": f"Bearer {TOKEN}"})):
        page = await get(one, f"/talk{query}", **ELSEWHERE, **headers)
        assert (page.status_code, 'href="./"' in page.text, "bob" in page.text) == (200, False, True)
    for query in ("", "?token=", "?token=wrong"):
        refused = await get(one, f"/talk{query}", **ELSEWHERE)
        assert (refused.status_code, "bob" in refused.text) == (403, False)
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert (await get(one, f"/talk?token={TOKEN}", **framed)).status_code == 403
    lines = [one.log.get_nowait() for _ in range(one.log.qsize())]
    assert not any(TOKEN in line for line in lines)


async def test_its_files_are_for_everybody_for_a_module_is_requested_without_the_token(one: Served) -> None:
    answers = {name: (await get(one, f"/page/{name}", **ELSEWHERE)).status_code for name in TALK_FILES}
    assert answers == dict.fromkeys(TALK_FILES, 200)
    assert (await get(one, "/page/main.js", **ELSEWHERE)).status_code == 403


async def test_an_operator_from_elsewhere_signs_in_first() -> None:
    http = Front(front_settings(operator_token=OPERATOR_TOKEN, chat_token=TOKEN)).http
    asked = await http.get("/talk", headers=ELSEWHERE)
    assert (asked.status_code, asked.headers["location"]) == (303, "login")
    await http.post("/login", data={"token": OPERATOR_TOKEN}, headers=ELSEWHERE)
    assert (await http.get("/talk", headers=ELSEWHERE)).status_code == 200


async def test_the_latency_of_a_chat_is_that_of_its_record_and_of_chats_alone(one: Served) -> None:
    async with dial(one, "?format=pcm") as socket:
        sid = (await opened(socket))["call_sid"]
        path = f"/talk/{sid}/latency"
        while (latency_ms := (await get(one, f"{path}?token={TOKEN}", **ELSEWHERE)).json()["latency_ms"]) is None:
            await socket.send(b"\1" + bytes(960))
            await socket.recv()
        latencies_s = one.record(sid).latencies_s
        assert min(latencies_s) * 1000 - 0.1 <= latency_ms <= max(latencies_s) * 1000 + 0.1
        assert (await get(one, path, **ELSEWHERE)).status_code == 403
    await all_over(one)
    assert (await get(one, f"/talk/chat-{'0' * 32}/latency")).status_code == 404
    async with one.phone.call() as call:
        assert (await get(one, f"/talk/{call.call_sid}/latency")).status_code == 404


async def test_without_chats_there_is_no_page_and_no_way_to_it() -> None:
    http = Front(front_settings(chat=False)).http
    assert (await http.get("/talk")).status_code == 404
    assert 'href="talk"' not in (await http.get("/")).text


@pytest.mark.parametrize(("record_calls", "is_said"), [("all", True), ("asked", False)])
async def test_that_all_calls_are_recorded_is_said_before_one_begins(record_calls: str, is_said: bool) -> None:
    http = Front(front_settings(recordings_dir="recordings", record_calls=record_calls)).http
    assert ("Calls are recorded here." in (await http.get("/talk")).text) is is_said
