"""Packed scoring equals the stock ``hf`` model of lm-eval, whatever texts share and whatever the model is."""

from __future__ import annotations

from string import ascii_letters
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model

from lofit.evaluation import scoring
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.prefixes import LEAST_ROWS, by_prefix, shared_prefix
from lofit.evaluation.scoring import score_packed, score_rows
from lofit.interventions import LofitConfig
from lofit.models.encoding import Example
from lofit.packing import support
from lofit.packing.forward import answer_logits
from lofit.packing.rows import packed, unpacked
from lofit.packing.support import longest_packable, supports_packing
from lofit.packing.trie import Trie
from tests.checkpoint import byte_tokenizer
from tests.tiny import FAMILIES, tiny_model

PREAMBLE = "Answer the question with care. "
QUESTIONS = {
    f"{PREAMBLE}Q: {question}?\nA:": answers
    for question, answers in {
        "who": [" me", " no one", " me and you"],
        "a longer one": [" x"],
        "why": [" because", " be"],
        "where to": [" there", " here", " here and there", " h"],
        "b": [" c"],
        "bb": [" c", " d"],
        "w": [" d"],
        "when": [" now", " nowhere", " then"],
        "since when": [" now", " then"],
    }.items()
}
PAIRS = [(prompt, answer) for prompt, answers in QUESTIONS.items() for answer in answers]
# Winogrande's way: what is scored is what follows the choice, so one continuation has several contexts.
PAIRS += [("The cup did not fit because it", " was large"), ("The cup did not fit because", " was large")]
SIZES = {"vocab_size": 259, "max_position_embeddings": 256}


def lms(model: Any, batch_size: int = 4) -> tuple[LocalizedLM, HFLM]:
    given: dict[str, Any] = {"tokenizer": byte_tokenizer(), "batch_size": batch_size, "backend": "causal"}
    return LocalizedLM(pretrained=model, **given), HFLM(pretrained=model, **given)


def assert_equal_scores(ours: LocalizedLM, stock: HFLM, pairs: list[tuple[str, str]] = PAIRS) -> None:
    requests = [(pair, *stock._encode_pair(*pair)) for pair in pairs]
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    expected = stock._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of input tokens of every packed batch, rows and cached beginnings."""
    seen: list[int] = []

    def counting(*args: Any) -> Any:
        rows = packed(*args)
        seen.append(rows.input_ids.numel())
        return rows

    monkeypatch.setattr(scoring, "packed", counting)
    monkeypatch.setattr(support, "packed", counting)
    return seen


@pytest.mark.parametrize("family", [*FAMILIES, "starcoder2"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_the_stock_model(family: str, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stock = lms(tiny_model(family, **SIZES), batch_size)
    assert ours._can_pack
    tokens = counted(monkeypatch)
    assert_equal_scores(ours, stock)
    assert sum(tokens) < sum(len(prompt + answer) for prompt, answer in PAIRS) / 3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention_take_the_mask(attention: str) -> None:
    assert_equal_scores(*lms(tiny_model("llama", attn_implementation=attention, **SIZES)))


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "qwen2"])
def test_texts_longer_than_a_window_are_not_packed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in a packed row are further apart than in the text, so a window would cut what it must not."""
    model = tiny_model(
        family, sliding_window=24, **SIZES, **({"use_sliding_window": True} if family == "qwen2" else {})
    )
    ours, stock = lms(model)
    assert longest_packable(model) == 24
    tokens = counted(monkeypatch)
    assert_equal_scores(ours, stock)
    assert len(tokens) == 2  # the checks of the mask alone
    short = [("Q: a\nA:", " b"), ("Q: a\nA:", " c"), ("Q: bc\nA:", " d")]
    assert_equal_scores(ours, stock, short)
    assert len(tokens) == 3


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {}),
        ("falcon", {"alibi": True}),
        ("mamba", {"state_size": 4}),
        ("mpt", {"d_model": 32, "n_heads": 4}),
        ("gpt_neo", {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]]}),
    ],
)
def test_models_that_take_no_block_mask_are_left_to_the_stock_code(family: str, changes: dict[str, Any]) -> None:
    model = tiny_model(family, **{**SIZES, **changes})
    ours, stock = lms(model)
    assert longest_packable(model) == 0
    assert not ours._can_pack
    assert_equal_scores(ours, stock)


def disregard_block_masks(model: Any) -> None:
    forward = model.model.forward

    def plain(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].ndim == 4:
            kwargs["attention_mask"] = None
        return forward(*args, **kwargs)

    model.model.forward = plain


def test_a_model_that_disregards_the_mask_is_found_out() -> None:
    model = tiny_model("llama", **SIZES)
    assert supports_packing(model)
    disregard_block_masks(model)
    assert not supports_packing(model)
    assert_equal_scores(*lms(model))


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_too(dtype: torch.dtype, scale: float) -> None:
    """With small weights texts hardly change each other's scores: what a leak changes is less than 0.1 nats."""
    model = tiny_model("llama", **SIZES).to(dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    assert supports_packing(model)
    disregard_block_masks(model)
    assert not supports_packing(model)


def test_a_family_that_fails_on_a_block_mask_is_computed_text_by_text() -> None:
    model = tiny_model("openai-gpt", vocab_size=259, n_positions=512)  # takes a mask of two dimensions only
    assert longest_packable(model) > 0
    assert not supports_packing(model)
    assert_equal_scores(*lms(model))


def test_a_want_of_memory_is_no_answer() -> None:
    model = tiny_model("llama", **SIZES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.model, "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            supports_packing(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_at_answer_positions_act_there_and_nowhere_else(family: str) -> None:
    config = LofitConfig(heads=[(0, 1), (2, 3)], positions="answer", scale=True, offset=True, init_std=1.0)
    model = get_peft_model(tiny_model(family, **SIZES), config)
    ours, stock = lms(model)
    assert ours._can_pack
    requests = [(pair, *stock._encode_pair(*pair)) for pair in PAIRS]
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    for (_, context, answer), (score, _) in zip(requests, found, strict=True):
        rows = unpacked([Example(tuple(context + answer), len(context))], 0, torch.device("cpu"))
        with torch.no_grad():
            table = answer_logits(model, rows)[0].log_softmax(-1)
        assert score == pytest.approx(float(table[rows.column, rows.label].sum()), abs=1e-4)


def test_adapters_of_peft_are_seen() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(tiny_model("llama", **SIZES), LoraConfig(init_lora_weights=False))
    assert_equal_scores(*lms(model))


def test_half_precision_stays_within_its_rounding() -> None:
    ours, stock = lms(tiny_model("llama", **SIZES).to(torch.bfloat16))
    assert ours._can_pack
    requests = [(pair, *stock._encode_pair(*pair)) for pair in PAIRS]
    for (a, _), (b, _) in zip(ours._loglikelihood_tokens(requests), stock._loglikelihood_tokens(requests), strict=True):
        assert a == pytest.approx(b, rel=0.02)


def test_texts_too_long_for_the_model_are_cut_as_the_stock_model_cuts_them() -> None:
    ours, stock = lms(tiny_model("llama", vocab_size=259, max_position_embeddings=32))
    assert_equal_scores(ours, stock, [(f"{PREAMBLE * 2}Q:", " yes"), (f"{PREAMBLE * 2}Q:", " certainly")])


def test_equal_requests_get_equal_answers_and_the_cache_hears_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stock = lms(tiny_model("llama", **SIZES))
    requests = [(PAIRS[i], *stock._encode_pair(*PAIRS[i])) for i in (0, 1, 0)]
    heard: list[Any] = []
    monkeypatch.setattr(ours.cache_hook, "add_partial", lambda *args: heard.append(args))
    answers = ours._loglikelihood_tokens(requests)
    assert answers[0] == answers[2] != answers[1]
    assert heard == [("loglikelihood", PAIRS[i], answer) for i, answer in zip((0, 1, 0), answers, strict=True)]


def test_large_batches_are_divided_so_that_the_logits_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", **SIZES)
    rows = [[Example((3, i + 4, *range(10, 20), answer), 2) for answer in (5, 6)] for i in range(40)]
    whole = dict(score_packed(model, rows, 0, 64))
    monkeypatch.setattr(scoring, "MOST_SCORED", 100)
    sizes: list[int] = []

    def scorer(model: Any, groups: Any, *rest: Any) -> Any:
        sizes.append(packed([[Trie(texts)] for texts in groups], 0, model.device, model.dtype).width * len(groups))
        return score_rows(model, groups, *rest)

    divided = dict(score_packed(model, rows, 0, 64, scorer))
    assert max(sizes) <= 100 < 12 * 40
    for i, scores in whole.items():
        assert [s for s, _ in divided[i]] == pytest.approx([s for s, _ in scores], abs=1e-4)


TEXT = st.builds(
    lambda prompt, answer: Example((*prompt, *answer), len(prompt)),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_a_shared_prefix_ends_before_every_scored_token(texts: list[Example]) -> None:
    prefix = shared_prefix(texts)
    assert len({text.ids[:prefix] for text in texts}) == 1
    assert all(prefix < text.answer_start for text in texts)
    longer = {text.ids[: prefix + 1] for text in texts}
    assert len(longer) > 1 or any(prefix == text.answer_start - 1 for text in texts)


def test_rows_are_grouped_by_long_beginnings_only() -> None:
    first, second = tuple(range(100)), tuple(range(200, 240))
    rows = [[Example((*start, 1000 + i, 5, 6), len(start) + 2)] for start in (first, second) for i in range(LEAST_ROWS)]
    rows += [[Example((1, 2, 3 + i, 5), 3)] for i in range(20)] + [[Example((*range(50, 90), 7, 8, 9), 42)]]
    groups = by_prefix(rows)
    assert sorted(i for _, members in groups for i in members) == list(range(len(rows)))
    found = {frozenset(members): prefix for prefix, members in groups}
    assert found[frozenset(range(LEAST_ROWS))] == 100
    assert found[frozenset(range(LEAST_ROWS, 2 * LEAST_ROWS))] == 40
    assert found[frozenset(range(2 * LEAST_ROWS, len(rows)))] == 0


def test_choices_of_one_token_do_not_tie_in_half_precision() -> None:
    """In bfloat16, logits between 16 and 32 are 1/8 apart, so the stock model gives many choices the same score."""
    model = tiny_model("llama", **SIZES).to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(20 / model(torch.tensor([[5, 6, 7]])).logits.abs().max())
    ours, stock = lms(model)
    requests = [(pair, *stock._encode_pair(*pair)) for pair in (("Q: which?\nA:", letter) for letter in ascii_letters)]
    with torch.no_grad():
        found, rounded = (
            {score for score, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)} for lm in (ours, stock)
        )
    assert len(found) == len(ascii_letters) > len(rounded) + 5
