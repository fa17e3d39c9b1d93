"""Scenarios: what goes wrong on a line, as data, from the list of known ones or from a JSON file."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from app.audio.mulaw import SAMPLE_RATE_HZ, SILENCE

PACKET_S = 0.02
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Window:
    """From `at_s` on, for `length_s` seconds of the call."""

    at_s: Seconds
    length_s: Seconds

    @property
    def end_s(self) -> float:
        return self.at_s + self.length_s


def through(windows: Iterable[Window], moment_s: float) -> float:
    """Return when what would happen at `moment_s` happens if nothing can within the windows."""
    for window in windows:
        if window.at_s <= moment_s < window.end_s:
            moment_s = window.end_s
    return moment_s


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Scenario:
    """A line and what happens on it; all times in seconds.

    A packet takes `travel_s` each way and up to twice `jitter_s` more towards us; packets leave in groups of `grouped`.
    `stalls` hold the caller's packets back, `unread` Twilio's reading of ours; in `held` our event loop does nothing,
    in `engine_late` the workers; in `pipeline_lost` there are none, and the call goes on with the next ones.
    `drift_ppm` is how much too fast the caller's clock runs. In `silent` the caller says nothing; packets of silence
    are not sent if `suppressed`, as has been seen on some calls. The workers take `step_s` for a frame. Of Twilio's
    marks the share `marks_lost` never comes back; Twilio reads `reads_per_s` messages of ours a second at most (0: as
    they come). At `cut_s` the connection breaks without a word (0: never).
    """

    name: str = "steady"
    seconds: Seconds = 60.0
    travel_s: Seconds = 0.01
    jitter_s: Seconds = 0.0
    grouped: Annotated[int, Field(ge=1, le=50)] = 1
    stalls: tuple[Window, ...] = ()
    unread: tuple[Window, ...] = ()
    held: tuple[Window, ...] = ()
    engine_late: tuple[Window, ...] = ()
    pipeline_lost: tuple[Window, ...] = ()
    drift_ppm: Annotated[float, Field(ge=-10_000, le=10_000)] = 0.0
    silent: tuple[Window, ...] = ()
    suppressed: bool = False
    step_s: Seconds = 0.002
    marks_lost: Share = 0.0
    reads_per_s: Seconds = 0.0
    cut_s: Seconds = 0.0
    seed: Annotated[int, Field(ge=0, le=86_400)] = 1

    @property
    def packet_s(self) -> float:
        """How long a packet of the caller's lasts on our clock."""
        return PACKET_S / (1 + self.drift_ppm * 1e-6)

    def leaves_s(self, number: int) -> float:
        """Return when the packet of that number sets out, in a group that is complete with its last sample."""
        return (number // self.grouped + 1) * self.grouped * self.packet_s

    def silence(self, said: bytes) -> bytes:
        """Return mu-law from the start of the call with silence where the caller says nothing."""
        heard = bytearray(said)
        for window in self.silent:
            part = slice(round(window.at_s * SAMPLE_RATE_HZ), round(window.end_s * SAMPLE_RATE_HZ))
            heard[part] = bytes([SILENCE]) * len(heard[part])
        return bytes(heard)

    @property
    def ends_s(self) -> float:
        return min(self.seconds, self.cut_s or self.seconds)

    def reads_s(self, moment_s: float, last_s: float) -> float:
        """Return when Twilio reads what lies there at `moment_s`, having last read at `last_s`."""
        pause_s = 1 / self.reads_per_s if self.reads_per_s else 0.0
        return through(self.unread, max(moment_s, last_s + pause_s))

    @property
    def troubles(self) -> tuple[Window, ...]:
        windows = (*self.stalls, *self.unread, *self.held, *self.engine_late, *self.pipeline_lost)
        return tuple(sorted(windows, key=lambda one: one.at_s))


STEADY = Scenario()
KNOWN = {
    scenario.name: scenario
    for scenario in (
        STEADY,
        *(Scenario(f"stall-{length_s}", stalls=(Window(20, length_s),)) for length_s in (0.2, 0.6, 2.0, 5.0)),
        Scenario("engine-late", engine_late=(Window(20, 1.0),)),
        Scenario("pipeline-lost", pipeline_lost=(Window(20, 4.0), Window(50, 2.0))),
        Scenario("loop-held", held=(Window(20, 0.5),)),
        Scenario("socket-unread", unread=(Window(20, 2.0),)),
        Scenario("jitter", seconds=300, jitter_s=0.03),
        Scenario("pairs", grouped=2),
        Scenario("triples", grouped=3),
        Scenario("fast-clock", seconds=3600, drift_ppm=200),
        Scenario("slow-clock", seconds=3600, drift_ppm=-200),
        Scenario("marks-lost", marks_lost=0.5),
        Scenario("no-marks", marks_lost=1.0),
        Scenario("slow-reader", reads_per_s=30),
        Scenario("cut", cut_s=20),
        Scenario("suppressed", silent=(Window(10, 5), Window(25, 10)), suppressed=True),
    )
}


def read_scenario(path: Path) -> Scenario:
    """Read a scenario from a JSON object of the fields of `Scenario`. Raises ValueError that names what is wrong."""
    try:
        return TypeAdapter(Scenario).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in error.errors()]
        names = ", ".join(field.name for field in fields(Scenario))
        raise ValueError(f"{path}: {'; '.join(wrong)} (the fields are {names})") from error
