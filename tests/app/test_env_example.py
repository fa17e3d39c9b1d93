"""`.env.example` says what the settings say. `python -m tests.app.test_env_example` writes it anew."""

from pathlib import Path

from app.config import FIELDS

FILE = Path(".env.example")
HEAD = """\
# Copy to .env. Fill in a line and take the # before it away: what stays is its default.
# Real calls need TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_PHONE_NUMBER, and a tunnel or PUBLIC_URL.
# MOSHI_BRIDGE_ before a name (MOSHI_BRIDGE_HOST=…), here or in the environment, wins over the plain name,
# which another program may have set: conda exports HOST.
"""


def example() -> str:
    """Return every setting with what it means and its default, commented out."""
    settings = (f"\n# {field.description}\n# {name}={_text(field.default)}\n" for name, field in FIELDS.items())
    return HEAD + "".join(settings)


def _text(default: object) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_file_is_what_the_settings_say_and_every_one_explains_itself() -> None:
    assert FILE.read_text() == example()
    assert [name for name, field in FIELDS.items() if not field.description] == []


if __name__ == "__main__":
    FILE.write_text(example())
