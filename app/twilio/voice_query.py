"""What the query of a webhook's URL says: what one call wants, written by who places it, and how often it came back.

The signature covers the query, so a wish comes from whoever has the account, and from nobody else.
"""

from urllib.parse import parse_qs, urlencode

MACHINES = {"machine_start", "fax"}
"""`AnsweredBy` of who is hung up on. Where the end of a greeting was waited for, a machine is machine_end_… instead."""
MAX_DIGITS = 6


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
    text = parse_qs(query, keep_blank_values=True).get("again", ["0"])[-1]
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def read_greeting_frames(query: str, most: int) -> int | None:
    """Return the frames of greeting that are wished, None for the setting.

    Raises ValueError, one line, unless it is a number of 0 to `most`.
    """
    wished = parse_qs(query, keep_blank_values=True).get("greeting_frames")
    if wished is None:
        return None
    text = wished[-1]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text) <= most):
        raise ValueError(f"greeting_frames must be 0 to {most} (GREETING_FRAMES)")
    return int(text)


def reads_record(query: str) -> bool:
    """Tell whether a recording is wished."""
    return parse_qs(query).get("record", [""])[-1] == "true"


def read_persona(query: str) -> str:
    """Return the name of the persona that is wished, "" for none."""
    return parse_qs(query).get("persona", [""])[-1]


def read_prompt(query: str) -> str:
    """Return the id of the prompt that was prepared for this call, "" for none."""
    return parse_qs(query).get("prompt", [""])[-1]
