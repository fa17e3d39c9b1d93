from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calls.personas import NOBODY, PersonaError, gather, parse_persona

ADA = """
numbers = ["+1 555 123 4567", "0015557654321"]
greeting = "Hello! I'm Ada."
prompt = "You are Ada from Northside Dental."
voice = "NATF0"
notes = "the first line"
[sampling]
text_temperature = 0.5
"""


def test_a_file_becomes_a_persona() -> None:
    ada = parse_persona("ada.toml", ADA)
    assert (ada.name, ada.voice, ada.greeting) == ("ada", "NATF0", "Hello! I'm Ada.")
    assert ada.numbers == ("+15551234567", "+15557654321")
    assert ada.sampling.given == (("text_temperature", 0.5),)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name = ", "ada.toml: is no TOML"),
        ('name = "Ada!"', "ada.toml: name: must be small letters, digits, - and _"),
        ('voice = "../NATF0.pt"', "ada.toml: voice: is the name of a voice"),
        ('voice = "/etc/voice.wav"', "not a path"),
        ('voice = ".hidden"', "not a path"),
        ('numbers = ["Ada"]', r"ada.toml: numbers.0: 'Ada' is no number"),
        ('numbers = ["(555) 123-4567"]', "is no number with \\+ and country code"),
        ("numbers = [15551234567]", "ada.toml: numbers.0: must be text in quotes"),
        ('numbers = "+15551234567"', "ada.toml: numbers: must be a list"),
        (
            'greetings = "Hello"',
            "ada.toml: greetings: is not a key; the keys are name, numbers, greeting, prompt, voice",
        ),
        ('[sampling]\ngreeting = "Hello"', "sampling.greeting: is not a key; the keys are text_temperature"),
        ("sampling = 3", "ada.toml: sampling: must be a table"),
        ("greeting = 7", "ada.toml: greeting: must be text in quotes"),
        (f'greeting = "{"a" * 501}"', "at most 500 characters"),
        ("[sampling]\ntext_temperature = -1", "ada.toml: sampling.text_temperature: "),
        ("[sampling]\nseed = 1", "ada.toml: sampling.seed: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(text: str, error: str) -> None:
    with pytest.raises(PersonaError, match=error) as refusal:
        parse_persona("ada.toml", text)
    assert "\n" not in str(refusal.value)


def test_name_wins_over_number_and_number_over_default() -> None:
    ada, bob = parse_persona("ada.toml", ADA), parse_persona("bob.toml", "")
    personas = gather([("ada.toml", ada), ("bob.toml", bob)], "bob")
    assert personas.choose("", "+15550000000") == bob
    assert personas.choose("", "+15551234567") == ada
    assert personas.choose("bob", "+15551234567") == bob
    assert personas.choose("nobody", "+15551234567") == ada


def test_without_a_default_moshi_speaks_as_it_is() -> None:
    assert gather([], "").choose("", "") == NOBODY


@pytest.mark.parametrize(
    ("second", "default", "error"),
    [
        ('numbers = ["+15551234567"]', "", "bob.toml: \\+15551234567 is answered by 'ada' already"),
        ('name = "ada"', "", "bob.toml: another file has the name 'ada'"),
        ("", "eve", "PERSONA=eve: there is no such persona in PERSONAS_DIR \\(there is ada, bob\\)"),
    ],
)
def test_personas_that_clash_are_refused(second: str, default: str, error: str) -> None:
    files = [("ada.toml", parse_persona("ada.toml", ADA)), ("bob.toml", parse_persona("bob.toml", second))]
    with pytest.raises(PersonaError, match=error):
        gather(files, default)


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text: str) -> None:
    with suppress(PersonaError):
        parse_persona("any.toml", text)


def test_the_example_of_the_docs_is_a_persona() -> None:
    text = Path("docs/personas.md").read_text().split("```toml\n")[1].split("```")[0]
    ada = parse_persona("ada.toml", text)
    assert (ada.numbers, ada.voice, ada.sampling.given) == (("+15551234567",), "ada", (("text_temperature", 0.6),))
