"""Rank heads by how well codes of their activations tell right from wrong answers (REAL, arXiv 2506.08359).

For every head, an autoencoder writes an activation as a few codes of one codebook; a recurrent network learns which
codes follow each other in right answers, and another one in wrong answers; the score is how well their likelihood ratio
tells held-out answers apart. The networks of one layer's heads are trained together, and none sees another's values.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import Field

from lofit.localizers.localizer import Localizer, Scores
from lofit.progress import track
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


class Params(NoParams):
    """Hyperparameters of REAL; the defaults are those with which the authors' README trains (see the source)."""

    epochs: int = Field(default=20, ge=1, description="epochs of the autoencoders")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of the autoencoders")
    codes: int = Field(default=32, ge=2, description="size of a head's codebook")
    length: int = Field(default=8, ge=1, description="codes for one activation")
    contrast: float = Field(default=1e-3, ge=0, description="weight of the supervised contrastive loss")
    prior_epochs: int = Field(default=10, ge=1, description="epochs of the recurrent networks")
    prior_lr: float = Field(default=1e-3, gt=0, description="learning rate of the recurrent networks")
    batch_size: int = Field(default=32, ge=2)


def score(context: FitContext, params: Params) -> Scores:
    """Score each head by the area under the ROC curve on answers to the validation questions.

    Ties are ranked by how much higher the mean log-likelihood ratio of right answers is. The authors' code trains the
    autoencoders on all texts and holds out a fifth of them from the recurrent networks, which see the code that they
    predict.

    Raises:
        FitError: the training or the validation texts are all right or all wrong.
    """
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from lofit.activations.codes import fit_codes, fit_prior
    from lofit.errors import FitError

    start = time.perf_counter()
    activations = context.activations
    labels = torch.tensor(activations.labels)
    right, (train, held_out) = labels == 1, (torch.tensor(activations.among(name)) for name in ("train", "validation"))
    for split, among in (("train", train), ("validation", held_out)):
        if len(right[among].unique()) < 2:
            raise FitError(f"right and wrong answers are told apart, and the texts need both; raise n_{split}")
    generator = torch.Generator().manual_seed(context.seed)
    values, gaps = np.zeros((2, context.n_layers, context.n_heads))
    of_encoder = params.model_dump(exclude={"prior_epochs", "prior_lr"})
    of_prior = {name: of_encoder[name] for name in ("codes", "batch_size")}
    of_prior |= {"epochs": params.prior_epochs, "lr": params.prior_lr}
    with track(context.title, context.n_layers) as advance:
        for layer in range(context.n_layers):
            z = torch.from_numpy(np.array(activations.heads[layer])).transpose(0, 1)
            codes = fit_codes(z[:, train], labels[train], generator, **of_encoder)(z)
            of_right, of_wrong = (fit_prior(codes[:, train & side], generator, **of_prior) for side in (right, ~right))
            ratios = of_right(codes[:, held_out]) - of_wrong(codes[:, held_out])
            for head in range(context.n_heads):
                values[layer, head] = roc_auc_score(right[held_out], ratios[head])
                gaps[layer, head] = ratios[head, right[held_out]].mean() - ratios[head, ~right[held_out]].mean()
            advance("")
    return Scores(values, {"seconds": time.perf_counter() - start}, gaps)


LOCALIZER = Localizer(
    name="real",
    summary="how well discrete codes of a head's activations tell right from wrong answers",
    source="REAL, Zhan et al. 2026 (arXiv 2506.08359); README.md and validation/OneForAll.py of "
    "liam0949/REAL_ICLR@c93c04f",
    Params=Params,
    score=score,
    uses_activations=True,
)
