"""One training step at a fixed shape: 8 texts of 96 tokens, the last 3 of them the answer."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from torch.nn import functional

from lofit.interventions import LofitConfig, find_site
from lofit.models.encoding import Example, Row
from lofit.training.cached_prefix import decoder_layers
from lofit.training.forward import Forward
from lofit.training.objectives import SftObjective
from perf.baselines import HeadByHead, plain_step, reference_step
from perf.common import Claim, in_turn, inputs, model_and_tokenizer, report, set_up

TEXTS, TOKENS, ANSWER, ROUNDS = 8, 96, 3, 5


def texts(n: int = TEXTS, n_tokens: int = TOKENS, vocab_size: int = 40_000) -> list[Row]:
    """Random tokens, the last few of them the answer."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(10, vocab_size, (n, n_tokens + 1), generator=generator).tolist()
    return [(Example(tuple(ids), n_tokens + 1 - ANSWER),) for ids in draw]


def our_step(forward: Forward, rows: list[Row]) -> float:
    """Loss and gradients as we compute them."""
    objective = SftObjective()
    loss = objective.total(forward, rows) / objective.terms(rows)
    loss.backward()
    forward.model.zero_grad()
    return loss.item()


def gemm_rate(model: Any) -> float:
    """FLOP/s of the model's matrix products, forward and backward, at this number of tokens, cold weights."""
    layer = decoder_layers(model)[0]  # type: ignore[index]
    rates = []
    for module in [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]:
        weights = [torch.randn_like(module.weight) for _ in range(20)]
        x, y = torch.randn(TEXTS * TOKENS, module.in_features), torch.randn(TEXTS * TOKENS, module.out_features)
        work = {
            "forward": lambda x=x, weights=weights: [functional.linear(x, w) for w in weights],
            "backward": lambda y=y, weights=weights: [y @ w for w in weights],
        }
        flops = 2 * len(x) * module.weight.numel() * len(weights)
        rates += [(flops, statistics.median(seconds)) for seconds in in_turn(work, 5).values()]  # type: ignore[arg-type]
    return sum(flops for flops, _ in rates) / sum(seconds for _, seconds in rates)


def step_flops(model: Any, first: int, n_texts: int = TEXTS, n_tokens: int = TOKENS) -> float:
    """Floating-point operations of a step whose lowest edited heads are in layer ``first``, by formula.

    Forward, and backward with respect to activations, of layers ``first`` to the last; in the first one nothing is
    propagated below the attention output; in the last one only answers need more than keys and values.
    """
    config = model.config
    width, ffn, head = config.hidden_size, config.intermediate_size, find_site(model).width
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    tokens, scored = n_texts * n_tokens, n_texts * ANSWER
    whole = 2 * (2 * width * queries + 2 * width * keys + 3 * width * ffn)  # per token
    attention = 2 * 2 * queries * n_tokens
    per_layer = tokens * (whole + attention)
    last = tokens * 2 * 2 * width * keys + scored * (whole - 2 * 2 * width * keys) + tokens * attention
    below = tokens * (2 * (width * queries + 2 * width * keys) + attention)  # of the first layer, not propagated
    layers = config.num_hidden_layers - first - 1
    return 2 * (layers * per_layer + last) - below + 2 * scored * 2 * width * config.vocab_size


def limit(model: Any, rows: list[Row], first: int) -> Forward:
    """The frozen model with gradients flowing back to the attention output of layer ``first``, and no edit."""
    module = model.get_submodule(find_site(model).module_name(first))
    module.weight.requires_grad_(True)
    forward = Forward(model, rows, 0)
    forward.keep_prefix(rows, TEXTS, 1e10, 0)
    module.weight.requires_grad_(False)
    module.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach().requires_grad_(), *inputs[1:]))
    return forward


def claims() -> list[Claim]:
    """Step A and step V against the authors' way, a plain loop around PEFT, and the limit."""
    table = inputs({"listops": {"n_train": 8, "n_validation": 4, "n_test": 4}})
    rows, found = texts(), []
    plain = [text for (text,) in rows]
    model, _ = model_and_tokenizer(table)
    site, rate = find_site(model), gemm_rate(model)
    everywhere = [(layer, head) for layer in range(site.n_layers) for head in range(site.groups)]
    top_third = [pair for pair in everywhere if pair[0] >= 2 * site.n_layers // 3][::3]
    for name, heads, kind, target in (("step A", everywhere, "scale", 2.5), ("step V", top_third, "offset", 8.0)):
        first = min(layer for layer, _ in heads)
        config = LofitConfig(heads=heads, scale=kind == "scale", offset=kind == "offset", init_std=0.0)
        tuned = get_peft_model(model_and_tokenizer(table)[0], config)
        ours = Forward(tuned, rows, 0)
        ours.keep_prefix(rows, TEXTS, 1e10, 0)
        edit = HeadByHead(model_and_tokenizer(table)[0], heads, kind)
        frozen = limit(model_and_tokenizer(table)[0], rows, first)
        work = {
            "ours": partial(our_step, ours, rows),
            "reference": partial(reference_step, edit, plain, 0),
            "peft": partial(plain_step, tuned, plain, 0),
            "limit": partial(our_step, frozen, rows),
        }
        losses = [run() for run in work.values()]
        assert max(losses) - min(losses) < 1e-4, losses
        seconds = in_turn(work, ROUNDS, warm_up=0)
        reached = statistics.median(step_flops(model, first) / s for s in seconds["ours"])
        share = f"{reached / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s that its matrix products reach alone"
        for label, words, aim in (
            ("reference", "the authors' way", target),
            ("peft", "PEFT in a plain loop, all logits", None),
            ("limit", "a frozen forward and backward over the same layers and positions", None),
        ):
            found.append(
                Claim(
                    f"{name}, {len(heads)} heads from layer {first} on, {TEXTS} x {TOKENS} tokens",
                    words,
                    {"ours": seconds["ours"], "baseline": seconds[label]},
                    aim,
                    {"runs at": share} if label == "limit" else {},
                )
            )
    return found


if __name__ == "__main__":
    set_up()
    report("step", claims())
