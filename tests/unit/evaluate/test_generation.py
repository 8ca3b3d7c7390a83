"""Our greedy generation gives the stock ``hf`` model's strings, whatever prompts share and whoever ends first."""

from __future__ import annotations

import functools
import string
import weakref
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lofit.evaluation import generation
from lofit.evaluation.lm import LocalizedLM
from lofit.interventions import LofitConfig, LoreftConfig
from tests.checkpoint import byte_tokenizer
from tests.tiny import FAMILIES, tiny_model

PREAMBLE = "Answer the question with care. "
PROMPTS = [
    *(f"{PREAMBLE}Q: Imagine that {fact}. {question}?\nA:" for fact in ("a is b", "cc is d") for question in "xyz"),
    *(f"{PREAMBLE}Q: {word}?\nA:" for word in ("who", "why", "what", "whatever it may be")),
    "Q:",
    "Q: short",
    "a quite different one that begins like no other",
    "Q:",
]
SIZES = {"vocab_size": 259, "max_position_embeddings": 256}
GREEDY = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}


def requests(prompts: list[str] = PROMPTS, **changes: Any) -> list[Instance]:
    given = {**GREEDY, **changes}
    return [Instance("generate_until", {}, (prompt, given), i) for i, prompt in enumerate(prompts)]


def lms(model: Any, batch_size: int = 4) -> tuple[LocalizedLM, HFLM]:
    given: dict[str, Any] = {"tokenizer": byte_tokenizer(), "batch_size": batch_size, "backend": "causal"}
    return LocalizedLM(pretrained=model, **given), HFLM(pretrained=model, **given)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of every call of our own generation."""
    seen: list[int] = []
    generate = generation.generate

    def counting(model: Any, prompts: Any, *args: Any) -> Any:
        seen.append(len(prompts))
        return generate(model, prompts, *args)

    monkeypatch.setattr("lofit.evaluation.lm.generate", counting)
    return seen


def test_keys_and_values_of_prompts_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer's are copied to where there is room for more, those of the layers before are gone."""
    given: list[weakref.ref[torch.Tensor]] = []

    class Watched(generation._PreallocatedLayer):
        def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int) -> None:
            assert not [known for known in given if known() is not None]
            super().__init__(keys, values, room)
            given.extend(map(weakref.ref, (keys, values)))

    monkeypatch.setattr(generation, "_PreallocatedLayer", Watched)
    ours, _ = lms(tiny_model("llama", **SIZES))
    ours.generate_until(requests(), disable_tqdm=True)
    assert len(given) > 4


@pytest.mark.parametrize("family", [*FAMILIES, "starcoder2"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_strings_are_those_of_the_stock_model(family: str, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stock = lms(tiny_model(family, **SIZES), batch_size)
    seen = calls(monkeypatch)
    found = ours.generate_until(requests(), disable_tqdm=True)
    assert found == stock.generate_until(requests(), disable_tqdm=True)
    assert seen == [len(set(PROMPTS))]
    assert len(set(found)) > 1


def test_the_tokenizers_end_ends_a_text_that_the_model_knows_no_end_of() -> None:
    """Training texts end with it, whatever the configuration of generation says."""
    model = tiny_model("llama", **SIZES)
    model.generation_config.eos_token_id = None
    [said] = lms(model)[1].generate_until(requests(PROMPTS[:1]))
    prompt = torch.tensor([byte_tokenizer()(PROMPTS[0])["input_ids"]])
    third = model.generate(prompt, max_new_tokens=3, do_sample=False)[0, -1]
    found = []
    for lm in lms(model):
        lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(int(third))
        found += lm.generate_until(requests(PROMPTS[:1]))
    assert found[0] == found[1] != said
    assert said.startswith(found[0])


def test_what_ends_early_leaves_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop strings that some of the continuations hold, and an end-of-sequence that others reach."""
    ours, stock = lms(tiny_model("llama", **SIZES))
    whole = stock.generate_until(requests(), disable_tqdm=True)
    # One letter after another, until most continuations end early; one stays whole.
    kept = max(whole, key=len)
    stops: list[str] = []
    for letter in sorted({letter for text in whole for letter in text if letter.isascii()} - set(kept)):
        if sum(any(stop in text[:-2] for stop in stops) for text in whole) < 0.75 * len(whole):
            stops.append(letter)
    sizes: list[int] = []
    forward = ours.model.forward

    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] == 1:
            sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    assert ours._can_pack
    monkeypatch.setattr(ours.model, "forward", watched)
    found = ours.generate_until(requests(until=stops), disable_tqdm=True)
    monkeypatch.undo()
    assert found == stock.generate_until(requests(until=stops), disable_tqdm=True)
    assert len({len(text) for text in found}) > 2
    assert sizes[-1] < sizes[0]
    letter, text = next((letter, text) for text in whole for letter in text[1:] if letter.isascii())
    ends = byte_tokenizer()(letter)["input_ids"][0]
    ours.model.generation_config.eos_token_id = [2, ends]
    found = ours.generate_until(requests(), disable_tqdm=True)
    assert found == stock.generate_until(requests(), disable_tqdm=True)
    assert found[whole.index(text)] == text[: text.index(letter) + 1]


@pytest.mark.parametrize("changes", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 2}])
def test_what_is_not_greedy_is_left_to_the_stock_code(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stock = lms(tiny_model("llama", **SIZES))
    seen = calls(monkeypatch)
    texts = []
    for lm in (ours, stock):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            texts.append(lm.generate_until(requests(**changes), disable_tqdm=True))
    assert texts[0] == texts[1]
    assert not seen


@pytest.mark.parametrize(("family", "changes"), [("bloom", {}), ("mistral", {"sliding_window": 24})])
def test_models_and_prompts_that_cannot_share_rows_are_left_to_the_stock_code(
    family: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, stock = lms(tiny_model(family, **{**SIZES, **changes}))
    seen = calls(monkeypatch)
    assert ours.generate_until(requests(), True) == stock.generate_until(requests(), True)
    assert not seen


@pytest.mark.parametrize(
    "config",
    [
        LofitConfig(heads=[(0, 1), (2, 3)], scale=True, offset=True, init_std=1.0),
        LofitConfig(heads=[(0, 1), (2, 3)], positions="answer", scale=False, offset=True, init_std=1.0),
        LoraConfig(init_lora_weights=False),
        LoreftConfig(rank=2, prefix=1, suffix=1),
    ],
    ids=["all", "answer", "lora", "loreft"],
)
def test_edits_act_where_they_act_in_the_stock_code(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(tiny_model("llama", **SIZES), config)
    ours, _ = lms(model)
    seen = calls(monkeypatch)
    found = ours.generate_until(requests(), disable_tqdm=True)
    assert bool(seen) == (not isinstance(config, LoreftConfig))
    monkeypatch.setattr(LocalizedLM, "_generates", lambda *args: False)
    assert ours.generate_until(requests(), disable_tqdm=True) == found
    if not isinstance(config, LoreftConfig):  # whose mild initial edit changes no token here
        with model.disable_adapter():
            assert ours.generate_until(requests(), disable_tqdm=True) != found


def test_shared_beginnings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = lms(tiny_model("llama", **SIZES))
    tokens: list[int] = []
    forward = ours.model.forward

    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        tokens.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    assert ours._can_pack
    monkeypatch.setattr(ours.model, "forward", watched)
    prompts = [f"{PREAMBLE}Q: Imagine that {a} is b. {b}?" for a in "abcdefgh" for b in "xyz"]
    ours.generate_until(requests(prompts, max_gen_toks=1), disable_tqdm=True)
    assert sum(tokens) < sum(map(len, prompts)) / 3


def test_a_blank_at_the_beginning_of_an_answer_stays() -> None:
    """Decoders of SentencePiece, as Llama-2's, strip the one where a text begins; an answer is no beginning."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "▁", *string.ascii_letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    lm = LocalizedLM(pretrained=tiny_model("llama", **SIZES), tokenizer=fast, backend="causal")
    ids = fast.encode(" Sweden")
    assert fast.decode(ids) == "Sweden"
    assert lm.tok_decode(ids) == lm.tok_decode(torch.tensor(ids)) == " Sweden"
    assert lm.tok_decode([]) == ""
    assert lm.tok_decode([*ids, 2]) == " Sweden"
