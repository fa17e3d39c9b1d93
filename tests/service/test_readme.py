"""README, "Your number in ten minutes": what it says to type, typed, with fakes of Twilio and cloudflared."""

import asyncio
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from app.cli.service_process import free_port
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, ROOT, end, running, start
from tests.tunnel.install import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.callee import Callee
from tests.twilio_rest.server import serving_rest

OURS, BEFORE = "+15550100000", "https://old.example.com/v"
PROGRAMS = {".venv/bin/moshi-bridge": "tests.tunnel.hasty", ".venv/bin/make-call": "scripts.make_call"}
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


def fill_in(folder: Path, step: str, values: dict[str, str]) -> None:
    """Copy the example of the settings, and fill in the lines that the step names, as it says."""
    assert to_type(step) == "cp .env.example .env"
    text = (Path(ROOT) / ".env.example").read_text()
    for name in re.findall(r"`(TWILIO_\w+)`", step):
        assert f"\n# {name}=\n" in text
        text = text.replace(f"\n# {name}=\n", f"\n{name}={values.pop(name)}\n")
    assert values == {}
    (folder / ".env").write_text(text)


@pytest.mark.slow
async def test_every_step_does_what_it_says(tmp_path: Path) -> None:
    _, settings, cloudflared, doctor, serve, call = steps()
    values = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_PHONE_NUMBER": OURS}
    fill_in(tmp_path, settings, values)
    assert "cloudflared" in cloudflared
    fake, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE)
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as twilio:
        twilio.callees = {to_type(call).split()[1]: Callee(duration_s=1.0)}
        here: dict[str, Any] = {**LOOPBACK, "PORT": str(free_port()), "TWILIO_API_URL": twilio.url}
        here |= {**fake.environment, "PATH": f"{fake.folder}:{os.environ['PATH']}"}

        async def type_in(line: str) -> asyncio.subprocess.Process:
            program, *arguments = shlex.split(line)
            return await start(tmp_path, *arguments, module=PROGRAMS[program], **here)

        async def said(line: str) -> str:
            status, out, err = await end(await type_in(line))
            assert status == 0, out + err
            return out + err

        assert f"leads to {BEFORE}" in await said(to_type(doctor))
        async with running(await type_in(to_type(serve))) as program:
            await program.until("the number leads to")
            assert f"leads to {number.voice_url}" in await said(to_type(doctor))
            assert "completed after" in await said(to_type(call))
            assert '"caller hung up"' in await said(".venv/bin/moshi-bridge calls --json")
            assert (await said(".venv/bin/moshi-bridge drain")).endswith("stopped\n")
            assert (await program.end())[0] == 0
        assert number.voice_url == BEFORE
    await fake.gone()
