"""One DPO step on TruthfulQA's pairs, eight of them."""

from __future__ import annotations

from functools import partial

from peft import get_peft_model

from lofit.interventions import LofitConfig, find_site
from lofit.models.encoding import Row, encode_rows
from lofit.training.forward import Forward
from lofit.training.objectives import DpoObjective
from perf.baselines import naive_dpo_step
from perf.common import Claim, in_turn, inputs, model_and_tokenizer, report, rows_of, set_up

PAIRS, BETA, ROUNDS = 8, 0.5, 5


def our_step(objective: DpoObjective, forward: Forward, rows: list[Row]) -> float:
    """Loss and gradients as we compute them."""
    loss = objective.total(forward, rows) / len(rows)
    loss.backward()
    forward.model.zero_grad()
    return loss.item()


def claims() -> list[Claim]:
    """Step A, on all heads, and step V on heads of the top third."""
    table = inputs({"truthfulqa": None})
    found = []
    rows = rows_of(table, "truthfulqa", "train")[:PAIRS]
    for name in ("step A", "step V"):
        model, tokenizer = model_and_tokenizer(table)
        site, encoded = find_site(model), encode_rows(tokenizer, rows, "dpo", 512)
        layers = range(site.n_layers) if name == "step A" else range(2 * site.n_layers // 3, site.n_layers)
        heads = [(layer, head) for layer in layers for head in range(site.groups)]
        objective = DpoObjective(BETA)
        objective.prepare(Forward(model, encoded, 0), encoded, PAIRS)
        config = LofitConfig(heads=heads, scale=name == "step A", offset=name == "step V", init_std=0.0)
        tuned = get_peft_model(model, config)
        forward = Forward(tuned, encoded, 0)
        forward.keep_prefix(encoded, PAIRS, 1e10, 0)
        pairs = [(chosen, rejected) for chosen, rejected in encoded]
        work = {
            "ours": partial(our_step, objective, forward, encoded),
            "baseline": partial(naive_dpo_step, tuned, pairs, tokenizer.eos_token_id, BETA),
        }
        losses = [run() for run in work.values()]
        assert abs(losses[0] - losses[1]) < 1e-4, losses
        tokens = sum(forward.sizes(encoded))
        lengths = [len(text.ids) for pair in pairs for text in pair]
        found.append(
            Claim(
                f"TruthfulQA, DPO {name}, {len(heads)} heads from layer {layers[0]} on, {PAIRS} pairs",
                "chosen and rejected in full, reference at every step, all logits",
                in_turn(work, ROUNDS, warm_up=0),
                4.0,
                {"tokens": f"{tokens} against {max(lengths) * len(lengths)} padded"},
            )
        )
        del model, tuned
    return found


if __name__ == "__main__":
    set_up()
    report("dpo", claims())
