"""The virtual environment that Pipecat runs in, so that its packages and ours never meet."""

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("pipecat-ai[websocket]==1.14.0", "uvicorn==0.54.0", "websockets==17.4", "soxr==1.0.0")
"""Pipecat, and what matters of what it stands on; web server and sockets in the versions that this project uses."""


def make(folder: Path) -> Path:
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
