"""Metric families of prometheus-client, made from numbers that are counted elsewhere, and their text.

No label has a value that comes from outside (no call, no number, no address), so that the series stay few.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.histogram import Histogram

PREFIX = "moshi_bridge_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family = Metric
Numbers = float | Mapping[str, float]
"""One number, or one for each value of a label."""


def gauge(name: str, help_text: str, numbers: Numbers, label: str = "") -> Family:
    """Return a gauge."""
    return _filled(GaugeMetricFamily, name, help_text, numbers, label)


def counter(name: str, help_text: str, numbers: Numbers, label: str = "") -> Family:
    """Return a counter; prometheus-client adds `_total` to its name."""
    return _filled(CounterMetricFamily, name, help_text, numbers, label)


def info(name: str, help_text: str, labels: Mapping[str, str]) -> Family:
    """Return a gauge of 1 whose labels never change while the service runs."""
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def histogram(name: str, help_text: str, counted: Histogram | Mapping[str, Histogram], label: str = "") -> Family:
    """Return one of our histograms, or one for each value of a label."""
    family = HistogramMetricFamily(PREFIX + name, help_text, labels=[label] if label else [])
    for value, one in _by_label(counted):
        family.add_metric(value, _cumulative(one), one.total)
    return family


def _filled(kind: Any, name: str, help_text: str, numbers: Numbers, label: str) -> Family:
    family: Family = kind(PREFIX + name, help_text, labels=[label] if label else [])
    for value, number in _by_label(numbers):
        family.add_metric(value, number)  # type: ignore[attr-defined]
    return family


def _by_label(values: Any) -> Iterator[tuple[list[str], Any]]:
    if isinstance(values, Mapping):
        yield from (([value], one) for value, one in values.items())
    else:
        yield [], values


def _cumulative(counted: Histogram) -> list[tuple[str, float]]:
    """Return Prometheus' buckets, each of which counts those below it as well."""
    total, buckets = 0, []
    for bound, count in zip((*counted.bounds, inf), counted.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == inf else str(bound), float(total)))
    return buckets


class _One(Collector):
    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return [self._family]


def texts(families: Iterable[Family]) -> Iterator[bytes]:
    """Yield the page a family at a time, so that the event loop can run in between."""
    for family in families:
        registry = CollectorRegistry()
        registry.register(_One(family))
        yield generate_latest(registry)
