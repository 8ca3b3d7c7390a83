"""The files of a capture node: the texts and their activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lofit.errors import FitError
from lofit.files import read_json

TEXT_COLUMNS = ("split", "row", "pair", "label")


@dataclass(frozen=True)
class Activations:
    """Last-token activations of right and wrong answers to the training and validation questions of one split.

    Attributes:
        texts: one row per text: split (``train`` or ``validation``), row (question), pair (answer within its
            question and label), label (1 right, 0 wrong).
        heads: float32 [layers, texts, query heads, head dimension], input of the attention output projection.
        blocks: float32 [layers, texts, hidden size], output of the decoder layer.
    """

    texts: pd.DataFrame
    heads: np.ndarray
    blocks: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """int64 [texts], 1 for right answers."""
        return self.texts["label"].to_numpy()

    def among(self, *splits: str) -> np.ndarray:
        """Return bool [texts]: whether each text belongs to one of the splits."""
        return self.texts["split"].isin(splits).to_numpy()

    def pairs(self, split: str) -> np.ndarray:
        """Pair the right and wrong answers to each question of one split, in order: int64 [pairs, 2], indices of texts.

        If a question has more right than wrong answers, or fewer, those without a partner are left out.
        """
        part = self.texts[self.texts["split"] == split].reset_index()
        right, wrong = (part[part["label"] == label] for label in (1, 0))
        both = right.merge(wrong, on=["row", "pair"], suffixes=("_right", "_wrong"))
        return both.sort_values(["row", "pair"])[["index_right", "index_wrong"]].to_numpy()

    def mean_differences(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over the training pairs of right minus wrong.

        Args:
            values: ``heads`` or ``blocks``, [layers, texts, ...].

        Returns:
            float64 [layers, ...].

        Raises:
            FitError: there is no training pair.
        """
        pairs = self.pairs("train")
        if not len(pairs):
            raise FitError("a mean difference needs a right and a wrong answer to a training question; raise n_train")
        right, wrong = pairs.T
        return np.stack([(layer[right].astype(np.float64) - layer[wrong]).mean(0) for layer in values])


def read_activations(folder: Path) -> Activations:
    """Open the files of a capture node; the arrays are memory-mapped, so they stay on disk until they are used.

    Raises:
        FitError: the node failed.
    """
    status = read_json(folder / "activations.json")
    if status["status"] != "ok":
        raise FitError(f"reading activations failed: {status['reason']}")
    heads, blocks = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("heads.npy", "blocks.npy"))
    return Activations(pd.read_parquet(folder / "texts.parquet"), heads, blocks)
