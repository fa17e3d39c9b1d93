"""How a worker is: what its process takes, and how its work goes."""

import psutil

from workers.histogram import ROW_BOUNDS, Histogram
from workers.messages import Vitals

_PROCESS = psutil.Process()


class VitalsGauge:
    """Notes each unit of work of this process, and tells of all of it when asked."""

    def __init__(self) -> None:
        self._work_s = Histogram()
        self._rows = Histogram(ROW_BOUNDS)

    def worked(self, took_s: float, rows: int) -> None:
        """Note a unit of work that brought `rows` calls a frame further; one of none was no work."""
        if rows:
            self._work_s.add(took_s)
            self._rows.add(rows)

    def read(self, dropped: int, device_bytes: int) -> Vitals:
        """Return how this process is; `dropped` frames left no room at the next worker's."""
        with _PROCESS.oneshot():
            times, memory = _PROCESS.cpu_times(), _PROCESS.memory_info()
        return Vitals(memory.rss, device_bytes, times.user + times.system, self._work_s, self._rows, dropped)
