"""README, "Your number in ten minutes": what it says to type, typed, with stand-ins for Twilio and Cloudflare."""

import asyncio
import contextlib
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, ROOT, Program, free_port
from tests.tunnel.place import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.callee import Callee
from tests.twilio_rest.server import serving_rest

OURS, BEFORE = "+15550100000", "https://old.example.com/v"
PROGRAMS = {".venv/bin/moshi-bridge": "app", ".venv/bin/make-call": "scripts.make_call"}
TYPED = re.compile(r"`([^`\n]+ [^`\n]+)`")


def steps() -> list[str]:
    """Return the numbered steps of the section."""
    section = (Path(ROOT) / "README.md").read_text().split("## Your number in ten minutes\n")[1].split("\n## ")[0]
    found = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    return [*found[:-1], found[-1].split("\n\n")[0]]


def to_type(step: str) -> str:
    """Return the first command in a step."""
    found: list[str] = TYPED.findall(step)
    return found[0]


@dataclass
class Desk:
    """A folder, a terminal in it, and what the stand-ins need in its environment."""

    folder: Path
    environment: dict[str, str]

    async def start(self, typed: str) -> asyncio.subprocess.Process:
        """Start what was typed."""
        program, *arguments = shlex.split(typed)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", PROGRAMS[program], *arguments),
            cwd=self.folder,
            env={"PYTHONPATH": ROOT, "HOME": str(self.folder), **self.environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    @contextlib.asynccontextmanager
    async def running(self, typed: str) -> AsyncIterator[Program]:
        """Type what runs until it is ended, and go on in another terminal."""
        process = await self.start(typed)
        try:
            yield Program(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def type(self, typed: str) -> tuple[int | None, str]:
        """Return its exit status and what it has said."""
        process = await self.start(typed)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        return process.returncode, (out + err).decode()


def fill_in(folder: Path, step: str, values: dict[str, str]) -> None:
    """Copy the example of the settings, and fill in the lines that the step names, as it says."""
    assert to_type(step) == "cp .env.example .env"
    text = (Path(ROOT) / ".env.example").read_text()
    for name in re.findall(r"`(TWILIO_\w+)`", step):
        assert f"\n# {name}=\n" in text
        text = text.replace(f"\n# {name}=\n", f"\n{name}={values.pop(name)}\n")
    assert values == {}
    (folder / ".env").write_text(text)


async def test_every_step_does_what_it_says(tmp_path: Path) -> None:
    _, settings, cloudflared, doctor, serve, call = steps()
    values = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_PHONE_NUMBER": OURS}
    fill_in(tmp_path, settings, values)
    assert "cloudflared" in cloudflared
    place, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE)
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as twilio:
        twilio.callees = {to_type(call).split()[1]: Callee(duration_s=1.0)}
        here = {**LOOPBACK, "PORT": str(free_port()), "TWILIO_API_URL": twilio.url}
        desk = Desk(tmp_path, {**here, **place.environment, "PATH": f"{place.folder}:{os.environ['PATH']}"})

        status, said = await desk.type(to_type(doctor))
        assert (status, f"leads to {BEFORE}" in said) == (0, True), said

        async with desk.running(to_type(serve)) as program:
            await program.until("the number leads to")
            status, said = await desk.type(to_type(doctor))
            assert (status, f"leads to {number.voice_url}" in said) == (0, True), said

            status, said = await desk.type(to_type(call))
            assert (status, "completed after" in said) == (0, True), said
            status, said = await desk.type(".venv/bin/moshi-bridge calls --json")
            assert (status, '"caller hung up"' in said) == (0, True), said

            status, said = await desk.type(".venv/bin/moshi-bridge drain")
            assert (status, said.endswith("stopped\n")) == (0, True), said
            assert (await program.end())[0] == 0
        assert number.voice_url == BEFORE
    await all_gone([start["pid"] for start in place.happened("start")])
