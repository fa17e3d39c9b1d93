from pathlib import Path

import pytest

from app.cli.doctor.finding import Severity
from app.cli.doctor.personas import NO_PROMPT, examine_personas
from app.config import SettingsError, read_settings
from app.server.persona_folder import PersonaFolder


def test_without_personas_nothing_is_said() -> None:
    assert list(examine_personas(read_settings(), None)) == []


def test_good_files_are_one_line_with_the_default(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").touch()
    (tmp_path / "bob.toml").touch()
    [finding] = examine_personas(read_settings(personas_dir=str(tmp_path), persona="bob"), None)
    assert finding.severity is Severity.GOOD
    assert finding.found == "ada, bob; bob answers where no persona is chosen"


@pytest.mark.parametrize(
    ("files", "default"),
    [({"ada": "name =", "bob": "voice = 'bob.wav'"}, ""), ({}, "ada"), ({"ada": "", "bob": "name = 'ada'"}, "")],
)
def test_what_the_service_refuses_is_a_problem_in_the_same_words(
    tmp_path: Path, files: dict[str, str], default: str
) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(SettingsError) as refusal:
        PersonaFolder(tmp_path, default).load()
    found = list(examine_personas(read_settings(personas_dir=str(tmp_path), persona=default), None))
    assert {finding.severity for finding in found} == {Severity.PROBLEM}
    assert [finding.found for finding in found] == str(refusal.value).splitlines()


def test_an_empty_folder_and_a_default_without_a_folder_are_reported(tmp_path: Path) -> None:
    [empty] = examine_personas(read_settings(personas_dir=str(tmp_path)), None)
    [missing] = examine_personas(read_settings(persona="ada"), None)
    assert (empty.severity, missing.severity) == (Severity.NOTE, Severity.PROBLEM)


def test_a_prompt_or_voice_is_a_problem_where_the_checkpoint_takes_none(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").write_text('prompt = "You are Ada."')
    (tmp_path / "bob.toml").write_text('voice = "NATF0"')
    (tmp_path / "eve.toml").write_text('greeting = "Hello!"')
    settings = read_settings(personas_dir=str(tmp_path))
    found = list(examine_personas(settings, takes_prompts=False))
    assert {finding.severity for finding in found} == {Severity.PROBLEM}
    assert [finding.found for finding in found] == [f"{name}.toml: {NO_PROMPT}" for name in ("ada", "bob")]
    for takes_prompts in (True, None):
        [finding] = examine_personas(settings, takes_prompts)
        assert finding.severity is Severity.GOOD
