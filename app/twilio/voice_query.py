"""What the query of a webhook's URL says: what one call wants, written by who places it, and how often it came back.

The signature covers the query, so a wish comes from whoever has the account, and from nobody else.
"""

from urllib.parse import parse_qs, urlencode

from app.twilio.form import parse_count

MACHINES = {"machine_start", "fax"}
"""`AnsweredBy` of who is hung up on. Where the end of a greeting was waited for, a machine is machine_end_… instead."""


def voice_query(greeting_frames: int | None = None, record: bool = False, persona: str = "", prompt: str = "") -> str:
    """Return the query with its question mark, "" when nothing is wished."""
    wishes = {} if greeting_frames is None else {"greeting_frames": str(greeting_frames)}
    named = {name: value for name, value in (("persona", persona), ("prompt", prompt)) if value}
    query = urlencode(wishes | ({"record": "true"} if record else {}) | named)
    return f"?{query}" if query else ""


def again_query(times: int) -> str:
    """Return the query of the URL that Twilio asks when a stream is over which was the call's `times`-th again."""
    return f"?{urlencode({'again': times})}" if times else ""


def read_again(query: str) -> int | None:
    """Return how often a call has come back already through that URL; None unless it is a number of a few digits."""
    return parse_count(_value(query, "again", "0"))


def read_greeting_frames(query: str, most: int) -> int | None:
    """Return the frames of greeting that are wished, None for the setting.

    Raises ValueError, one line, unless it is a number of 0 to `most`.
    """
    if "greeting_frames" not in parse_qs(query, keep_blank_values=True):
        return None
    frames = parse_count(_value(query, "greeting_frames"))
    if frames is None or frames > most:
        raise ValueError(f"greeting_frames must be 0 to {most} (GREETING_FRAMES)")
    return frames


def reads_record(query: str) -> bool:
    return _value(query, "record") == "true"


def read_persona(query: str) -> str:
    """Return the name of the persona that is wished, "" for none."""
    return _value(query, "persona")


def read_prompt(query: str) -> str:
    """Return the id of the prompt that was prepared for this call, "" for none."""
    return _value(query, "prompt")


def _value(query: str, name: str, missing: str = "") -> str:
    """Return the last value of a name, which may be empty."""
    return parse_qs(query, keep_blank_values=True).get(name, [missing])[-1]
