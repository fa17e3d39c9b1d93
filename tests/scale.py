"""How long soaks last: `TEST_SHARE` (0 to 1, default 1) scales their counts."""

import os


def scaled(count: int, least: int = 1) -> int:
    """Return this share of `count`, at least `least`."""
    return max(least, round(count * float(os.environ.get("TEST_SHARE", "1"))))
