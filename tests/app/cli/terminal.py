"""What is shown on a terminal."""

from rich.console import Console, RenderableType


def shown(what: RenderableType, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()
