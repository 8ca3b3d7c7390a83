"""How a step grows: with length, batch, number of heads, number of layers and size of the model (random weights)."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lofit.interventions import LofitConfig, find_site
from lofit.training.forward import Forward
from perf.baselines import HeadByHead, reference_step
from perf.common import Claim, in_turn, report, set_up
from perf.step import our_step, texts

ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """A step; the defaults are those of SmolLM2-135M, and of step A."""

    n_texts: int = 8
    n_tokens: int = 96
    n_layers: int = 30
    width: int = 576
    ffn: int = 1536
    kv_heads: int = 3
    n_heads: int | None = None
    """Number of heads with offsets, spread over the top third; None: factors on all heads."""

    def model(self) -> Any:
        """A Llama model with random weights."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49_152,
            hidden_size=self.width,
            intermediate_size=self.ffn,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.width // 64,
            num_key_value_heads=self.kv_heads,
            head_dim=64,
            tie_word_embeddings=True,
            initializer_range=0.04,
        )
        return LlamaForCausalLM(config).eval().requires_grad_(False)


SMOLLM2 = Point()
LARGER = replace(SMOLLM2, n_layers=32, width=960, ffn=2560, kv_heads=5)  # the shape of SmolLM2-360M
POINTS = {
    **{f"length: {n} tokens": replace(SMOLLM2, n_tokens=n) for n in (48, 192, 384)},
    **{f"batch: {n} texts": replace(SMOLLM2, n_texts=n) for n in (2, 16)},
    **{f"heads: {n} offsets in the top third": replace(SMOLLM2, n_heads=n) for n in (9, 27, 90)},
    **{f"layers: {n}": replace(SMOLLM2, n_layers=n) for n in (10, 20)},
    "size: 135M": SMOLLM2,
    "size: 360M": LARGER,
}


def claim(name: str, point: Point) -> Claim:
    """One point."""
    model = point.model()
    site, rows = find_site(model), texts(point.n_texts, point.n_tokens)
    if point.n_heads is None:
        heads = [(layer, head) for layer in range(site.n_layers) for head in range(site.groups)]
    else:
        top = [(layer, head) for layer in range(2 * site.n_layers // 3, site.n_layers) for head in range(site.groups)]
        heads = [top[i * len(top) // point.n_heads] for i in range(point.n_heads)]
    kind = "scale" if point.n_heads is None else "offset"
    edit = HeadByHead(point.model(), heads, kind)
    config = LofitConfig(heads=heads, scale=kind == "scale", offset=kind == "offset", init_std=0.0)
    ours = Forward(get_peft_model(model, config), rows, 0)
    ours.keep_prefix(rows, len(rows), 1e10, 0)
    work = {"ours": partial(our_step, ours, rows), "baseline": partial(reference_step, edit, [t for (t,) in rows], 0)}
    losses = [run() for run in work.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    return Claim(f"growth, {name}", "the authors' way", in_turn(work, ROUNDS, warm_up=0))


def claims() -> list[Claim]:
    """All points."""
    found = []
    for name, point in POINTS.items():
        found.append(claim(name, point))
        print(found[-1].line(), flush=True)
        gc.collect()
    return found


if __name__ == "__main__":
    set_up()
    report("growth", claims())
