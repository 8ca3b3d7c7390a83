"""Peak memory of a LoFiT fit, against the weights and what autograd keeps of one batch."""

from __future__ import annotations

import resource
import sys
from typing import Any

import psutil
import torch
from peft import get_peft_model

from lofit.interventions import LofitConfig, find_site
from lofit.training.forward import Forward
from perf.common import Claim, inputs, model_and_tokenizer, report, set_up
from perf.step import our_step, texts


def saved_bytes(run: Any) -> int:
    """Bytes of distinct tensors that autograd keeps in one step, other than parameters."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storages.values())


def peak() -> int:
    """Most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def claims() -> list[Claim]:
    """Measured in this process alone: what importing the libraries takes is left out on both sides."""
    libraries = psutil.Process().memory_info().rss
    table = inputs({"listops": {"n_train": 8, "n_validation": 4, "n_test": 4}})
    model, _ = model_and_tokenizer(table)
    site, rows = find_site(model), texts()
    name = sys.argv[1] if len(sys.argv) > 1 else "A"
    layers = range(site.n_layers) if name == "A" else range(2 * site.n_layers // 3, site.n_layers)
    heads = [(layer, head) for layer in layers for head in range(site.groups)]
    tuned = get_peft_model(model, LofitConfig(heads=heads, scale=name == "A", offset=name == "V"))
    forward = Forward(tuned, rows, 0)
    forward.keep_prefix(rows, len(rows), 1e10, 0)
    loaded = peak() - libraries
    for _ in range(3):
        our_step(forward, rows)
    reached = peak() - libraries
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    kept = saved_bytes(lambda: our_step(forward, rows))
    share = reached / (weights + kept)
    notes = {
        "share": f"{share:.2f} of weights {weights / 1e9:.2f} + activations {kept / 1e9:.2f}",
        "after loading": f"{loaded / 1e9:.2f} GB",
    }
    measured = {"ours": [reached / 1e9], "baseline": [(weights + kept) / 1e9]}
    return [Claim(f"peak memory of step {name}", "weights and activations", measured, 0.8, notes, "GB")]


if __name__ == "__main__":
    set_up()
    report("memory", claims())
