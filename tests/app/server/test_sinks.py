import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.config import read_settings
from app.server.sinks import Sinks
from app.telemetry.call_log.database import Database
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, address_of, entry
from tests.processes.pipeline import PATIENCE_S


async def until_gone(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - threads look and delete
            await asyncio.sleep(0.01)


async def test_recordings_of_forgotten_calls_are_deleted_at_the_start_and_as_they_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a `forget` on another node with the same database, and after a call that came back."""
    for name in ("RETRY_S", "READ_FORGOTTEN_EVERY_S"):
        monkeypatch.setattr(f"app.telemetry.call_log.writer.{name}", 0.02)
    url, folder = f"sqlite:///{tmp_path}/calls.db", tmp_path / "recordings"
    folder.mkdir()
    files = {sid: folder / f"20260102T120000Z-{sid}.flac" for sid in (ANN, BOB, EVE)}
    for file in files.values():
        file.touch()
    database, came_back = Database(address_of(url, tmp_path)), list[CallSid]()
    database.migrate()
    for sid, caller in ((ANN, "+15550100001"), (BOB, "+15550100009")):
        database.write(entry(sid, caller))
    database.forget("+15550100001")
    settings = read_settings(database_url=url, recordings_dir=str(folder), cache_dir=tmp_path)
    sinks = Sinks(settings, lambda call_sid, action: None, lambda call_sids: came_back)
    async with AsyncExitStack() as stack:
        sinks.start(stack)
        await until_gone(files[ANN])
        database.forget("+15550100009")
        await until_gone(files[BOB])
        files[BOB].touch()
        came_back.append(BOB)
        await until_gone(files[BOB])
    assert [*folder.iterdir()] == [files[EVE]]
