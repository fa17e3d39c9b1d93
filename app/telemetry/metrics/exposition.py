"""Metric families of prometheus-client, made from numbers that are counted elsewhere, and their text.

No label has a value that comes from outside (no call, no number, no address), so that the series stay few.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.histogram import Histogram

PREFIX = "moshi_bridge_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family = Metric
Numbers = float | Mapping[str, float]
"""One number, or one for each value of a label."""


def _filled(kind: Any, name: str, help_text: str, numbers: Numbers, label: str = "") -> Family:
    family: Family = kind(PREFIX + name, help_text, labels=[label] if label else [])
    for value, number in _by_label(numbers):
        family.add_metric(value, number)  # type: ignore[attr-defined]
    return family


gauge = partial(_filled, GaugeMetricFamily)
counter = partial(_filled, CounterMetricFamily)
"""prometheus-client adds `_total` to its name."""


def info(name: str, help_text: str, labels: Mapping[str, str]) -> Family:
    """Return a gauge of 1 whose labels never change while the service runs."""
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def histogram(name: str, help_text: str, counted: Histogram | Mapping[str, Histogram], label: str = "") -> Family:
    """Return one of our histograms, or one for each value of a label; Prometheus' buckets are cumulative."""
    family = HistogramMetricFamily(PREFIX + name, help_text, labels=[label] if label else [])
    for value, one in _by_label(counted):
        bounds = (*map(str, one.bounds), "+Inf")
        family.add_metric(value, list(zip(bounds, accumulate(one.counts), strict=True)), one.total)
    return family


def _by_label(values: Any) -> Iterator[tuple[list[str], Any]]:
    if isinstance(values, Mapping):
        yield from (([value], one) for value, one in values.items())
    else:
        yield [], values


@dataclass(frozen=True)
class _One(Collector):
    family: Family

    def collect(self) -> Iterable[Family]:
        return [self.family]


def texts(families: Iterable[Family]) -> Iterator[bytes]:
    """Yield the page a family at a time, so that the event loop can run in between."""
    return (generate_latest(_One(family)) for family in families)
