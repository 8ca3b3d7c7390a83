"""Which tokens the offsets of a fitted run push the model towards."""

from __future__ import annotations

import pandas as pd
import torch
from peft import PeftModel

from lofit.errors import FitError
from lofit.interventions.tuner.lens import offset_lens
from lofit.models.adapters import load_fitted, verify
from lofit.models.loading import load_tokenizer, pick_dtype
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable


def lens_table(table: RunTable, node: FitNode, k: int, final_norm: bool) -> pd.DataFrame:
    """Read the offsets of a fitted run through the logit lens, on the CPU.

    Args:
        table: of the configuration.
        node: the run.
        k: how many tokens of each head.
        final_norm: whether to apply the model's final norm first.

    Returns:
        Columns ``layer``, ``head`` and ``tokens`` (the ``k`` most probable, each quoted with its probability).

    Raises:
        FitError: the run failed, or fitted no adapter.
        EditError: the adapter has no offsets on heads, or the model cannot be read this way.
        SourceError: what was fitted has been altered since.
    """
    report, fitted = kind_of(node).read_report(table, node), table.folder(node) / "adapter"
    if report["status"] != "ok":
        raise FitError(f"{node.id}: the fit failed ({report['reason']}), so there are no offsets to read")
    verify(fitted, report.get("sha256"))
    folder, cpu = table.model_dir(node.model), torch.device("cpu")
    model, tokenizer = load_fitted(folder, fitted, cpu, pick_dtype(node.dtype, cpu)), load_tokenizer(folder)
    if not isinstance(model, PeftModel):
        raise FitError(f"{node.id}: {node.method} trains the model itself, so there are no offsets to read")
    return pd.DataFrame(
        {
            "layer": entry.layer,
            "head": entry.head,
            "tokens": ", ".join(
                f"{tokenizer.decode([token])!r} {chance:.3f}"
                for token, chance in zip(entry.tokens, entry.probabilities, strict=True)
            ),
        }
        for entry in offset_lens(model, k, final_norm)
    )
