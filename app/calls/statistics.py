"""Histograms of the service, which every call adds to as it goes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from workers.histogram import Histogram
from workers.messages import Span, Stage

DELAY_BOUNDS_S = (0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)
"""Nothing can be quicker than the 80 ms of a frame."""
LEAD_BOUNDS_S = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 1.0)
SOUND_BOUNDS_S = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
LENGTH_BOUNDS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0)
BACK = "app"
"""Where a frame waits last: for the app to take it."""


@dataclass(frozen=True, slots=True)
class Histograms:
    """All in seconds. A stage's wait is from when a frame could have been worked on until it was."""

    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in Stage})
    waits: dict[str, Histogram] = field(default_factory=lambda: {place: Histogram() for place in (*Stage, BACK)})
    frame: Histogram = field(default_factory=Histogram)
    """From the app and back to it."""
    delay: Histogram = field(default_factory=partial(Histogram, DELAY_BOUNDS_S))
    lead: Histogram = field(default_factory=partial(Histogram, LEAD_BOUNDS_S))
    first_sound: Histogram = field(default_factory=partial(Histogram, SOUND_BOUNDS_S))
    length: Histogram = field(default_factory=partial(Histogram, LENGTH_BOUNDS_S))

    def on_frame(self, spans: Sequence[Span], asked_s: float | None, now: float) -> None:
        """Take the times of a frame that has come back, which the encoder was sent at `asked_s`.

        A frame of a greeting meets no encoder (None), and says nothing of a call that is on.
        """
        if asked_s is None:
            return
        ready_s = asked_s
        for span in spans:
            self.waits[span.stage].add(span.started_s - ready_s)
            self.stages[span.stage].add(span.ended_s - span.started_s)
            ready_s = span.ended_s
        self.waits[BACK].add(now - ready_s)
        self.frame.add(now - asked_s)
