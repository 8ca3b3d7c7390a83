"""Which tokens the offset of each head stands for: one run, and the table of an experiment of kind ``lens``."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lofit.errors import EditError, FitError
from lofit.files import atomic_path, write_text
from lofit.interventions.tuner.lens import HeadLens, offset_lens
from lofit.models.adapters import CONFIG, load_adapter, verify
from lofit.models.loading import load_model, load_tokenizer, pick_dtype
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import ExperimentRun, FitNode
from lofit.plan.table import RunTable
from lofit.report.outputs import Output
from lofit.report.plain import escape_pipe, latex_table, latex_text
from lofit.report.tables import MISSING

TOKENS = 10
"""Shown of each head."""
HEADS = 10
"""Shown of each run in Markdown and LaTeX."""
_RUN = ["model", "task", "arm"]
COLUMNS = [
    *_RUN, "fold", "seed", "layer", "head", "norm", "place", "token_id", "token", "probability", "note",
]  # fmt: skip
LEGEND = (
    f"Logit lens: the {TOKENS} most probable tokens of each head, if what its offset v adds to the residual stream "
    "went straight into the unembedding (softmax of U W_o v, without the final norm and the layers in between). Norm: "
    f"L2 norm of the offset. The {HEADS} heads with the largest norm, for the first seed and fold of each task; all "
    f"heads are in the CSV. {MISSING} nothing was read, for the reason given."
)


def write(table: RunTable, output: Output) -> None:
    """Write the table of the experiment ``output.name``: all heads as CSV, the largest as Markdown and LaTeX."""
    frame, stem = lens_rows(table, output.name), table.drawn / output.id
    shown = shown_heads(frame)
    with atomic_path(stem.parent / f"{stem.name}.csv") as part:
        frame.to_csv(part, index=False)
    # In Markdown tokens are code, since `*`, `_` or `<` in others would be taken for marks.
    coded = shown.assign(tokens=[_listed(tokens, _code) for tokens in shown["tokens"]]).astype(str)
    body = coded.map(escape_pipe).to_markdown(index=False, disable_numparse=True)
    write_text(stem.parent / f"{stem.name}.md", f"**{escape_pipe(output.title)}**\n\n{body}\n\n{LEGEND}\n")
    plain = shown.assign(tokens=[_listed(tokens, str) for tokens in shown["tokens"]]).astype(str)
    style = plain.style.hide(axis="index").format(latex_text).format_index(latex_text, axis=1)
    tabular = style.to_latex(hrules=True, column_format="llllllp{14cm}l")
    write_text(stem.parent / f"{stem.name}.tex", latex_table(tabular, f"{output.title}. {LEGEND}", stem.name))


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
    model, tokenizer = _load(table, node)
    return pd.DataFrame(
        {
            "layer": entry.layer,
            "head": entry.head,
            "tokens": ", ".join(
                f"{tokenizer.decode([token])!r} {chance:.2g}"
                for token, chance in zip(entry.tokens, entry.probabilities, strict=True)
            ),
        }
        for entry in fitted_lens(model, table.folder(node) / "adapter", report.get("sha256"), k, final_norm)
    )


def lens_rows(table: RunTable, name: str) -> pd.DataFrame:
    """Read the offsets of all runs of an experiment, one base model after the other, on the CPU.

    Returns:
        One row per run, edited head and token, the largest offsets and the most probable tokens first: ``model``,
        ``task``, ``arm``, ``fold``, ``seed``, ``layer``, ``head``, ``norm`` (L2, of the offset), ``place`` (1 is the
        most probable token), ``token_id``, ``token`` (its text in quotes, as Python writes it), ``probability``
        (fraction) and ``note``. A run without offsets to read has one row, with the reason in ``note``.
    """
    records: list[dict[str, Any]] = []
    for model in table.config.models:
        records += _of_model(table, [arm for arm in table.experiments[name] if arm.fit.model == model])
        gc.collect()  # one base model at a time
    frame = pd.DataFrame(records, columns=COLUMNS)
    whole = ["fold", "seed", "layer", "head", "place", "token_id"]
    return frame.astype(dict.fromkeys(whole, "Int64") | {"norm": "float64", "probability": "float64"})


def _of_model(table: RunTable, arms: list[ExperimentRun]) -> list[dict[str, Any]]:
    """Return the records of the runs of one base model, which is loaded if any of them succeeded."""
    records: list[dict[str, Any]] = []
    base: Any = None
    tokenizer: Any = None
    for arm in arms:
        fit, data = arm.fit, arm.fit.data
        where = {"model": fit.model, "task": data.task, "arm": arm.label, "fold": data.fold, "seed": data.seed}
        try:
            report = kind_of(fit).read_report(table, fit)
            if report["status"] != "ok":
                raise FitError(f"the fit failed: {report['reason']}")
            if base is None:
                base, tokenizer = _load(table, fit)
            heads = fitted_lens(base, table.folder(fit) / "adapter", report.get("sha256"), TOKENS)
        except (EditError, FitError) as error:
            records.append(where | {"note": str(error)})
            continue
        for head in sorted(heads, key=lambda entry: -entry.norm):
            for place, (token, chance) in enumerate(zip(head.tokens, head.probabilities, strict=True), start=1):
                records.append(
                    where
                    | {"layer": head.layer, "head": head.head, "norm": head.norm, "place": place, "token_id": token}
                    | {"token": repr(tokenizer.decode([token])), "probability": chance, "note": ""}
                )
    return records


def fitted_lens(
    base: Any, fitted: Path, recorded: Mapping[str, str] | None, k: int = 10, final_norm: bool = False
) -> list[HeadLens]:
    """Read the offsets of a saved adapter as tokens (:func:`lofit.interventions.tuner.lens.offset_lens`).

    Args:
        base: the base model, which is afterwards as it was before.
        fitted: folder of the adapter.
        recorded: checksums of its files, as the fit wrote them.
        k: how many tokens of each head.
        final_norm: whether to apply the model's final norm before the unembedding.

    Raises:
        FitError: the folder holds a checkpoint, and no adapter.
        EditError: the adapter has no offsets on heads, or the model cannot be read this way.
        SourceError: the adapter is damaged, was altered since it was fitted, or belongs to another model.
    """
    verify(fitted, recorded)
    if not (fitted / CONFIG).is_file():
        raise FitError(f"{fitted}: the method trains the model itself, so there are no offsets to read")
    model: Any = load_adapter(base, fitted)
    try:
        return offset_lens(model, k, final_norm)
    finally:
        model.unload()


def _load(table: RunTable, fit: FitNode) -> tuple[Any, Any]:
    """Load base model and tokenizer of a run, the former in the precision of the run."""
    folder, cpu = table.model_dir(fit.model), torch.device("cpu")
    precision = pick_dtype(fit.dtype, cpu)
    if not isinstance(precision, torch.dtype):
        raise EditError(f"the weights are quantized ({precision}); fit on plain weights to read offsets as tokens")
    return load_model(folder, cpu, precision), load_tokenizer(folder)


def shown_heads(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the heads with the largest offsets of each run, one row each; a run without offsets has one row too.

    Args:
        frame: as :func:`lens_rows` returns it.

    Returns:
        ``model``, ``task``, ``arm``, ``layer``, ``head``, ``norm`` (text), ``tokens`` (pairs of quoted text and
        probability) and ``note``.
    """
    shown: list[dict[str, Any]] = []
    for key, run in frame.groupby(_RUN, sort=False):
        where: dict[str, Any] = dict(zip(_RUN, key, strict=True))
        if run["layer"].isna().all():
            where |= dict.fromkeys(("layer", "head", "norm"), MISSING)
            shown.append(where | {"tokens": [], "note": run["note"].iloc[0]})
            continue
        for (layer, head), tokens in list(run.groupby(["layer", "head"], sort=False))[:HEADS]:
            found = {"layer": layer, "head": head, "norm": f"{tokens['norm'].iloc[0]:.3f}", "note": ""}
            shown.append(where | found | {"tokens": list(zip(tokens["token"], tokens["probability"], strict=True))})
    return pd.DataFrame(shown, columns=[*_RUN, "layer", "head", "norm", "tokens", "note"])


def _listed(tokens: list[tuple[str, float]], form: Callable[[str], str]) -> str:
    return ", ".join(f"{form(text)} {chance:.2g}" for text, chance in tokens) or MISSING


def _code(text: str) -> str:
    """Return a text as Markdown code, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}"
