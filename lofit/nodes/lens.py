"""Which tokens the offsets of a fitted run push the model towards."""

from __future__ import annotations

import pandas as pd
import torch

from lofit.errors import FitError
from lofit.models.lens import fitted_lens
from lofit.models.loading import load_model, load_tokenizer, pick_dtype
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
    report = kind_of(node).read_report(table, node)
    if report["status"] != "ok":
        raise FitError(f"{node.id}: the fit failed ({report['reason']}), so there are no offsets to read")
    folder, cpu = table.model_dir(node.model), torch.device("cpu")
    model, tokenizer = load_model(folder, cpu, pick_dtype(node.dtype, cpu)), load_tokenizer(folder)
    return pd.DataFrame(
        {
            "layer": entry.layer,
            "head": entry.head,
            "tokens": ", ".join(
                f"{tokenizer.decode([token])!r} {chance:.3f}"
                for token, chance in zip(entry.tokens, entry.probabilities, strict=True)
            ),
        }
        for entry in fitted_lens(model, table.folder(node) / "adapter", report.get("sha256"), k, final_norm)
    )
