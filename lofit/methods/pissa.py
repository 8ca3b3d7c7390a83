"""PiSSA: LoRA that starts from the principal singular vectors of the weights, by PEFT."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lofit.errors import EditError
from lofit.methods.method import Method
from lofit.methods.targets import TargetParams

if TYPE_CHECKING:
    from peft import PeftModel

    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(TargetParams):
    """Hyperparameters of PiSSA."""

    rank: int = Field(default=8, ge=1)


def fit(context: FitContext, params: Params) -> Fitted:
    """Train LoRA that starts from the first r singular triples of W and, in W, takes their place.

    PEFT changes W for that. Here, W stays, and what is taken away is subtracted by r further rows of A and columns of
    B, which are not trained: the model starts as the base model, to rounding, and is it with the adapter switched off.
    """
    from lofit.methods import lora
    from lofit.training.trainer import Fitted, train

    double = lora.Params(
        lr=params.lr, rank=2 * params.rank, alpha=2 * params.rank, target_modules=params.target_modules
    )
    steady = params.model_copy(update={"weight_decay": 0.0})  # which would shrink what is not trained, too
    begin = partial(_begin, rank=params.rank)
    fitted = train(context.session, lora.adapter(double, context), steady, context.title, begin)
    return Fitted(fitted.model, fitted.record | {"trained_params": fitted.record["trained_params"] // 2})


def _begin(model: PeftModel, rank: int) -> None:
    """Set the factors to the first singular triples and, with the other sign, to them again; train the first alone."""
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        base: Any = layer.get_base_layer()
        if not base.weight.is_floating_point():
            raise EditError("singular vectors are of plain weights, and these are quantised; set dtype to auto")
        weight = base.weight.float().T if isinstance(base, Conv1D) else base.weight.float()
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        if rank > len(values):
            raise EditError(f"rank {rank}: a target has only {len(values)} singular values; lower rank")
        root = values[:rank].sqrt()
        rows, columns = root[:, None] * right[:rank], left[:, :rank] * root
        a: Any = layer.lora_A["default"].weight
        b: Any = layer.lora_B["default"].weight
        with torch.no_grad():
            a.copy_(torch.cat([rows, rows]))
            b.copy_(torch.cat([columns, -columns], 1))
        first = (torch.arange(2 * rank, device=a.device) < rank).to(a.dtype)
        a.register_hook(first[:, None].mul)
        b.register_hook(first.mul)


METHOD = Method(
    name="pissa",
    summary="LoRA that starts from the principal singular vectors of the weights",
    source="Meng et al. 2024 (arXiv 2404.02948); alpha = r; targets and rank of lora here",
    Params=Params,
    learns="A and B in W' = W - B0 A0 + B A for the query and value projections, from A = A0 and B = B0, the first r "
    "singular triples of W, by gradient",
    parameters="2 r (in + out), summed over the target modules, of which half are trained",
    deviations="W stays as it is: untrained rows and columns of a LoRA of rank 2 r subtract B0 A0; the SVD is exact; "
    "no weight decay",
    fit=fit,
)
