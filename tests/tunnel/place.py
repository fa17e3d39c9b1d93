"""A folder for PATH with a cloudflared in it, and what it did."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes.pipeline import PATIENCE_S

LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Place:
    """Where the stand-in is installed."""

    folder: Path

    @property
    def program(self) -> str:
        return str(self.folder / "cloudflared")

    @property
    def environment(self) -> dict[str, str]:
        """What the stand-in needs of its environment."""
        return {"PATH": f"{self.folder}:/usr/bin:/bin", "STANDIN_DIARY": str(self.folder / "diary")}

    def happenings(self) -> list[dict[str, Any]]:
        """Return all that happened so far, in order."""
        diary = self.folder / "diary"
        return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []

    def happened(self, happening: str) -> list[dict[str, Any]]:
        return [each for each in self.happenings() if each["happening"] == happening]

    async def until(self, happening: str, times: int = 1) -> None:
        """Wait until it happened so often."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.happened(happening)) < times:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(LOOK_EVERY_S)


def install(folder: Path) -> Place:
    """Put the stand-in into a folder."""
    folder.mkdir(exist_ok=True)
    program = folder / "cloudflared"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "standin.py"}" "$@"\n')
    program.chmod(0o755)
    return Place(folder)
