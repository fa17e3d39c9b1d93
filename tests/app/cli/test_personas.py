"""`moshi-bridge persona`."""

from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner, Result

from app.cli.main import cli
from app.cli.service_process import LOOPBACK, free_port
from app.setting_sources import PREFIX

ADA = """
numbers = ["+15551234567"]
greeting = "Hello! [bold]I am Ada.[/]"
prompt = "You are Ada from Northside Dental."
voice = "NATF0"
notes = "the first line"
[sampling]
text_top_k = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ada.toml").write_text(ADA)
    (tmp_path / "bob.toml").write_text("")
    monkeypatch.setenv("PERSONAS_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["persona", *arguments])


def test_list_has_a_row_for_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA", "bob")
    done = run("list")
    assert done.exit_code == 0, done.output
    [ada] = [line for line in done.stdout.splitlines() if "ada" in line]
    for fact in ("+15551234567", "Hello! [bold]I am Ada.[/]", "34 characters", "NATF0"):
        assert fact in ada
    assert "bob (default)" in done.stdout


def test_show_has_all_of_one(folder: Path) -> None:
    shown = run("show", "ada").stdout
    for fact in ("ada.toml", "You are Ada from Northside Dental.", "text_top_k 7", "the first line", "[bold]"):
        assert fact in shown


def test_problems_are_a_line_each(folder: Path) -> None:
    (folder / "eve.toml").write_text("name =")
    (folder / "kim.toml").write_text('voice = "kim.wav"')
    done = run("list")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 2)
    assert "moshi-bridge: kim.toml: voice: kim.wav is not in PERSONAS_DIR" in done.stderr.splitlines()


@pytest.mark.parametrize("command", [("show", "nobody"), ("try", "nobody", "--wav", "out.wav")])
def test_who_is_not_there_is_named_with_those_who_are(folder: Path, command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.exit_code, done.stderr) == (
        2,
        "moshi-bridge: there is no persona nobody in PERSONAS_DIR (there is ada, bob)\n",
    )


def test_without_a_folder_there_is_nothing_to_list() -> None:
    done = run("list")
    assert (done.exit_code, "PERSONAS_DIR is not set" in done.stderr) == (2, True)


def test_try_places_a_call_that_the_persona_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a node of a cluster, whose name and calls the command's service must not take."""
    (folder / "ada.toml").write_text('greeting = "Hello! I am Ada."')
    node = {name: f"http://127.0.0.1:{free_port()}" for name in ("PUBLIC_URL", "NODE_URL")}
    node |= {"NATS_URL": f"nats://127.0.0.1:{free_port()}", "TWILIO_ACCOUNT_SID": "AC", "TWILIO_AUTH_TOKEN": "1" * 32}
    for name, value in {**LOOPBACK, **node}.items():
        monkeypatch.setenv(PREFIX + name, value)
    said, heard = folder / "said.wav", folder / "heard.wav"
    soundfile.write(said, [0.1] * 8_000, 8_000)
    done = run("try", "ada", "--wav", str(heard), "--audio", str(said))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("ada said: ")
    assert soundfile.info(heard).channels == 2


def test_try_says_why_its_service_does_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEC", "loopback")
    done = run("try", "bob", "--wav", str(folder / "heard.wav"))
    assert done.exit_code == 2
    assert "CODEC" in done.stderr
