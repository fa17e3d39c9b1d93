"""What one call may want of our voice webhook, in the query of its URL: written by who places it, read by who answers.

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
