"""Findings say what the tests say, and no more."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from lofit.report.findings import found_in
from tests.unit.report.frames import plain, results, row, scored

N = 60


def draws(share: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(N) < share).astype(float).tolist()


def sentences(**runs: list[float] | None) -> list[str]:
    """What is found of one run for each method; LoFiT trains 1,728 parameters, others a hundred times as many."""
    lines, values = [], []
    for method, scores in runs.items():
        mean = None if scores is None else float(np.mean(scores))
        if method == "lofit":
            lines.append(row("clutrr", mean, trained_params=1728))
        else:
            lines.append(plain("clutrr", mean, method, trained_params=None if method in ("base", "iti") else 172_800))
        values.append(scores or [])
    frame = results(*lines)
    variants = ["lofit (8 heads)" if method == "lofit" else method for method in frame["method"]]
    [found] = found_in(
        frame.assign(variant=variants, x=np.nan), scored(*zip(lines, values, strict=True)), {"clutrr": "exact_match"}
    )
    assert (found.model, found.task) == ("tiny", "clutrr")
    return found.sentences


def test_what_is_far_apart_is_told_and_what_is_close_is_not() -> None:
    base, lofit, lora = draws(0.1, 1), draws(0.7, 2), draws(0.72, 3)
    found = sentences(base=base, iti=draws(0.12, 4), lofit=lofit, lora=lora)
    best, other = ("lofit (8 heads)", "lora") if np.mean(lofit) >= np.mean(lora) else ("lora", "lofit (8 heads)")
    assert found[0].startswith(f"{best} is highest, {100 * max(np.mean(lofit), np.mean(lora)):.1f} [")
    assert f"{N} clusters of test items, 1 seed); not significantly different from it: {other}." in found[0]
    assert found[1].startswith(f"Above the base model ({100 * np.mean(base):.1f} [")
    assert "iti" not in found[1]
    for method, scores in (("lofit (8 heads)", lofit), ("lora", lora)):
        gaps = np.subtract(scores, base)
        half = stats.t.ppf(0.975, N - 1) * gaps.std(ddof=1) / np.sqrt(N)
        low, high = 100 * (gaps.mean() - half), 100 * (gaps.mean() + half)
        assert f"{method} {100 * gaps.mean():+.1f} [{low:+.1f}, {high:+.1f}]" in found[1]
    assert found[2].startswith("Not significantly different from the base model: iti ")
    against = r"Against lofit \(8 heads\): lora \S+ \[\S+, \S+\] \(not significant\)"
    assert re.fullmatch(rf"{against}, with 100 times the trained parameters\.", found[3])
    assert len(found) == 4


def test_worse_than_base_and_failed_are_said() -> None:
    found = sentences(base=draws(0.8, 1), lofit=draws(0.2, 2), lora=None)
    assert found[0].startswith("base is highest, ")
    assert found[0].endswith("1 seed).")
    assert found[1].startswith("Below the base model: lofit (8 heads) -")
    assert found[2] == "Failed: lora."
    assert len(found) == 3


def test_a_difference_that_only_one_of_many_tests_would_tell_is_not_claimed() -> None:
    """p is below 5% alone, and above it once it is corrected for the other methods."""
    base = draws(0.5, 1)
    near, wrong = base.copy(), [at for at, score in enumerate(base) if not score]
    for at in wrong[:5]:
        near[at] = 1.0
    p = stats.ttest_rel(near, base).pvalue
    assert 0.05 / 3 < p < 0.05, "the case is the one that is meant"
    alone = sentences(base=base, lofit=near)
    assert alone[1].startswith("Above the base model")
    among = sentences(base=base, lofit=near, lora=draws(0.5, 8), red=draws(0.5, 9))
    assert not any(line.startswith("Above") for line in among)


def test_without_scores_nothing_is_found() -> None:
    frame = results(plain("clutrr", None)).assign(variant="lora", x=np.nan)
    assert found_in(frame, scored(), {"clutrr": "exact_match"}) == []


@pytest.mark.parametrize(
    ("factor", "text"), [(1, "as many"), (2.5, "2.5 times the"), (266.7, "267 times the"), (12_345, "12,345 times the")]
)
def test_ratios_of_parameters_are_rounded(factor: float, text: str) -> None:
    from lofit.report.findings import _times

    assert _times(factor) == text


def test_every_model_is_set_against_its_own_lofit() -> None:
    """Whose name has its number of heads."""
    lines, values = [], []
    for model, heads in (("small", 8), ("large", 102)):
        for number, (method, share) in enumerate((("lofit", 0.7), ("lora", 0.3))):
            scores = draws(share, heads + number)
            make = row if method == "lofit" else plain
            lines.append(make("clutrr", float(np.mean(scores)), method=method, model=model, trained_params=100 * heads))
            if method == "lofit":
                lines[-1]["n_heads"] = heads
            values.append(scores)
    frame = results(*lines)
    named = zip(frame["method"], frame["n_heads"], strict=True)
    variants = [method if method == "lora" else f"lofit ({heads} heads)" for method, heads in named]
    found = found_in(
        frame.assign(variant=variants, x=np.nan), scored(*zip(lines, values, strict=True)), {"clutrr": "exact_match"}
    )
    for finding, heads in zip(found, (8, 102), strict=True):
        assert finding.sentences[-1].startswith(f"Against lofit ({heads} heads): lora -")
        assert finding.sentences[-1].endswith("with as many trained parameters.")


def test_where_nothing_can_be_tested_nothing_is_claimed() -> None:
    """One item has no spread."""
    runs = [plain("clutrr", 0.0, "base"), plain("clutrr", 1.0)]
    frame = results(*runs).assign(variant=["base", "lora"], x=np.nan)
    [found] = found_in(frame, scored((runs[0], [0.0]), (runs[1], [1.0])), {"clutrr": "exact_match"})
    [sentence] = found.sentences
    assert sentence.startswith("lora is highest, 100.0% (exact_match, 1 cluster of test items, 1 seed); ")
    assert sentence.endswith("; not significantly different from it: base.")


def test_a_single_method_is_not_the_highest() -> None:
    scores = draws(0.5, 1)
    run = plain("clutrr", float(np.mean(scores)))
    frame = results(run).assign(variant="lora", x=np.nan)
    [found] = found_in(frame, scored((run, scores)), {"clutrr": "exact_match"})
    [sentence] = found.sentences
    assert sentence.startswith(f"lora: {100 * np.mean(scores):.1f} [")


def test_seeds_are_those_of_the_method_that_is_named() -> None:
    runs = [plain("clutrr", 0.9, "base")] + [plain("clutrr", 0.4, seed=seed) for seed in range(3)]
    values = [draws(0.9, 1), *(draws(0.4, 2 + seed) for seed in range(3))]
    frame = results(*runs).assign(variant=["base", "lora", "lora", "lora"], x=np.nan)
    [found] = found_in(frame, scored(*zip(runs, values, strict=True)), {"clutrr": "exact_match"})
    assert found.sentences[0].startswith("base is highest, 90.0 [")
    assert "clusters of test items, 1 seed)" in found.sentences[0]
