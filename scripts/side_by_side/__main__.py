"""`python -m scripts.side_by_side`: the same simulated caller, in one run, to our line test and two others that echo.

    bare server     returns every packet unchanged: the least that a server can take
    line test       `moshi-bridge serve` with ENGINE=loopback CODEC=loopback, frames of 80 ms at 24 kHz
    Pipecat         its FastAPI transport and Twilio serializer, frames of 80 ms at 24 kHz

`servers/` holds the two others, programs of their own; Pipecat has a virtual environment of its own.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Column, Table

from app.cli.bench.calls import Load, place_calls, speech
from app.cli.bench.figures import CALLER_ROWS, CallerFigures, caller_figures
from app.cli.bench.output import write_json
from app.cli.service_process import (
    AUTH_TOKEN,
    HOST,
    LOOPBACK,
    ServiceFailed,
    ServiceProcess,
    free_port,
    start_server,
    start_service,
)
from app.simulator.trouble import STEADY, Scenario, Window

STALL = Window(15.0, 0.6)
TAIL_S = 3.0
"""The caller listens so long after their last word, so that all of it can come back."""
STALLED = Load(speech(STALL.end_s + 11.0), line=Scenario("stall", stalls=(STALL,)), tail_s=TAIL_S)
WARM_UP = Load(speech(1.0), tail_s=TAIL_S)
SERVERS = Path(__file__).parent / "servers"
PIPECAT = (
    *("-m", "uvicorn", "--app-dir", str(SERVERS), "pipecat_server:app", "--host", HOST),
    *("--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--no-access-log", "--port"),
)
"""The web server of the line test, set up alike."""


REQUIREMENTS = ("pipecat-ai[websocket]==1.14.0", "uvicorn==0.54.0", "websockets==17.4", "soxr==1.0.0")
"""Pipecat, and what matters of what it stands on; web server and sockets in the versions that this project uses."""


@dataclass
class Findings:
    """The figures of one server by the title of the load; `failed` says what could not be measured and why."""

    figures: dict[str, CallerFigures] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


@dataclass
class MeasuredServer:
    """One server to call: `start` takes the number of calls to make room for and a file for its log."""

    name: str
    start: Callable[[int, Path], AbstractAsyncContextManager[ServiceProcess]]
    auth_token: str | None = None
    found: Findings = field(default_factory=Findings)


def line_test() -> MeasuredServer:
    return MeasuredServer(
        "line test", lambda calls, log: start_service({**LOOPBACK, "MAX_CALLS": str(calls)}, log), AUTH_TOKEN
    )


def other_server(name: str, ready_path: str, *command: str) -> MeasuredServer:
    """Return a server whose command line ends with its port."""

    def start(_: int, log: Path) -> AbstractAsyncContextManager[ServiceProcess]:
        port = free_port()
        return start_server([*command, str(port)], port, ready_path, log)

    return MeasuredServer(name, start)


def main(
    seconds: Annotated[float, typer.Option(min=5, help="How long the caller speaks.")] = 60.0,
    calls: Annotated[list[int], typer.Option(min=1, help="Calls at once; may be given again.")] = [1, 8, 20],  # noqa: B006
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    environment_path: Annotated[
        Path, typer.Option("--environment", help="Where Pipecat's virtual environment is or is to be made.")
    ] = Path("build/side-by-side"),
    without_pipecat: Annotated[bool, typer.Option(help="Leave Pipecat out.")] = False,
) -> None:
    """Call this service's line test, a bare server and Pipecat in turn, and show the figures side by side."""
    console = Console()
    machine: dict[str, Any] = {"platform": platform.platform(), "python": platform.python_version()}
    machine |= {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    servers = [other_server("bare server", "/", sys.executable, str(SERVERS / "bare_server.py")), line_test()]
    if not without_pipecat:
        with console.status("Pipecat's virtual environment (minutes, the first time) …"):
            python = _pipecat_python(environment_path.absolute())
        servers.append(other_server("Pipecat", "/docs", str(python), *PIPECAT))
    loads = [*(Load(speech(seconds), many, tail_s=TAIL_S) for many in calls), STALLED]
    uvloop.run(_measure(servers, loads, console))
    machine["load_after"] = os.getloadavg()[0]
    found = {server.name: server.found for server in servers}
    console.print(table(found, servers[0].name))
    console.print("CPU: processor seconds of the server's process and its children.", machine)
    sides = {name: asdict(findings) for name, findings in found.items()}
    write_json(json_path, {"machine": machine, "sides": sides})


async def _measure(servers: Sequence[MeasuredServer], loads: Sequence[Load], console: Console) -> None:
    """Call all servers under one load, then under the next: a busy minute of the machine meets all of them alike."""
    with tempfile.TemporaryDirectory() as folder:
        for load in loads:
            for server in servers:
                title = f"{load.calls} at once" if load.line is STEADY else f"a stall of {STALL.length_s:g} s"
                with console.status(f"{server.name}, {title}"):
                    try:
                        server.found.figures[title] = await _call(server, load, Path(folder) / "server.log")
                    except ServiceFailed as error:
                        server.found.failed.append(f"{title}: {error}")


async def _call(server: MeasuredServer, load: Load, log: Path) -> CallerFigures:
    """Call one server, after one short call that is not counted."""
    async with server.start(load.calls + 1, log) as process:
        await place_calls(process, WARM_UP, auth_token=server.auth_token)
        measured = await place_calls(process, load, auth_token=server.auth_token)
    return caller_figures(measured, load.line)


def table(found: Mapping[str, Findings], floor: str) -> Table:
    """Return a column for each server and a block of rows for each load.

    `floor` names the server with whose CPU that of the others is compared.
    """
    servers = found.values()
    shown = Table("", *(Column(name, justify="right") for name in found), title="The same caller, side by side")
    for title in dict.fromkeys(title for server in servers for title in server.figures):
        figures, lowest = [server.figures.get(title) for server in servers], found[floor].figures.get(title)
        shown.add_section()
        shown.add_row(f"[bold]{title}[/]")
        for label, write in CALLER_ROWS.items():
            shown.add_row(label, *("–" if one is None else write(one) for one in figures))
        shown.add_row("CPU, times the floor's", *(_times(one, lowest) if one and lowest else "–" for one in figures))
    if any(server.failed for server in servers):
        shown.add_section()
        shown.add_row("not measured", *("\n".join(server.failed) for server in servers))
    return shown


def _times(figures: CallerFigures, floor: CallerFigures) -> str:
    """Return how many times the floor's processor seconds these are, in brackets without the workers."""
    unit = max(sum(floor.cpu.values()), 1e-9)
    return f"{sum(figures.cpu.values()) / unit:.2f} ({figures.cpu['app'] / unit:.2f})"


def _pipecat_python(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`, which is made with uv or venv if it is not there yet."""
    python, made = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if made.is_file() and made.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    made.write_text(wanted)
    return python


if __name__ == "__main__":
    typer.run(main)
