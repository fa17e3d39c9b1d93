"""One run: every side under every load, with what was found so far."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.cli.service_process import ServiceFailed
from app.simulator.progress import OnProgress
from app.simulator.trouble import Scenario, Window
from scripts.side_by_side.calls import Load, place
from scripts.side_by_side.figures import LoadFigures, StallFigures, crowd_figures, stall_figures
from scripts.side_by_side.sides import Side

STALL = Window(15.0, 0.6)
STALLED = Load(1, STALL.end_s + 11.0, Scenario("stall", stalls=(STALL,)))
Tell = Callable[[str], OnProgress]
"""Takes a sentence on what is being measured, returns whom to tell how far it is."""


@dataclass
class Findings:
    """All that is known of one side; `failed` says what could not be measured and why."""

    crowds: dict[int, LoadFigures] = field(default_factory=dict)
    stall: StallFigures | None = None
    failed: list[str] = field(default_factory=list)


@dataclass
class Study:
    """Which sides to call, in what crowds."""

    sides: list[Side]
    crowds: list[Load]
    found: dict[str, Findings] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing found."""
        self.found = {side.name: Findings() for side in self.sides}

    @property
    def length_s(self) -> float:
        """How long the calls are, one measurement after the other."""
        return len(self.sides) * sum(load.length_s for load in [*self.crowds, STALLED])

    async def measure(self, tell: Tell) -> None:
        """Call all sides under one load, then under the next: a busy minute of the machine meets all of them alike."""
        with tempfile.TemporaryDirectory() as folder:
            for load in [*self.crowds, STALLED]:
                for side in self.sides:
                    await self._measure(side, load, Path(folder) / "server.log", tell)

    async def _measure(self, side: Side, load: Load, log: Path, tell: Tell) -> None:
        findings, title = self.found[side.name], _title(load)
        try:
            calls = await place(side, load, log, tell(f"{side.name}, {title}"))
        except ServiceFailed as error:
            findings.failed.append(f"{title}: {error}")
            return
        if load is STALLED:
            findings.stall = stall_figures(calls.reports[0], STALL)
        else:
            findings.crowds[load.calls] = crowd_figures(calls.reports, calls.cpu)


def _title(load: Load) -> str:
    return "the stall" if load is STALLED else f"{load.calls} at once"
