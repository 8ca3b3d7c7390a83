"""Rank heads by how well a linear probe separates right and wrong answers (arXiv 2306.03341, section 3)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Score each head by the validation accuracy of its logistic-regression probe, with ties by its log-loss there.

    The authors' code leaves the order of ties to the sort; with few validation questions many heads share one.
    """
    from lofit.activations.probes import probe_scores

    start = time.perf_counter()
    found = probe_scores(context.activations, context.seed)
    return Scores(found.accuracies, {"seconds": time.perf_counter() - start}, -found.log_losses)


LOCALIZER = Localizer(
    name="iti_probe",
    summary="validation accuracy of a logistic-regression probe on the head; ties by its validation log-loss",
    source="ITI, Li et al. 2023 (arXiv 2306.03341), section 3; likenneth/honest_llama",
    Params=NoParams,
    score=score,
    uses_activations=True,
)
