"""Metrics of the workers, as of their last answer to a ping, and of all processes."""

from collections.abc import Iterable, Iterator

import psutil

from app.telemetry.metrics.families import Family, counter, gauge, histogram
from workers.supervisor import WorkerState

LABEL = "worker"
_APP = psutil.Process()


def worker_families(workers: Iterable[WorkerState]) -> Iterator[Family]:
    """Yield how the workers are; one that has not answered since it was started has no vitals."""
    named = {str(worker.name): worker for worker in workers}
    ready = {name: float(worker.ready) for name, worker in named.items()}
    yield gauge("worker_up", "1 if a worker is ready and does not hang.", ready, LABEL)
    losses = {name: float(worker.losses) for name, worker in named.items()}
    yield counter("worker_losses", "Times that a worker ended or hung and the pipeline was restarted.", losses, LABEL)
    hangs = {name: float(worker.hangs) for name, worker in named.items()}
    yield counter("worker_hangs", "Times that a worker hung; worker_losses counts them too.", hangs, LABEL)
    vitals = {name: worker.vitals for name, worker in named.items() if worker.vitals}
    memory = {name: float(one.device_bytes) for name, one in vitals.items()}
    yield gauge("worker_mlx_memory_bytes", "Memory of MLX's arrays, on a GPU if there is one.", memory, LABEL)
    dropped = {name: float(one.dropped) for name, one in vitals.items()}
    yield counter("worker_frames_dropped", "Frames dropped because the next worker's queue was full.", dropped, LABEL)
    help_text = "Time for a batch: a step of the engine, or frames that are encoded or decoded together."
    yield histogram("worker_work_seconds", help_text, {name: one.work_s for name, one in vitals.items()}, LABEL)
    yield histogram("worker_work_calls", "Calls in a batch.", {name: one.rows for name, one in vitals.items()}, LABEL)


def process_families(workers: Iterable[WorkerState]) -> Iterator[Family]:
    """Yield what each process takes; the service's own is `app`."""
    vitals = {str(worker.name): worker.vitals for worker in workers if worker.vitals}
    times = _APP.cpu_times()
    memory = {"app": float(_APP.memory_info().rss), **{name: float(one.memory_bytes) for name, one in vitals.items()}}
    yield gauge("process_resident_memory_bytes", "Resident memory of a process.", memory, "process")
    cpu = {"app": times.user + times.system, **{name: one.cpu_s for name, one in vitals.items()}}
    yield counter("process_cpu_seconds", "Processor time of a process.", cpu, "process")
