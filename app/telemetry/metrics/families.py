"""The one door to prometheus-client: families of samples, and their text.

No label has a value that comes from outside (no call, no number, no address): the series are as many after a year as
after a minute.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.histogram import Histogram

PREFIX = "moshi_bridge_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family = Metric


def gauge(name: str, meaning: str, value: float) -> Family:
    """Return what is now so and so much."""
    return GaugeMetricFamily(PREFIX + name, meaning, value)


def gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Family:
    """Return what is now so and so much, for each value of a label."""
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def info(name: str, meaning: str, labels: Mapping[str, str]) -> Family:
    """Return words that never change while the service runs; the number is 1."""
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def counter(name: str, meaning: str, value: float) -> Family:
    """Return what only grows; Prometheus' `_total` is put behind the name."""
    return CounterMetricFamily(PREFIX + name, meaning, value)


def counters(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Family:
    """Return what only grows, for each value of a label."""
    family = CounterMetricFamily(PREFIX + name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def histogram(name: str, meaning: str, counted: Histogram) -> Family:
    """Return a histogram."""
    return HistogramMetricFamily(PREFIX + name, meaning, _buckets(counted), counted.total)


def histograms(name: str, meaning: str, label: str, histograms: Mapping[str, Histogram]) -> Family:
    """Return a histogram for each value of a label."""
    family = HistogramMetricFamily(PREFIX + name, meaning, labels=[label])
    for value, histogram in histograms.items():
        family.add_metric([value], _buckets(histogram), histogram.total)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return a histogram as Prometheus has it: each bucket counts those below it as well."""
    so_far, buckets = 0, []
    for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound == inf else str(bound), float(so_far)))
    return buckets


class _Some(Collector):
    """Families that are known already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def texts(families: Iterable[Family]) -> Iterator[bytes]:
    """Yield the page piece by piece, a family each, so that whoever writes it can do something else in between."""
    for family in families:
        registry = CollectorRegistry()
        registry.register(_Some([family]))
        yield generate_latest(registry)
