"""A level as a bar on the terminal."""

BLOCKS = 20
FLOOR_DBFS = -60.0


def bar(level_dbfs: float) -> str:
    """Return 20 characters: none is filled at -60 dBFS, all at 0."""
    blocks = min(BLOCKS, round(BLOCKS * max(0.0, 1 - level_dbfs / FLOOR_DBFS)))
    return "█" * blocks + "·" * (BLOCKS - blocks)
