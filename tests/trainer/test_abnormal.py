"""Sessions that stand out among those that were learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loggpt_stream.lines.session import Line, Session
from testing.tiny_bundle import nova34, tiny_bundle
from trainer.abnormal import Z_LIMIT, look_for_abnormal, robust_z

if TYPE_CHECKING:
    from loggpt_stream.model.scoring import Scorer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return tiny_bundle(tmp_path_factory.mktemp("odd") / "bundle").scorer(torch.device("cpu"))


def odd_one_like(calm: Session) -> Session:
    strange = Line(9.0, 9, "CRITICAL nova.zebra The quick brown fox jumped into hyperspace", "", "RAW fox\nmore")
    return Session("odd", "instance", 0.0, 9.0, 0, lines=[*calm.lines[:5], strange, *calm.lines[5:]])


def test_a_session_with_a_line_never_seen_stands_out_and_shows_that_line(scorer: Scorer) -> None:
    calm = next(session for session in nova34().sessions if session.kind == "instance")
    look = look_for_abnormal([*[calm] * 30, odd_one_like(calm)], scorer)
    assert look.sessions == {"instance": 31}
    assert look.abnormal == {"instance": 1}
    assert look.share == pytest.approx(1 / 31)
    (found,) = look.most
    assert (found.key, found.line) == ("odd", "RAW fox")
    assert found.z > Z_LIMIT
    assert found.value > found.median


def test_a_kind_with_few_sessions_is_counted_apart(scorer: Scorer) -> None:
    calm = next(session for session in nova34().sessions if session.kind == "instance")
    look = look_for_abnormal([*[calm] * 4, odd_one_like(calm)], scorer)
    assert look.sessions == look.abnormal == {}
    assert look.too_few == {"instance": 5}
    assert look.share == 0


def test_z_is_robust_to_the_outliers_it_is_to_find() -> None:
    values_SN = np.array([[1.0, 1.1, 0.9, 1.05, 0.95, 400.0, 500.0]])
    median_S, z_SN = robust_z(values_SN)
    assert median_S.tolist() == [1.05]
    assert (z_SN[0, :5] < 2).all()
    assert (z_SN[0, 5:] > 50).all()


def test_a_hair_is_no_outlier_where_all_sessions_are_alike() -> None:
    _, z_SN = robust_z(np.array([[0.01] * 20 + [0.02]]))
    assert z_SN.max() < Z_LIMIT
