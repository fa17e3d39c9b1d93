"""A fake cloudflared in a folder of its own, and the events that it logs."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes.pipeline import PATIENCE_S, all_gone

LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class FakeCloudflared:
    folder: Path

    @property
    def program(self) -> str:
        return str(self.folder / "cloudflared")

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:/usr/bin:/bin", "FAKE_EVENTS": str(self.folder / "events")}

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return the events so far in order, all or those of one name."""
        file = self.folder / "events"
        events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [event for event in events if name in ("", event["event"])]

    async def until(self, name: str, times: int = 1) -> None:
        """Wait for so many events of a name."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events(name)) < times:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(LOOK_EVERY_S)

    async def gone(self) -> None:
        """Wait until no process of it is left."""
        await all_gone([start["pid"] for start in self.events("start")])


def install(folder: Path) -> FakeCloudflared:
    folder.mkdir(exist_ok=True)
    program = folder / "cloudflared"
    source = Path(__file__).parent / "fake_cloudflared.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{source}" "$@"\n')
    program.chmod(0o755)
    return FakeCloudflared(folder)
