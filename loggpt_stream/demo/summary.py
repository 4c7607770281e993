"""What the demo found, beside what really happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.terminal import shown

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from loggpt_stream.demo.play import Play


def summarise(play: Play, alerts: list[dict[str, Any]], bundle: Path, out: Path, console: Console) -> None:
    """Print what was found and missed, beside what any ERROR line would have found, on the same sessions."""
    preprocessing = load_bundle(bundle).preprocessing
    corpus = read_corpus([str(out / "played.log")], preprocessing.session_rules, preprocessing.mask_rules)
    with_error = {
        session.key
        for session in corpus.sessions
        if any(line.head.startswith(("ERROR ", "CRITICAL ")) for line in session.lines)
    }
    failed = {uuid for uuid, row in play.truth.items() if row["failed"] == "1"}
    early = {alert["loggpt"]["session"]["key"] for alert in alerts if alert["loggpt"]["stage"] == "early"}
    alerts = [alert for alert in alerts if alert["loggpt"]["stage"] == "final"]
    alerted = {alert["loggpt"]["session"]["key"] for alert in alerts} & set(play.truth)
    console.print(f"  {len(play.truth)} instances, {len(failed)} failed in the client's eyes")
    console.print(f"  {'':24}  found  missed  false alarms  precision  recall  F1", style="bold")
    for name, flagged in (("loggpt-stream", alerted), ("any ERROR line", with_error & set(play.truth))):
        console.print(_score_row(name, flagged, failed))
    console.print(f"  {len(early & failed)} of the failures were announced while their session was still open.")
    silent = (alerted & failed) - with_error
    console.print(f"  {len(silent)} of the failures it found have no ERROR line at all.")
    for uuid in sorted(silent):
        row = play.truth[uuid]
        console.print(f"    {uuid}  {row['fault']}: {escape(shown(row['client_error']))}")
    others = len({alert["loggpt"]["session"]["key"] for alert in alerts} - set(play.truth))
    if others:
        console.print(f"  {others} alerts concern sessions without a label.")


def _score_row(name: str, flagged: set[str], failed: set[str]) -> str:
    found, false = len(flagged & failed), len(flagged - failed)
    precision = found / max(found + false, 1)
    recall = found / max(len(failed), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return f"  {name:24}  {found:5}  {len(failed) - found:6}  {false:12}  {precision:9.2f}  {recall:6.2f}  {f1:.2f}"
