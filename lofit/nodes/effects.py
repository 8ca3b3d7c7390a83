"""The effects node: what the damage of every single head does, from which planted heads are drawn."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lofit.errors import FitError
from lofit.evaluation.generation import generate
from lofit.files import atomic_path, read_json, write_json, write_jsonl
from lofit.interventions import find_site
from lofit.models.damage import Damage
from lofit.models.encoding import Example, encode, token_ids
from lofit.models.meter import Meter, environment
from lofit.models.session import Session
from lofit.nodes.context import session_of
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.packing.rows import PAD
from lofit.packing.support import longest_packable, supports_packing
from lofit.plan.nodes import EffectsNode
from lofit.plan.table import RunTable
from lofit.training.effects import BATCH, output_norms, single_effects

VISIBLE = 3.0
"""Standard errors by which the loss must rise for the damage of a head to be visible."""


def run(table: RunTable, node: EffectsNode, killed: str | None = None) -> None:
    """Write the rows that the intact model has answered, the damage of every head, and what each does alone.

    ``train.jsonl`` and ``validation.jsonl`` hold the prompts of the task's rows with the intact model's greedy text as
    ``target``; a row whose prompt and text are not read as the tokens that were generated is left out. If the node
    fails, all files but ``effects.json`` are empty, and that holds the reason.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; the model is then not run.
    """
    folder = table.folder(node)
    found = pd.DataFrame(columns=["layer", "head", "effect", "error"])
    damage = Damage((), torch.zeros(0), torch.zeros(0, 0))
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    with record_failure() as report, limited(table.config.limits, table.config.device):
        if killed:
            raise FitError(killed)
        session = session_of(table, node)
        meter = Meter(session.model.device)
        rows = {split: answered(session, getattr(session, split), node.tokens) for split in rows}
        if not all(rows.values()):
            raise FitError("the intact model ends its text at once after every prompt; choose another task")
        texts = [(encode(session.tokenizer, row["prompt"], row["target"]).without_end,) for row in rows["train"]]
        damage = _damage(node, output_norms(session.model, texts), find_site(session.model).width)
        found = single_effects(session.model, texts, damage)
        visible = int((found["effect"] >= VISIBLE * found["error"]).sum())
        report |= {"visible": visible, "n_train": len(texts), **meter.report(), **environment(session.model)}
    for split, kept in rows.items():
        write_jsonl(folder / f"{split}.jsonl", kept if report["status"] == "ok" else [])
    with atomic_path(folder / "effects.parquet") as part:
        found.to_parquet(part, index=False)
    damage.save(folder / "damage.safetensors")
    write_json(folder / "run.json", node.identity)
    write_json(folder / "effects.json", report)


def answered(session: Session, rows: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Return rows of ``id``, ``prompt`` and ``target``, the model's greedy text of at most ``tokens`` tokens."""
    prompts = [row.get("prompt") or row["train_prompt"] for row in rows]
    kept = []
    for row, prompt, text in zip(rows, prompts, greedy_texts(session, prompts, tokens), strict=True):
        if text:
            kept.append({"id": row["id"], "prompt": prompt, "target": text})
    return kept


def greedy_texts(session: Session, prompts: list[str], tokens: int) -> list[str]:
    """Continue prompts greedily, each until end-of-sequence or for ``tokens`` tokens.

    What is returned is the longest beginning that is read, after its prompt, as the tokens that were generated; it may
    be empty.

    Raises:
        FitError: the model takes no block mask, which generation needs, or a prediction is not finite.
    """
    tokenizer, model = session.tokenizer, session.model
    ids = [tuple(token_ids(tokenizer, prompt)[0]) for prompt in prompts]
    if max(map(len, ids)) + tokens > longest_packable(model) or not supports_packing(model):
        raise FitError("planted heads need a model that takes a block mask; choose another model")
    distinct = list(dict.fromkeys(ids))
    end = tokenizer.eos_token_id
    found = dict(generate(model, distinct, (tokens, lambda _: False, [end]), PAD, BATCH))
    by_prompt = {distinct[i]: tuple(token for token in text if token != end) for i, text in found.items()}
    return [
        _readable(tokenizer, prompt, before, by_prompt[before]) for prompt, before in zip(prompts, ids, strict=True)
    ]


def _readable(tokenizer: Any, prompt: str, before: tuple[int, ...], written: tuple[int, ...]) -> str:
    for length in range(len(written), 0, -1):
        text: str = tokenizer.decode(written[:length])
        wanted = Example((*before, *written[:length]), len(before))
        with contextlib.suppress(FitError):  # a text without tokens
            if encode(tokenizer, prompt, text).without_end == wanted:
                return text
    return ""


def _damage(node: EffectsNode, norms: torch.Tensor, width: int) -> Damage:
    """Return the damage of every head: a factor, or an offset of random direction, as long as its output is usually."""
    heads = tuple((layer, head) for layer in range(norms.shape[0]) for head in range(norms.shape[1]))
    factors, offsets = torch.ones(len(heads)), torch.zeros(len(heads), width)
    if node.damage.kind == "scale":
        factors *= node.damage.strength
    else:
        drawn = torch.randn(offsets.shape, generator=torch.Generator().manual_seed(node.data.seed))
        lengths = node.damage.strength * norms.reshape(-1, 1)
        offsets = lengths * drawn / drawn.norm(dim=1, keepdim=True)
    return Damage(heads, factors, offsets)


def summary_line(folder: Path) -> str:
    """Return one line for the log: how many heads show their damage, and seconds."""
    status = read_json(folder / "effects.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    return f"the damage of {status['visible']} heads is visible in {status['n_train']} rows; {status['seconds']:.0f} s"
