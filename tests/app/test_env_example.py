"""`.env.example` says what `Settings` says."""

from pathlib import Path

from app.config import FIELDS, example_env


def test_the_file_is_what_the_settings_say() -> None:
    assert Path(".env.example").read_text() == example_env()


def test_every_setting_explains_itself() -> None:
    assert [name for name, field in FIELDS.items() if not field.description] == []
