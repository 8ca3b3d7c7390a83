"""Capture the last-token activations of every head and layer, in one forward pass over contrastive texts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lofit.activations.store import TEXT_COLUMNS
from lofit.errors import EditError, FitError
from lofit.files import reserve
from lofit.interventions import find_site
from lofit.models.encoding import Example, check_texts, encode, token_ids
from lofit.models.meter import Meter
from lofit.models.session import Session
from lofit.packing.forward import answer_logits
from lofit.packing.rows import PAD, unpacked
from lofit.progress import track


def contrast_texts(rows_by_split: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """List all right and wrong answers of the rows with their prompts.

    Returns:
        Frame with columns split, row (number of the question over all splits), pair (number of the answer within its
        question and label), label (1 right, 0 wrong), prompt, answer.
    """
    texts = []
    row_number = 0
    for split, rows in rows_by_split.items():
        for row in rows:
            for label, side in ((1, "right"), (0, "wrong")):
                for pair, answer in enumerate(row["contrast"][side]):
                    texts.append((split, row_number, pair, label, row["contrast"]["prompt"], answer))
            row_number += 1
    return pd.DataFrame(texts, columns=[*TEXT_COLUMNS, "prompt", "answer"])


def encode_texts(session: Session, texts: pd.DataFrame) -> list[Example]:
    """Encode each text as training does, with end-of-sequence, which is a label and never an input.

    Raises:
        FitError: a text is longer than the model reads, or cannot be encoded.
    """
    pairs = zip(texts["prompt"], texts["answer"], strict=True)
    named = [(f"text {prompt[:40]!r}", prompt, answer) for prompt, answer in pairs]
    encoded = [(name, encode(session.tokenizer, prompt, answer, name)) for name, prompt, answer in named]
    check_texts(encoded, None, session.window, session.vocabulary)
    return [text for _, text in encoded]


@torch.no_grad()
def capture(session: Session, texts: pd.DataFrame, heads: Path, blocks: Path, batch_size: int = 8) -> dict[str, Any]:
    """Write the last token's activations of every text as two float32 arrays on disk, in one forward pass.

    Only one batch is held in memory: the arrays are memory-mapped, and the output head runs on one position per text.

    Args:
        session: the frozen model, without adapters.
        texts: output of :func:`contrast_texts`.
        heads: file for [layers, texts, query heads, head dimension], the input of each attention output projection.
        blocks: file for [layers, texts, hidden size], the output of each decoder layer (the last one's before the
            final norm).
        batch_size: texts in one forward pass, which are taken in order of length.

    Returns:
        Seconds, peak and 99th percentile of memory in bytes, numbers of texts and tokens.

    Raises:
        FitError: an activation is not finite.
    """
    model = session.model
    site = find_site(model, "head")
    # Only end-of-sequence is predicted, so that the output head runs on one position of each text.
    examples = [Example(text.ids, len(text.ids) - 1) for text in encode_texts(session, texts)]
    lengths = [len(example.ids) - 1 for example in examples]
    shape = (site.n_layers, len(examples))
    out_heads = np.lib.format.open_memmap(heads, "w+", np.float32, (*shape, site.groups, site.width))
    hidden = model.config.get_text_config().hidden_size
    out_blocks = np.lib.format.open_memmap(blocks, "w+", np.float32, (*shape, hidden))
    for file in (heads, blocks):
        reserve(file)
    meter = Meter(model.device)
    order = sorted(range(len(examples)), key=lambda i: (-lengths[i], i))  # longest first: out of memory shows at once
    steps = range(0, len(order), batch_size)
    with (
        _hooks(model, site.layers, site.suffix, site.n_layers) as last,
        track("activations", len(steps), session.progress) as advance,
    ):
        for start in steps:
            rows = order[start : start + batch_size]
            answer_logits(model, unpacked([examples[i] for i in rows], PAD, model.device))
            for layer in range(site.n_layers):
                heads_now, block_now = last["head", layer], last["block", layer]
                if not (heads_now.isfinite().all() and block_now.isfinite().all()):
                    raise FitError(
                        f"activations of layer {layer} are not finite; the weights are damaged or overflow in this "
                        "precision (dtype)"
                    )
                out_heads[layer, rows] = heads_now.unflatten(-1, (site.groups, site.width)).numpy()
                out_blocks[layer, rows] = block_now.numpy()
            meter.sample()
            advance("")
    out_heads.flush()
    out_blocks.flush()
    return {"n_texts": len(examples), "n_tokens": sum(lengths), **meter.report()}


@torch.no_grad()
def block_outputs(session: Session, texts: Sequence[str]) -> np.ndarray:
    """Return the output of every layer at the last token of each text: float32 [texts, layers, hidden size].

    Raises:
        FitError: the tokenizer cannot encode a text.
    """
    site = find_site(session.model, "head")
    found = []
    with _hooks(session.model, site.layers, site.suffix, site.n_layers) as last:
        for text in texts:
            session.model(torch.tensor([token_ids(session.tokenizer, text)[0]], device=session.model.device))
            found.append(np.stack([last["block", layer].numpy()[0] for layer in range(site.n_layers)]))
    return np.stack(found)


@contextlib.contextmanager
def _hooks(
    model: nn.Module, layers: str, projection: str, n_layers: int
) -> Iterator[dict[tuple[str, int], torch.Tensor]]:
    """Collect the last column, float32 on CPU, of each projection's input and each layer's output."""
    last: dict[tuple[str, int], torch.Tensor] = {}

    def keep(kind: str, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            value = inputs if output is None else output
            tensor = value if isinstance(value, torch.Tensor) else value[0]
            if tensor.ndim != 3:
                raise EditError(f"{type(model).__name__} has several residual streams; its activations cannot be read")
            last[kind, layer] = tensor[:, -1].float().cpu()

        return hook

    handles = []
    for layer in range(n_layers):
        block = model.get_submodule(f"{layers}.{layer}")
        handles.append(block.get_submodule(projection).register_forward_pre_hook(keep("head", layer)))
        handles.append(block.register_forward_hook(keep("block", layer)))
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()
