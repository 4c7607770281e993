"""`make report`: docs/technical-report.md and its figures, from the results of `make quality`.

The words are in technical_report.md beside this file; every number comes from docs/reports/quality.json through one of
the tables below. `python -m benchmarks.technical_report --table` prints the main table alone.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from benchmarks.quality_cases import CASES, ROOT, VARIANTS
from calibrate.curves import counts_at
from calibrate.threshold import best_f1_cut, score_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS: Final = ROOT / "docs" / "reports" / "quality.json"
REPORT: Final = ROOT / "docs" / "technical-report.md"
FIGURES: Final = ROOT / "docs" / "figures"
TEMPLATE: Final = Path(__file__).with_name("technical_report.md")
_TITLES: Final = {
    "run": "openstack-faults, whole runs",
    "instance": "openstack-faults, instances",
    "nova34": "nova34, instances",
}

Results = dict[tuple[str, str], list[dict[str, Any]]]


def main() -> None:
    """Write the report, or print the main table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="results.json of `make quality`")
    parser.add_argument("--table", action="store_true", help="print the main table alone")
    options = parser.parse_args()
    results = read(options.results)
    if options.table:
        print("\n".join(main_table(results)))
        return
    draw(results)
    REPORT.write_text(rendered(TEMPLATE.read_text(), results))
    print(f"wrote {REPORT.relative_to(ROOT)} and {FIGURES.relative_to(ROOT)}/")


def read(path: Path) -> Results:
    """Return the fits by case and variant."""
    found: Results = defaultdict(list)
    for fit in orjson.loads(path.read_bytes()):
        found[fit["case"], fit["variant"]].append(fit)
    return found


def rendered(template: str, results: Results) -> str:
    """Return the template with each `{{name}}` replaced by that table. Raises `KeyError` for one that is not known."""
    return re.sub(r"\{\{([a-z_]+)\}\}", lambda found: "\n".join(TABLES[found[1]](results)), template)


def main_table(results: Results) -> Iterator[str]:
    """Yield what everything, the language model alone and the others alone reach, beside the best simple detector."""
    yield "| sessions | detector | AUC-ROC | AUC-PR | F1 | AUC over seeds |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for case, fits in _defaults(results):
        rows = {
            "**everything**": [fit["combinations"]["everything"] for fit in fits],
            "language model alone": [fit["combinations"]["language_model"] for fit in fits],
            "lines alone (no model)": [fit["combinations"]["lines"] for fit in fits],
        }
        best = max(fits[0]["baselines"], key=lambda name: fits[0]["baselines"][name]["ap"])
        rows[f"best simple detector: {best}"] = [fit["baselines"][best] for fit in fits]
        for name, figures in rows.items():
            yield f"| {_TITLES[case]} | {name} | {_three(figures)} | {_span([each['auc'] for each in figures])} |"


def intervals(results: Results) -> Iterator[str]:
    """Yield bootstrap intervals and the confusion matrix of the first seed."""
    yield "| sessions | AUC-ROC | AUC-PR | F1 | TP | FP | FN | TN |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        figures = fits[0]["combinations"]["everything"]
        shown = [
            f"{figures[key]:.3f} [{figures['intervals'][name][0]:.3f}, {figures['intervals'][name][1]:.3f}]"
            for key, name in (("auc", "auc_roc"), ("ap", "auc_pr"), ("f1", "f1"))
        ]
        yield f"| {_TITLES[case]} | {' | '.join(shown)} | {' | '.join(map(str, figures['confusion']))} |"


def baselines(results: Results) -> Iterator[str]:
    """Yield the simple detectors."""
    yield "| sessions | simple detector | AUC-ROC | AUC-PR | F1 |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        for name in fits[0]["baselines"]:
            yield f"| {_TITLES[case]} | {name} | {_three([fit['baselines'][name] for fit in fits])} |"


def combinations(results: Results) -> Iterator[str]:
    """Yield each statistic and combination, on val and test."""
    cases = [case for case, _ in _defaults(results)]
    yield "| statistic or combination | " + " | ".join(f"{case}: val AP | test AUC / AP / F1" for case in cases) + " |"
    yield "| --- |" + " ---: | ---: |" * len(cases)
    for name in results[cases[0], "default"][0]["combinations"]:
        cells = []
        for case in cases:
            figures = [fit["combinations"].get(name) for fit in results[case, "default"]]
            cells.append(_val_and_test([each for each in figures if each]))
        yield f"| {name} | {' | '.join(cells)} |"


def ablations(results: Results) -> Iterator[str]:
    """Yield what each change does to everything together and to the language model alone."""
    yield "| change | sessions | everything: val AP | test AUC / AP | model alone: val AP | test AUC / AP |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for name, variant in VARIANTS.items():
        for case in CASES:
            fits = results.get((case, name))
            if fits and not variant.contamination:
                # No F1: with so few sessions the threshold's luck is larger than what most changes do.
                both = (
                    _val_and_test([fit["combinations"][of] for fit in fits], ("auc", "ap")) for of in variant.judged_by
                )
                yield f"| {variant.what} | {case} | {' | '.join(both)} |"


def label_free(results: Results) -> Iterator[str]:
    """Yield asked and seen false-alarm rates without labels, thresholds as calibrated and following drift."""
    yield (
        "| sessions | on | asked | drift | false-alarm rate seen, each seed | its 95 % interval, each seed | "
        "calibration promises (first seed) | F1 | recall |"
    )
    yield "| --- | --- | ---: | --- | --- | --- | --- | ---: | ---: |"
    for case, fits in _defaults(results):
        for row, rows in _side_by_side(fits, "label_free"):
            if row["on"] == "val":
                continue
            seen = ", ".join(_share_interval(each["interval"]) for each in rows)
            promised = _share_interval(row["promised_interval"])
            yield (
                f"| {_TITLES[case]} | {_ON[row['on']]} | {row['asked']:.0%} | {row['drift']} | {_rates(rows)} | "
                f"{seen} | {promised} | {_mean(rows, 'f1')} | {_mean(rows, 'recall')} |"
            )


def early(results: Results) -> Iterator[str]:
    """Yield what is announced while sessions are open, all seeds together."""
    yield (
        "| sessions | on | threshold | drift | failures announced | before the client saw them | lead, of the largest "
        "possible (median) | delay after injection (median) | before the injection | false alarms | promised |"
    )
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        for row, rows in _side_by_side(fits, "early"):
            failures, announced, in_time, before, normal, false_alarms = (
                sum(each[key] for each in rows)
                for key in ("failures", "announced", "in_time", "before_injection", "normal", "false_alarms")
            )
            leads, largest, delays = (
                [value for each in rows for value in each[key]] for key in ("leads_s", "largest_s", "delays_s")
            )
            shares = [lead / most for lead, most in zip(leads, largest, strict=True)]
            lead = f"{statistics.median(leads):.0f} s ({statistics.median(shares):.0%})" if leads else "-"
            delay = f"{statistics.median(delays):.0f} s" if delays else "-"
            yield (
                f"| {_TITLES[case]} | {_ON[row['on']]} | {_FROM[row['threshold']]} | {row['drift']} | "
                f"{announced / failures:.0%} | {in_time / failures:.0%} | {lead} | {delay} | {before / failures:.1%} | "
                f"{false_alarms / normal:.1%} | {_mean(rows, 'promised', '.1%')} |"
            )


def lengths(results: Results) -> Iterator[str]:
    """Yield what length does: to false alarms, and to the ranking where failures are no shorter than others."""
    yield (
        "| sessions | false alarms by thirds of length, shortest first | failures of ordinary length | "
        "AUC / AP: everything | model alone | lines alone |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        thirds = []
        for third, rows in _side_by_side(fits, "by_length"):
            rate = sum(row["false_alarms"] for row in rows) / sum(row["normal"] for row in rows)
            thirds.append(f"{third['lines'][0]}-{third['lines'][1]} lines: {rate:.1%}")
        ordinary = [fit["ordinary_length"] for fit in fits]
        shown = " | ".join(
            " / ".join(_mean([each[name] for each in ordinary], key) for key in ("auc", "ap"))
            for name in ("everything", "language_model", "lines")
        )
        yield f"| {_TITLES[case]} | {', '.join(thirds)} | {_mean(ordinary, 'failed', '.0f')} | {shown} |"


def cuts(results: Results) -> Iterator[str]:
    """Yield what the threshold that is expected to be best and the one that is best on val itself do on test."""
    yield "| sessions | threshold | F1 | false alarms | misses |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        for name in ("best expected", "best of val, in the middle of its gap"):
            found = []
            for fit in fits:
                both = (fit["scores"][role] for role in ("val", "test"))
                val, test = ((np.array(scores), np.array(truth, dtype=bool)) for scores, truth in both)
                cut = best_f1_cut(*val, spread=score_spread(*val) if name == "best expected" else 0.0)
                counts = counts_at(*test, np.array([cut]))
                found.append(
                    {"f1": float(counts.f1[0]), "false": float(counts.fp_T[0]), "missed": float(counts.fn_T[0])}
                )
            row = (_mean(found, "f1"), _mean(found, "false", ".1f"), _mean(found, "missed", ".1f"))
            yield f"| {_TITLES[case]} | {name} | {' | '.join(row)} |"


def drift_with_labels(results: Results) -> Iterator[str]:
    """Yield what following drift does to a threshold that labels chose."""
    yield "| sessions | on | drift | false-alarm rate seen, each seed | F1 | recall |"
    yield "| --- | --- | --- | --- | ---: | ---: |"
    for case, fits in _defaults(results):
        for row, rows in _side_by_side(fits, "with_labels"):
            yield (
                f"| {_TITLES[case]} | {_ON[row['on']]} | {row['drift']} | {_rates(rows)} | {_mean(rows, 'f1')} | "
                f"{_mean(rows, 'recall')} |"
            )


def contamination(results: Results) -> Iterator[str]:
    """Yield what failures among the unlabelled sessions do, in calibration and in training."""
    yield "| sessions | failures in | share | threshold | false-alarm rate seen (asked 5 %) | F1 |"
    yield "| --- | --- | ---: | --- | ---: | ---: |"
    for case, fits in _defaults(results):
        for row, rows in _side_by_side(fits, "contaminated_calibration"):
            how = f"robust to {row['contamination']:.0%}" if row["contamination"] else "conformal"
            yield (
                f"| {_TITLES[case]} | calibration | {row['share']:.0%} | {how} | {_mean(rows, 'rate', '.1%')} | "
                f"{_mean(rows, 'f1')} |"
            )
        for name, variant in VARIANTS.items():
            if variant.contamination and (contaminated := results.get((case, name))):
                rows = [_asked(fit["label_free"], 0.05) for fit in contaminated]
                yield (
                    f"| {_TITLES[case]} | training | {variant.contamination:.0%} | robust to 10% | "
                    f"{_mean(rows, 'rate', '.1%')} | {_mean(rows, 'f1')} |"
                )


def cost(results: Results) -> Iterator[str]:
    """Yield how long training takes, and how large and fast the models are."""
    yield "| sessions | training, each seed | parameters | vocabulary | scoring, lines a second and core |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for case, fits in _defaults(results):
        trained = ", ".join(f"{fit['train_s'] / 60:.1f} min" for fit in fits)
        speed = statistics.mean(fit["lines_per_s"] for fit in fits)
        yield (
            f"| {_TITLES[case]} | {trained} | {fits[0]['parameters']:,} | {fits[0]['vocabulary']:,} | "
            f"{round(speed, -2):,.0f} |"
        )


TABLES: Final[dict[str, Callable[[Results], Iterator[str]]]] = {
    "main_table": main_table,
    "intervals": intervals,
    "baselines": baselines,
    "combinations": combinations,
    "ablations": ablations,
    "label_free": label_free,
    "early": early,
    "lengths": lengths,
    "cuts": cuts,
    "drift_with_labels": drift_with_labels,
    "contamination": contamination,
    "cost": cost,
}
_ON: Final = {"test": "test", "later": "day 2"}
_FROM: Final = {"labels": "from labels", "none": "without labels, 2 % asked"}


def draw(results: Results) -> None:
    """Draw ROC and precision-recall curves and the scores of normal and anomalous test sessions."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    for case, fits in _defaults(results):
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        roc, precision, spread = figure.subplots(1, 3)
        for fit in fits:
            scores_N, truth_N = (np.array(each) for each in fit["scores"]["test"])
            rising, true, _ = roc_curve(truth_N, scores_N)
            roc.plot(rising, true, label=f"seed {fit['seed']}")
            shares, recalls, _ = precision_recall_curve(truth_N, scores_N)
            precision.plot(recalls, shares)
        roc.set(xlabel="false-alarm rate", ylabel="recall", title=_TITLES[case])
        roc.legend()
        precision.set(xlabel="recall", ylabel="precision")
        scores_N, truth_N = (np.array(each) for each in fits[0]["scores"]["test"])
        edges = np.geomspace(max(scores_N.min(), 0.5), scores_N.max() + 1, 40)
        spread.hist([scores_N[truth_N == 0], scores_N[truth_N == 1]], bins=list(edges), label=["normal", "failed"])
        spread.set(xscale="log", xlabel="score, nats (seed 1)", ylabel="test sessions")
        spread.legend()
        figure.savefig(FIGURES / f"quality-{case}.png", dpi=110)


def _defaults(results: Results) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for case in CASES:
        if fits := results.get((case, "default")):
            yield case, fits


def _side_by_side(fits: list[dict[str, Any]], key: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield each row of a list that every fit has, as the first seed has it and as all have."""
    for rows in zip(*(fit[key] for fit in fits), strict=True):
        yield rows[0], list(rows)


def _three(figures: Sequence[dict[str, Any]]) -> str:
    return " | ".join(_mean(figures, key) for key in ("auc", "ap", "f1"))


def _val_and_test(figures: Sequence[dict[str, Any]], on_test: Sequence[str] = ("auc", "ap", "f1")) -> str:
    if not figures:
        return "- | -"
    return f"{_mean(figures, 'val_ap')} | {' / '.join(_mean(figures, key) for key in on_test)}"


def _asked(rows: Sequence[dict[str, Any]], asked: float) -> dict[str, Any]:
    return next(row for row in rows if row["asked"] == asked and row["on"] == "test" and row["drift"] == "off")


def _mean(figures: Sequence[dict[str, Any]], key: str, form: str = ".3f") -> str:
    return format(statistics.mean(each[key] for each in figures), form)


def _rates(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{each['rate']:.1%}" for each in rows)


def _share_interval(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.1%}, {interval[1]:.1%}]"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.4f} to {max(values):.4f}"


if __name__ == "__main__":
    main()
