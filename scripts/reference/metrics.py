"""The page of all metrics: read from the registries of daemon and router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from scripts.reference.markdown import code, codes, page, prose, table
from scripts.reference.programs import EXPORTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics import MetricWrapperBase

    from scripts.reference.programs import Exporter

_HOW: Final = """\
Counters only rise: take `rate(...)` or `increase(...)` of them. A histogram has three series, `_bucket`, `_sum` and
`_count`; `histogram_quantile(0.99, rate(..._bucket[5m]))` is its 99th percentile. Thresholds in these texts suit the
default settings: start with them, and move them to what is usual with you."""
_TYPES: Final = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}


def metrics_page() -> str:
    """Return the page of all metrics."""
    return page("Metrics", "Every Prometheus metric of the daemon and the router.", _HOW, *map(_section, EXPORTERS))


def metrics_of(exporter: Exporter) -> Iterator[MetricWrapperBase]:
    """Yield the metrics of a program, in the order in which they were registered."""
    # The registry knows each under all of its series' names.
    yield from dict.fromkeys(exporter.registry()._names_to_collectors.values())  # type: ignore[misc]  # noqa: SLF001 - no public way


def shown_name(metric: MetricWrapperBase) -> str:
    """Return the name under which Prometheus has a metric."""
    return f"{registered_name(metric)}_total" if isinstance(metric, Counter) else registered_name(metric)


def registered_name(metric: MetricWrapperBase) -> str:
    """Return the name under which the code registered a metric."""
    return next(iter(metric.describe())).name


def help_of(metric: MetricWrapperBase) -> str:
    """Return the help text of a metric."""
    return next(iter(metric.describe())).documentation


def labels_of(metric: MetricWrapperBase) -> tuple[str, ...]:
    """Return the names of a metric's labels."""
    return tuple(metric._labelnames)  # noqa: SLF001 - there is no public way


def _section(exporter: Exporter) -> str:
    rows = [
        (
            code(shown_name(metric)),
            _TYPES[type(metric)],
            prose(help_of(metric)).replace(" Worry ", "\n**Worry** "),
            codes(labels_of(metric)),
        )
        for metric in metrics_of(exporter)
    ]
    return "\n\n".join(
        (
            f"## {exporter.name}",
            f"At `/metrics` on port {exporter.port} (the setting `http_port`).",
            table(("Metric", "Type", "Meaning", "Labels"), rows),
            *_labels(exporter),
        )
    )


def _labels(exporter: Exporter) -> Iterator[str]:
    """Yield a section for each label: metrics whose label says the same share one."""
    values = exporter.label_values()
    missing = [registered_name(metric) for metric in metrics_of(exporter) if labels_of(metric)]
    missing = [name for name in missing if name not in values]
    if missing:
        raise ValueError(f"{missing[0]} has labels without meaning: add them to LABEL_VALUES beside its metrics class")
    sections: list[tuple[str, str | Mapping[str, str], list[str]]] = []
    for metric in metrics_of(exporter):
        for label in labels_of(metric):
            meaning = values[registered_name(metric)][label]
            same = next((names for name, known, names in sections if (name, known) == (label, meaning)), None)
            if same is None:
                sections.append((label, meaning, [shown_name(metric)]))
            else:
                same.append(shown_name(metric))
    for label, meaning, names in sections:
        what = meaning if isinstance(meaning, str) else table(("Value", "Meaning"), _values(meaning))
        yield f"### Label {code(label)}\n\nOf {codes(names)}.\n\n{what}"


def _values(meanings: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(code(value), prose(said)) for value, said in meanings.items()]
