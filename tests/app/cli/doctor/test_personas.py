from pathlib import Path

import pytest

from app.cli.doctor.finding import Level
from app.cli.doctor.personas import examine_personas
from app.config import SettingsError, read_settings
from app.server.persona_folder import PersonaFolder


def test_without_personas_nothing_is_said() -> None:
    assert list(examine_personas(read_settings())) == []


def test_good_files_are_one_line_with_the_default(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").touch()
    (tmp_path / "bob.toml").touch()
    [finding] = examine_personas(read_settings(personas_dir=str(tmp_path), persona="bob"))
    assert finding.level is Level.GOOD
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
    found = list(examine_personas(read_settings(personas_dir=str(tmp_path), persona=default)))
    assert {finding.level for finding in found} == {Level.PROBLEM}
    assert [finding.found for finding in found] == str(refusal.value).splitlines()


def test_an_empty_folder_and_a_default_without_a_folder_are_reported(tmp_path: Path) -> None:
    [empty] = examine_personas(read_settings(personas_dir=str(tmp_path)))
    [missing] = examine_personas(read_settings(persona="ada"))
    assert (empty.level, missing.level) == (Level.NOTE, Level.PROBLEM)
