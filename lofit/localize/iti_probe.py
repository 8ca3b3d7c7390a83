"""Rank heads by how well a linear probe tells right from wrong answers (arXiv 2306.03341, section 3)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lofit.fit.params import NoParams
from lofit.localize.spec import Localizer

if TYPE_CHECKING:
    from lofit.fit.workbench import Workbench
    from lofit.localize.ranking import Scores


def score(bench: Workbench, params: NoParams) -> Scores:
    """The score of a head is the validation accuracy of its logistic-regression probe."""
    from lofit.activations.probes import probe_accuracies
    from lofit.localize.ranking import Scores

    start = time.perf_counter()
    accuracies = probe_accuracies(bench.activations, bench.seed)
    return Scores(accuracies, {"seconds": time.perf_counter() - start})


LOCALIZER = Localizer(
    name="iti_probe",
    summary="validation accuracy of a logistic-regression probe on the head",
    source="ITI, Li et al. 2023 (arXiv 2306.03341), section 3; likenneth/honest_llama",
    Params=NoParams,
    score=score,
    uses_activations=True,
)
