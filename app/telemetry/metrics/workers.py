"""The numbers of the workers, as of their last answer to a ping, by the names that Prometheus knows them by."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from app.telemetry.metrics.families import Family, counters, gauges, histograms
from workers.histogram import Histogram
from workers.messages import WorkerVitals
from workers.supervisor import WorkerState

LABEL = "worker"


def worker_families(workers: Iterable[WorkerState]) -> Iterator[Family]:
    """Yield how the workers are; one that has not answered yet since it was started has no numbers."""
    named = {str(worker.name): worker for worker in workers}
    yield gauges(
        "worker_up",
        "1 if a worker is ready and does not hang.",
        LABEL,
        {name: one.ready for name, one in named.items()},
    )
    losses = {name: float(worker.losses) for name, worker in named.items()}
    meaning = "How often a worker ended, refused or hung, so that the pipeline was started again."
    yield counters("worker_losses", meaning, LABEL, losses)
    hangs = {name: float(worker.hangs) for name, worker in named.items()}
    yield counters("worker_hangs", "How often it hung, which is among its losses.", LABEL, hangs)
    vitals = {name: worker.vitals for name, worker in named.items() if worker.vitals}
    number, histogram = partial(_numbers, vitals), partial(_histograms, vitals)
    meaning = "What MLX holds for arrays in use, on a GPU where there is one."
    yield gauges("worker_mlx_memory_bytes", meaning, LABEL, number(lambda one: one.device_bytes))
    meaning = "Frames that found no room on the way from a worker to the next one."
    yield counters("worker_frames_dropped", meaning, LABEL, number(lambda one: one.dropped))
    meaning = "What a worker takes for a unit of work: the engine for a step, the codec for a batch of frames."
    yield histograms("worker_work_seconds", meaning, LABEL, histogram(lambda one: one.work_s))
    yield histograms(
        "worker_work_calls", "How many calls share a unit of work.", LABEL, histogram(lambda one: one.rows)
    )


def memory_and_cpu(workers: Iterable[WorkerState], app_memory_bytes: int, app_cpu_s: float) -> Iterator[Family]:
    """Yield what each process takes; the service's own is `app`."""
    vitals = {str(worker.name): worker.vitals for worker in workers if worker.vitals}
    memory = {"app": float(app_memory_bytes), **_numbers(vitals, lambda one: one.memory_bytes)}
    yield gauges("process_resident_memory_bytes", "What a process holds in memory.", "process", memory)
    cpu = {"app": app_cpu_s, **_numbers(vitals, lambda one: one.cpu_s)}
    yield counters("process_cpu_seconds", "Processor time that a process has used.", "process", cpu)


def _numbers(vitals: Mapping[str, WorkerVitals], of: Callable[[WorkerVitals], float]) -> dict[str, float]:
    return {name: float(of(one)) for name, one in vitals.items()}


def _histograms(vitals: Mapping[str, WorkerVitals], of: Callable[[WorkerVitals], Histogram]) -> dict[str, Histogram]:
    return {name: of(one) for name, one in vitals.items()}
