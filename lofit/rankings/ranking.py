"""The ranking file: every head of a model with its score, best first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lofit.errors import FitError
from lofit.files import atomic_path
from lofit.interventions import Head

SCHEMA = pa.schema(
    [("layer", pa.int64()), ("head", pa.int64()), ("score", pa.float64()), ("rank", pa.int64())],
)


def rank_heads(values: np.ndarray, tie_breaks: np.ndarray | None = None) -> pd.DataFrame:
    """Rank all heads by descending score; ties go to the higher tie break, then to the lower layer and head.

    Args:
        values: scores, float [layers, heads].
        tie_breaks: float [layers, heads]; None: there are none.

    Returns:
        Frame with columns layer, head, score, rank (1 is best).

    Raises:
        FitError: a score is not finite.
    """
    second = np.zeros_like(values) if tie_breaks is None else tie_breaks
    if not (np.isfinite(values).all() and np.isfinite(second).all()):
        raise FitError("head scores are not finite; the ranking would be arbitrary")
    n_heads = values.shape[1]
    flat = values.astype(np.float64).ravel()
    order = np.lexsort((-second.ravel(), -flat))  # stable; the last key counts first
    return pd.DataFrame(
        {"layer": order // n_heads, "head": order % n_heads, "score": flat[order], "rank": np.arange(1, flat.size + 1)}
    )


def write_ranking(frame: pd.DataFrame, path: Path) -> None:
    """Write a ranking as Parquet."""
    with atomic_path(path) as part:
        pq.write_table(pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False), part)


def read_ranking(path: Path) -> pd.DataFrame:
    """Read all heads, best first: columns layer, head, score, rank; no rows if the localization failed."""
    return pq.read_table(path, schema=SCHEMA).to_pandas().sort_values("rank", ignore_index=True)


def top_heads(path: Path, k: int, *, bottom: bool = False) -> list[Head]:
    """Read the ``k`` best heads of a ranking file, best first; with ``bottom`` the worst, worst first.

    Raises:
        FitError: the ranking has fewer heads (its localization failed, or it is for another model).
    """
    frame = read_ranking(path)
    if len(frame) < k:
        raise FitError(f"{path}: {k} heads asked for, {len(frame)} ranked")
    if bottom:
        frame = frame[::-1]
    return [(int(layer), int(head)) for layer, head in zip(frame["layer"][:k], frame["head"][:k], strict=True)]
