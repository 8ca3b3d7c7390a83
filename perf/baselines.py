"""What is compared with: training steps as the authors' code, and as a plain loop around PEFT, would run them.

The first is written from a description of fc2869/lo-fit (its models and trainers): attention heads edited one by one
in Python on a cloned tensor, eager attention, logits and loss over all positions, anomaly detection switched on, no
reuse of anything between steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lofit.interventions import Head, find_site
from lofit.models.encoding import Example


def padded(texts: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Texts padded on the left to the longest, with labels on their answers."""
    length = max(len(text.ids) for text in texts)
    ids = torch.full((len(texts), length), pad_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, text in enumerate(texts):
        ids[row, length - len(text.ids) :] = torch.tensor(text.ids)
        mask[row, length - len(text.ids) :] = 1
        labels[row, length - text.n_answer :] = torch.tensor(text.ids[text.answer_start :])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


@contextlib.contextmanager
def eager(model: Any) -> Iterator[None]:
    """The model with eager attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class HeadByHead:
    """z' = (1 + a) z + v on every head of every layer, selected or not, in a Python loop over the heads."""

    def __init__(self, model: nn.Module, heads: Sequence[Head], kind: str) -> None:
        """Put it on a model.

        Args:
            model: a plain model.
            heads: the selected heads.
            kind: what is trained on them, ``scale`` or ``offset``.
        """
        site, self.model = find_site(model), model
        everywhere = [(layer, head) for layer in range(site.n_layers) for head in range(site.groups)]
        like = next(model.parameters())
        self.scale, self.offset = ({pair: like.new_zeros(site.width) for pair in everywhere} for _ in range(2))
        self.trained = [(self.scale if kind == "scale" else self.offset)[pair].requires_grad_() for pair in heads]
        modules = [model.get_submodule(site.module_name(layer)) for layer in range(site.n_layers)]
        self._hooks = [
            module.register_forward_pre_hook(self._hook(layer, site.groups)) for layer, module in enumerate(modules)
        ]

    def remove(self) -> None:
        """Take it off the model again."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, layer: int, n_heads: int) -> Callable[..., Any]:
        def edit(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            z = inputs[0].unflatten(-1, (n_heads, -1))
            for head in range(n_heads):
                before, z = z[:, :, head], z.clone()
                z[:, :, head] = before * (1 + self.scale[layer, head]) + self.offset[layer, head]
            return (z.flatten(-2), *inputs[1:])

        return edit


def reference_step(edit: HeadByHead, texts: Sequence[Example], pad_id: int) -> float:
    """Loss and gradients as the authors' code computes them."""
    with eager(edit.model), torch.autograd.set_detect_anomaly(True):
        batch = {name: values.to(edit.model.device) for name, values in padded(texts, pad_id).items()}
        loss = edit.model(**batch, use_cache=False).loss  # type: ignore[operator]
        loss.backward()
    for vector in edit.trained:
        vector.grad = None
    return loss.item()


def plain_step(model: Any, texts: Sequence[Example], pad_id: int) -> float:
    """Loss and gradients of a PEFT model in a plain loop: labels in, logits at all positions."""
    batch = {name: values.to(model.device) for name, values in padded(texts, pad_id).items()}
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    model.zero_grad()
    return loss.item()


def naive_dpo_step(model: Any, pairs: Sequence[tuple[Example, Example]], pad_id: int, beta: float) -> float:
    """A DPO step as trainers run it: both answers in full, the reference by switching the adapter off, all logits."""
    batch = padded([*(pair[0] for pair in pairs), *(pair[1] for pair in pairs)], pad_id)
    labels = batch.pop("labels")

    def margins() -> torch.Tensor:
        logits = model(**batch, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        chosen, rejected = (-losses.sum(-1)).chunk(2)
        return chosen - rejected

    with torch.no_grad(), model.disable_adapter():
        reference = margins()
    loss = -functional.logsigmoid(beta * (margins() - reference)).mean()
    loss.backward()
    model.zero_grad()
    return loss.item()
