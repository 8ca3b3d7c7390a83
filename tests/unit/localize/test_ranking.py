"""Ranking files: order, ties, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lofit.errors import FitError
from lofit.rankings.ranking import rank_heads, top_heads, write_ranking


def test_best_first_and_ties_to_the_lower_layer_then_head() -> None:
    frame = rank_heads(np.array([[0.1, 0.5, 0.5], [0.5, 0.9, 0.0]]))
    assert list(zip(frame["layer"], frame["head"], strict=True)) == [(1, 1), (0, 1), (0, 2), (1, 0), (0, 0), (1, 2)]
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert frame["score"].tolist() == [0.9, 0.5, 0.5, 0.5, 0.1, 0.0]


def test_equal_scores_go_by_the_tie_break_and_others_never_do() -> None:
    breaks = np.array([[9.0, -1.0, 2.0], [2.0, -5.0, 9.0]])
    frame = rank_heads(np.array([[0.1, 0.5, 0.5], [0.5, 0.9, 0.0]]), breaks)
    assert list(zip(frame["layer"], frame["head"], strict=True)) == [(1, 1), (0, 2), (1, 0), (0, 1), (0, 0), (1, 2)]
    assert frame["score"].tolist() == [0.9, 0.5, 0.5, 0.5, 0.1, 0.0]


def test_file_round_trip(tmp_path: Path) -> None:
    write_ranking(rank_heads(np.arange(12.0).reshape(3, 4)), tmp_path / "heads.parquet")
    assert top_heads(tmp_path / "heads.parquet", 3) == [(2, 3), (2, 2), (2, 1)]
    assert top_heads(tmp_path / "heads.parquet", 2, bottom=True) == [(0, 0), (0, 1)]
    with pytest.raises(FitError, match="13 heads asked for, 12 ranked"):
        top_heads(tmp_path / "heads.parquet", 13)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(FitError, match="not finite"):
        rank_heads(np.array([[0.1, np.nan]]))
    with pytest.raises(FitError, match="not finite"):
        rank_heads(np.zeros((1, 2)), np.array([[0.1, np.inf]]))
