"""What the Makefile sets up, as `make -n` tells it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.test_deploy import ROOT


@pytest.mark.parametrize(
    ("installed", "asked", "sets_up"),
    [
        ("cuda13", (), ""),
        ("cuda13", ("ACCELERATOR=cpu",), "cpu"),
        ("cpu", ("ACCELERATOR=none",), "none"),
        ("", (), "cpu"),
    ],
)
def test_what_was_set_up_is_kept_unless_something_else_is_asked_for(
    tmp_path: Path, installed: str, asked: tuple[str, ...], sets_up: str
) -> None:
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    if installed:
        (tmp_path / ".venv" / f".ready-{installed}").touch()
    command = ["make", "-n", "-C", str(tmp_path), "serve", *asked]
    said = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True).stdout
    assert (f"requirements/{sets_up}.txt" in said) if sets_up else ("requirements" not in said)
    assert ".venv/bin/moshi-bridge serve" in said
