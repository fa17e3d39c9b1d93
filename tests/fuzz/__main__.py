"""`python -m tests.fuzz 200000`: so many generated messages and requests, and what came of them."""

import gc
import sys
import time
from collections.abc import Callable

import psutil
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import pytest_configure
from tests.fuzz.forms import ASKED, Asking
from tests.fuzz.sockets import DEEDS, Exchange

AT_ONCE = 200
"""Examples between two looks at how far it has come."""
FORMS_SHARE = 0.25
LOOKS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""When memory is looked at. At first caches fill, and the records of the last calls."""


def fuzz(total: int) -> str:
    """Try so many; return what came of it. Raises what should never be, after Hypothesis has said by which example."""
    started_s = time.monotonic()
    exchange, routes = Exchange(), Asking()
    memory = []
    for share in LOOKS:
        _until(exchange, routes, share * total)
        memory.append(f"{memory_mib():.1f} MiB after {share:.0%}")
    exchange.close()
    routes.close()
    statuses = ", ".join(f"{count} {name}" for name, count in sorted(routes.counts.items()))
    heard = ", ".join(f"{count} {name}" for name, count in sorted(exchange.counts.items()))
    return (
        f"{total} in {time.monotonic() - started_s:.0f} s: nothing raised, no sound of another call, nobody let in; "
        f"memory {', '.join(memory)}\nsockets: {heard}\nrequests: {statuses}"
    )


def _until(exchange: Exchange, routes: Asking, total: float) -> None:
    quick = settings(
        max_examples=AT_ONCE,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    polite = quick(given(deeds=DEEDS)(lambda deeds: exchange.run(deeds, begin=True)))
    rude = quick(given(deeds=DEEDS)(lambda deeds: exchange.run(deeds, begin=False)))
    asking = quick(given(asked=ASKED)(lambda asked: routes.run(asked)))
    _repeat(polite, lambda: exchange.counts["messages"] >= 0.9 * (1 - FORMS_SHARE) * total)
    _repeat(rude, lambda: exchange.counts["messages"] >= (1 - FORMS_SHARE) * total)
    _repeat(asking, lambda: routes.counts["forms"] >= FORMS_SHARE * total)


def _repeat(trying: Callable[[], None], done: Callable[[], bool]) -> None:
    while not done():
        trying()


def memory_mib() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    pytest_configure()
    print(fuzz(int(sys.argv[1])))
