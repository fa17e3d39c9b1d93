"""The virtual environment that Pipecat runs in, so that its packages and ours never meet."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = ("pipecat-ai[websocket]==1.14.0", "uvicorn==0.54.0", "websockets==17.4", "soxr==1.0.0")
"""Pipecat, and what matters of what it stands on; web server and sockets in the versions that this project uses."""
SHOWN = ("pipecat-ai", "uvicorn", "websockets", "soxr")
INSTALL_WITHIN_S = 900.0


class NoEnvironment(Exception):
    """The environment could not be made; the message is the last complaint of each way tried."""


def make(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`, which is made if it is not there yet.

    Raises NoEnvironment when it cannot be made by `venv` and pip, nor by uv.
    """
    python, made = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if not (made.is_file() and made.read_text() == wanted and python.exists()):
        _first_that_works(folder, python)
        made.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what matters, as installed."""
    program = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, str] = json.loads(_run([str(python), "-c", program, *SHOWN]))
    return found


def _first_that_works(folder: Path, python: Path) -> None:
    """Make the environment in one of two ways; some systems have `venv` without pip, many have no uv."""
    complaints = []
    for way in (_with_pip, _with_uv):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            way(folder, python)
        except NoEnvironment as error:
            complaints.append(str(error))
        else:
            return
    raise NoEnvironment("; ".join(complaints))


def _with_pip(folder: Path, python: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS])


def _with_uv(folder: Path, python: Path) -> None:
    _run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)])
    _run(["uv", "pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS])


def _run(command: Sequence[str]) -> str:
    """Return what the command wrote. Raises NoEnvironment with its last complaint."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_WITHIN_S)
    except subprocess.CalledProcessError as error:
        complaints = error.stderr.strip().splitlines()
        raise NoEnvironment(complaints[-1] if complaints else f"{command[0]} failed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEnvironment(str(error)) from error
    return ended.stdout
