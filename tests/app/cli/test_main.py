"""The commands as programs."""

import pytest
import typer

from app.cli.main import cli as moshi_bridge
from scripts.make_call import cli as make_call


@pytest.mark.parametrize("program", [moshi_bridge, make_call], ids=["moshi-bridge", "make-call"])
def test_a_defect_of_ours_shows_no_tokens(program: typer.Typer) -> None:
    """Typer's own tracebacks hold the value of every variable."""
    assert not program.pretty_exceptions_enable
