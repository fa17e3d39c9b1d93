"""A level as a bar on the terminal."""

BLOCKS = 20
FLOOR_DBFS = -60.0


def bar(level_dbfs: float, width: int = BLOCKS) -> str:
    """Return so many characters: none is filled at -60 dBFS, all at 0."""
    blocks = min(width, round(width * max(0.0, 1 - level_dbfs / FLOOR_DBFS)))
    return "█" * blocks + "·" * (width - blocks)
