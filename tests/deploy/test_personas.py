"""The example personas: each parses, they go together, and the synthetic checkpoint has their words recorded."""

import tomllib
from pathlib import Path

import pytest

from app.calls.personas import Persona, gather, parse_persona
from workers.checkpoints.synthetic.script import script

FILES = sorted((Path(__file__).parent.parent.parent / "deploy" / "personas").glob("*"))


def read(file: Path) -> Persona:
    return parse_persona(file.name, file.read_text())


def as_all_set(file: Path) -> str:
    """Return a file with its fields that are commented out."""
    lines = file.read_text().splitlines()
    return "\n".join(line.removeprefix("# ") if " = " in line else line for line in lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_is_a_persona_whose_greeting_can_be_said(file: Path) -> None:
    persona = read(file)
    assert persona.name == file.stem
    assert persona.notes
    assert (persona.prompt, persona.voice) == ("", ""), "of use with every checkpoint as it is"
    words = script().words.tokens_of(persona.greeting)
    assert len(words) == len(persona.greeting.split()) > 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_commented_out_is_right_too(file: Path) -> None:
    given = parse_persona(file.name, as_all_set(file))
    assert given.voice
    assert given.numbers
    assert len(given.prompt) > 50
    assert given.greeting == tomllib.loads(file.read_text())["greeting"]


def test_the_examples_go_together() -> None:
    assert [file.name for file in FILES] == ["ada.toml", "bistro.toml", "leo.toml"]
    personas = gather([(file.name, parse_persona(file.name, as_all_set(file))) for file in FILES], "ada")
    assert personas.default == personas.by_name["ada"]
    assert len(personas.by_number) == 3
