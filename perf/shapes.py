"""Step A and step V at the shapes of Llama-2-7B and 13B with random weights in bfloat16, on a GPU.

``python -m perf.shapes tiny`` runs the same code on a tiny shape, on any machine.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lofit.interventions import LofitConfig, find_site
from lofit.models.loading import precision_of
from lofit.training.forward import Forward
from perf.baselines import HeadByHead, plain_step, reference_step
from perf.common import Claim, in_turn, report, set_up
from perf.step import our_step, step_flops, texts

ROUNDS = 5
# Layers, width, width of the FFN, heads, texts, tokens, vocabulary (Llama 2, arXiv 2307.09288, and its checkpoints).
SHAPES = {"Llama-2-7B": (32, 4096, 11008, 32, 8, 512, 32_000), "Llama-2-13B": (40, 5120, 13824, 40, 8, 512, 32_000)}
TINY = {"tiny": (4, 64, 128, 4, 2, 32, 500)}


def random_model(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama model of that shape, made where it stays."""
    layers, width, ffn, heads, _, _, vocabulary = shape
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    n = 8192 if device.type == "cuda" else 512
    x, y = torch.randn(2, n, n, device=device, dtype=dtype)
    return 2 * n**3 / statistics.median(in_turn({"product": lambda: x @ y}, 10, warm_up=3)["product"])


def most_memory(device: torch.device, run: Any) -> float:
    """GB of GPU memory in one run; NaN on a CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 1e9


def claims(shapes: dict[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype) -> list[Claim]:
    """Both steps at every shape, against the authors' way and a plain loop around PEFT."""
    found, rate = [], gemm_rate(device, dtype)
    for name, shape in shapes.items():
        model = random_model(shape, device, dtype)
        site, n_texts, n_tokens = find_site(model), shape[4], shape[5]
        rows = texts(n_texts, n_tokens, shape[6])
        everywhere = [(layer, head) for layer in range(site.n_layers) for head in range(site.groups)]
        top = [pair for pair in everywhere if pair[0] >= 2 * site.n_layers // 3][::3]
        for step, heads, kind in (("step A", everywhere, "scale"), ("step V", top, "offset")):
            plain = [text for (text,) in rows]
            edit = HeadByHead(model, heads, kind)
            baseline = partial(reference_step, edit, plain, 0)
            reference = in_turn({"run": baseline}, ROUNDS)["run"], most_memory(device, baseline)
            edit.remove()
            tuned = get_peft_model(model, LofitConfig(heads=heads, scale=kind == "scale", offset=kind == "offset"))
            ours = Forward(tuned, rows, 0)
            ours.keep_prefix(rows, n_texts, 1e10, 0)
            work = {"ours": partial(our_step, ours, rows), "peft": partial(plain_step, tuned, plain, 0)}
            seconds = in_turn(work, ROUNDS)
            memory = {label: most_memory(device, run) for label, run in work.items()}
            middle = statistics.median(seconds["ours"])
            share = step_flops(model, heads[0][0], n_texts, n_tokens) / middle / rate
            speed = {"tokens/s": f"{n_texts * n_tokens / middle:.0f}", "of the machine's own rate": f"{share:.0%}"}
            what = f"{name}, {step}, {len(heads)} heads, {n_texts} x {n_tokens} tokens, {precision_of(model)}"
            for words, slow, most, notes in (
                ("the authors' way", *reference, {}),
                ("PEFT in a plain loop, all logits", seconds["peft"], memory["peft"], speed),
            ):
                if device.type == "cuda":
                    notes = {**notes, "peak GB": f"{memory['ours']:.1f} against {most:.1f}"}
                found.append(Claim(what, words, {"ours": seconds["ours"], "baseline": slow}, None, notes))
            model = tuned.unload()
    return found


if __name__ == "__main__":
    set_up()
    if sys.argv[1:] == ["tiny"]:
        report("shapes", claims(TINY, torch.device("cpu"), torch.float32))
    else:
        report("shapes", claims(SHAPES, torch.device("cuda"), torch.bfloat16))
