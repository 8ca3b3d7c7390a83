"""Whole fits on real data, five epochs of them: bucketing, cache filling and the optimizer included."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from lofit.interventions import Head, LofitConfig, find_site, head_norms
from lofit.models.encoding import encode_rows
from lofit.models.session import Session
from lofit.rankings.ranking import rank_heads
from lofit.spec.hyperparameters import TrainParams
from lofit.training.loop import batches
from lofit.training.trainer import train
from perf.baselines import HeadByHead, eager, padded
from perf.common import Claim, inputs, model_and_tokenizer, report, rows_of, set_up

N_TRAIN, ROUNDS, SEED = 40, 3, 42


def session(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> Session:
    """Without validation rows, whose cost is no part of a fit's."""
    return Session(model, tokenizer, "sft", rows, [], SEED, progress=False)


def by_the_authors(model: Any, tokenizer: Any, rows: list[dict[str, Any]], heads: list[Head], kind: str) -> float:
    """Seconds of the fit the authors' way, on the same batches: those of one epoch, times their number.

    Nothing is reused from one epoch to the next, and all batches of an epoch are drawn anew from the same texts.
    """
    params = TrainParams(lr=5e-3)
    edit = HeadByHead(model, heads, kind)
    optimizer = torch.optim.AdamW(edit.trained, lr=params.lr, weight_decay=0.0)
    generator, pad = torch.Generator().manual_seed(SEED), tokenizer.eos_token_id
    encoded = encode_rows(tokenizer, rows, "sft", params.max_length)
    start = time.perf_counter()
    with eager(model), torch.autograd.set_detect_anomaly(True):
        for batch in batches(encoded, params.batch_size, generator):
            loss = model(**padded([text for (text,) in batch], pad), use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(edit.trained, params.max_grad_norm)
            optimizer.step()
    return params.epochs * (time.perf_counter() - start)


def claims() -> list[Claim]:
    """Step A, and step V on the heads that it ranks best, at 3% and at 10% of the heads."""
    options = {"n_train": N_TRAIN, "n_validation": 4, "n_test": 4}
    table = inputs({"mquake": options, "clutrr": options})
    found = []
    for task in ("mquake", "clutrr"):
        rows = rows_of(table, task, "train")
        site = find_site(model_and_tokenizer(table)[0])
        everywhere = [(layer, head) for layer in range(site.n_layers) for head in range(site.groups)]
        work: list[tuple[str, list[Head], str, float | None]] = [("step A", everywhere, "scale", 3.0)]
        while work:
            name, heads, kind, target = work.pop(0)
            seconds: dict[str, list[float]] = {"ours": [], "baseline": []}
            for _ in range(ROUNDS):
                config = LofitConfig(heads=heads, scale=kind == "scale", offset=kind == "offset", init_std=1e-3)
                opened = session(*model_and_tokenizer(table), rows)
                start = time.perf_counter()
                fitted = train(opened, config, TrainParams(lr=5e-3), name)
                seconds["ours"].append(time.perf_counter() - start)
                seconds["baseline"].append(by_the_authors(*model_and_tokenizer(table), rows, heads, kind))
            layer = min(layer for layer, _ in heads)
            what = f"{task}, whole fit of {name}, {len(heads)} heads from layer {layer} on, {len(rows)} texts, 5 epochs"
            found.append(Claim(what, "the authors' way (one epoch, times five)", seconds, target))
            print(found[-1].line(), flush=True)
            if kind == "scale":
                ranking = rank_heads(head_norms(fitted.model, which="scale"))
                pairs = list(zip(ranking["layer"], ranking["head"], strict=True))
                for share in (0.03, 0.10):
                    top = [(int(layer), int(head)) for layer, head in pairs[: round(share * len(pairs))]]
                    work.append((f"step V at {share:.0%}", top, "offset", 5.0))
    return found


if __name__ == "__main__":
    set_up()
    report("fit", claims())
