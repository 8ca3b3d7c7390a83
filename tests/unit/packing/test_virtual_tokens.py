"""Prompt learning gives what the base model gives on explicit embeddings, or keys and values, in front of one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import DynamicCache

from lofit.errors import EditError, FitError
from lofit.evaluation.backends import model_class
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.text import score_text
from lofit.interventions import export_merged, parameter_counts
from lofit.interventions.prompt import virtual_tokens
from lofit.models.adapters import load_adapter
from lofit.models.encoding import Example
from lofit.packing.forward import answer_log_probs
from lofit.packing.rows import unpacked
from lofit.packing.support import longest_packable, supports_packing
from lofit.spec.hyperparameters import ComputeParams, TrainParams
from lofit.training.forward import Forward
from lofit.training.trainer import train, wrap
from tests.checkpoint import byte_tokenizer
from tests.sessions import session
from tests.tiny import tiny_model
from tests.unit.evaluate.test_scoring import disregard_block_masks

N = 5
KINDS: dict[str, Any] = {
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N),
    "words": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N, prompt_tuning_init="SAMPLE_VOCAB"),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N),
    "projected": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N, prefix_projection=True),
    "p": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=N),
    "lstm": lambda: PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=N, encoder_reparameterization_type="LSTM"
    ),
}
EVERY = pytest.mark.parametrize("kind", KINDS)
IN_FAMILIES = pytest.mark.parametrize(
    ("kind", "family"),
    [
        *((kind, "llama") for kind in KINDS),
        *((kind, family) for kind in ("words", "prefix", "p") for family in ("gpt2", "gemma", "qwen2")),
        ("words", "gemma3_text"),  # whose embedding scales, and half of whose layers have a window
        ("prefix", "gemma3_text"),
    ],
)
PREAMBLE = "Answer the question with care, in a word or two. "
PAIRS = [
    (f"{PREAMBLE}Q: {question}?\nA:", answer)
    for question in ("who", "a longer one, which is longer than the others", "why", "when", "where to", "b", "cc")
    for answer in (" me", " no one", " me and you")
] + [("Q:", " x"), ("a quite different one", " y")]
TEXTS = [
    Example((5, 6, 7, 8, 9, 2), 4),
    Example((11, 12, 2), 1),
    Example((5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 2), 10),
]


def made(kind: str, family: str = "llama", seed: int = 3, **sizes: Any) -> Any:
    return wrap(session(family, {"max_position_embeddings": 256, **sizes}, seed=seed), KINDS[kind]())


def base_of(family: str = "llama", **sizes: Any) -> Any:
    return tiny_model(family, **{"vocab_size": 259, "max_position_embeddings": 256, **sizes})


def by_hand(base: Any, stored: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Logits [length, vocabulary] of one text behind what an adapter file holds."""
    tokens, width = torch.tensor([ids]), base.get_input_embeddings().weight.shape[1]
    if stored.shape[1] == width:
        whole = torch.cat([stored[None], base.get_input_embeddings()(tokens)], 1)
        return base(inputs_embeds=whole).logits[0, N:]
    config, cache = base.config, DynamicCache()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        pair = (stored[:, at].unflatten(-1, (heads, -1)).transpose(0, 1)[None] for at in _places(stored, base, layer))
        cache.update(*pair, layer)
    return base(tokens, past_key_values=cache, position_ids=torch.arange(N, N + len(ids))[None]).logits[0]


def _places(stored: torch.Tensor, base: Any, layer: int) -> tuple[slice, slice]:
    """Where the keys and the values of a layer are in a row of the file."""
    width = stored.shape[1] // (2 * base.config.num_hidden_layers)
    return slice(2 * layer * width, (2 * layer + 1) * width), slice((2 * layer + 1) * width, (2 * layer + 2) * width)


def stored_by(model: Any, folder: Path) -> torch.Tensor:
    model.save_pretrained(folder)
    (stored,) = load_file(folder / "adapter_model.safetensors").values()
    return stored


def log_probs_by_hand(base: Any, stored: torch.Tensor, text: Example) -> torch.Tensor:
    log_probs = by_hand(base, stored, list(text.ids[:-1])).log_softmax(-1)
    at = torch.arange(text.answer_start, len(text.ids))
    return log_probs[at - 1, torch.tensor(text.ids)[at]]


def lm(model: Any, batch_size: int = 4) -> LocalizedLM:
    return LocalizedLM(pretrained=model, tokenizer=byte_tokenizer(), batch_size=batch_size, backend="causal")


def scores(scorer: LocalizedLM, pairs: list[tuple[str, str]] = PAIRS) -> list[tuple[float, bool]]:
    return scorer._loglikelihood_tokens([(pair, *scorer._encode_pair(*pair)) for pair in pairs])


def asked(prompts: list[str], **changes: Any) -> list[Instance]:
    given = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False} | changes
    return [Instance("generate_until", {}, (prompt, given), i) for i, prompt in enumerate(prompts)]


@torch.no_grad()
@IN_FAMILIES
def test_every_way_of_scoring_is_the_base_model_behind_the_stored_values(
    kind: str, family: str, tmp_path: Path
) -> None:
    model, base = made(kind, family), base_of(family)
    stored, ids = stored_by(model, tmp_path), [*TEXTS[0].ids]
    # One text without padding: so PEFT itself has it.
    assert_close(model(torch.tensor([ids])).logits[0, -len(ids) :], by_hand(base, stored, ids), rtol=1e-4, atol=1e-4)
    expected = [log_probs_by_hand(base, stored, text) for text in TEXTS]
    device = torch.device("cpu")
    alone = [answer_log_probs(model, unpacked([text], 0, device)) for text in TEXTS]
    assert_close(alone, expected, rtol=1e-4, atol=1e-4)
    padded = answer_log_probs(model, unpacked(TEXTS, 0, device))
    assert_close(padded, torch.cat(expected), rtol=1e-4, atol=1e-4)
    rows = [(text,) for text in TEXTS]
    forward = Forward(model, rows, 0)
    assert forward.packs
    totals = torch.stack([part.sum() for part in expected])
    assert_close(forward.log_probs(rows)[:, 0], totals, rtol=1e-4, atol=1e-4)
    assert_close(forward.log_probs([(TEXTS[0], TEXTS[2])])[0], totals[[0, 2]], rtol=1e-4, atol=1e-4)  # begin alike
    # Scored by lm-eval's class: rows of several answers, and a preamble that is read once.
    tokenizer, read = byte_tokenizer(), load_adapter(base_of(family), tmp_path)
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in PAIRS]
    texts = [Example((*a, *tokenizer(b)["input_ids"]), len(a)) for a, (_, b) in zip(prompts, PAIRS, strict=True)]
    sums = [float(log_probs_by_hand(base, stored, text).sum()) for text in texts]
    for scorer in (lm(model), lm(read), lm(read, 1)):
        assert [score for score, _ in scores(scorer)] == pytest.approx(sums, abs=1e-3)
    with model.disable_adapter():
        assert scores(lm(model)) == scores(lm(base))
    assert [score for score, _ in scores(lm(base))] != pytest.approx(sums, abs=0.1)


@torch.no_grad()
@IN_FAMILIES
def test_generation_is_the_loop_by_hand(kind: str, family: str, tmp_path: Path) -> None:
    model, base, tokenizer = made(kind, family), base_of(family), byte_tokenizer()
    stored = stored_by(model, tmp_path)
    prompts, expected = list(dict.fromkeys(prompt for prompt, _ in PAIRS)), []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        start = len(ids)
        while len(ids) < start + 8 and not (len(ids) > start and ids[-1] == tokenizer.eos_token_id):
            ids.append(int(by_hand(base, stored, ids)[-1].argmax()))
        expected.append(tokenizer.decode(ids[start:], skip_special_tokens=True).split("\n")[0])
    assert len(set(expected)) > 1
    for batch_size in (1, 3):
        assert lm(model, batch_size).generate_until(asked(prompts), True) == expected
    with model.disable_adapter():
        assert lm(model).generate_until(asked(prompts), True) == lm(base).generate_until(asked(prompts), True)


@EVERY
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_those_of_the_explicit_forward_pass(kind: str, family: str) -> None:
    model = made(kind, family)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("prompt_encoder" in name for name in trained)
    encoder, base = model.prompt_encoder["default"], base_of(family)
    rows = [(text,) for text in TEXTS]
    found = torch.autograd.grad(Forward(model, rows, 0).log_probs(rows).sum(), list(trained.values()))
    total = sum(log_probs_by_hand(base, encoder(torch.arange(N)[None])[0], text).sum() for text in TEXTS)
    expected = torch.autograd.grad(total, list(trained.values()))
    assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert any(part.any() for part in found)


@EVERY
def test_initial_values_are_of_the_seed_alone(kind: str) -> None:
    drawn = []
    for around, seed in ((0, 3), (1, 3), (1, 4)):
        with torch.random.fork_rng():
            torch.manual_seed(around)
            drawn.append([p.detach() for p in made(kind, seed=seed).prompt_encoder.parameters()])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not all(map(torch.equal, drawn[0], drawn[2]))


@pytest.mark.parametrize("compute", [{"micro_batch": 2}, {"compile": True, "checkpointing": True}], ids=str)
@EVERY
def test_economies_of_memory_change_nothing(kind: str, compute: dict[str, Any]) -> None:
    losses = []
    for options in (ComputeParams(), ComputeParams(**compute)):
        # Attention of this kind does not pass over keys that a layer would find twice in its cache.
        opened = session(overrides={"attn_implementation": "eager"}, compute=options)
        fitted = train(opened, KINDS[kind](), TrainParams(lr=1e-2, epochs=2, batch_size=4), "t")
        losses.append(fitted.record["train_loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_texts_fit_beside_the_virtual_tokens_or_are_refused(kind: str, family: str, tmp_path: Path) -> None:
    """Never cut: other methods would read all of them."""
    reads = 64
    model, base = made(kind, family, max_position_embeddings=reads), base_of(family, max_position_embeddings=reads)
    stored, scorer = stored_by(model, tmp_path), lm(model)
    most = reads + 1 - N  # the last token is only predicted
    assert longest_packable(model) == most
    text = Example(tuple(range(3, 3 + most)), most - 2)
    [(score, _)] = scorer._loglikelihood_tokens([(None, list(text.ids[:-2]), list(text.ids[-2:]))])
    assert score == pytest.approx(float(log_probs_by_hand(base, stored, text).sum()), abs=1e-3)
    message = f"has {most + 1} tokens, and {most} fit beside the 5 virtual tokens"
    with pytest.raises(FitError, match=message):
        scorer._loglikelihood_tokens([(None, list(range(3, 3 + most)), [7])])
    with pytest.raises(FitError, match=message):
        Forward(model, [(Example(tuple(range(3, 4 + most)), 9),)], 0)
    prompt = "x" * (most - 8)
    assert len(scorer.generate_until(asked([prompt]), True)) == 1
    with pytest.raises(FitError, match=message):
        scorer.generate_until(asked([prompt, prompt + "y"]), True)
    row = {"id": "a", "text": "x" * (reads - N)}
    assert score_text(model, None, byte_tokenizer(), [row], "plain")[0]["n_items"] == 1
    with pytest.raises(FitError, match=f"has {reads - N + 1} tokens and the model reads {reads - N}"):
        score_text(model, None, byte_tokenizer(), [row | {"text": "x" * (reads - N + 1)}], "plain")


@torch.no_grad()
@EVERY
def test_disturbance_is_measured_behind_them(kind: str, tmp_path: Path) -> None:
    model, base, ids = made(kind), base_of(), byte_tokenizer()("The quick brown fox.")["input_ids"]
    fitted = by_hand(base, stored_by(model, tmp_path), ids)[:-1].double().log_softmax(-1)
    reference = base(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    [sample] = score_text(model, None, byte_tokenizer(), [{"id": "a", "text": "The quick brown fox."}], "plain")[1]
    assert sample["kl"] == pytest.approx(float((reference.exp() * (reference - fitted)).sum(-1).mean()), rel=1e-3)
    entropy = -fitted.gather(-1, torch.tensor(ids[1:])[:, None]).mean()
    assert sample["cross_entropy"] == pytest.approx(float(entropy), rel=1e-4)


def test_what_would_depend_on_padding_is_refused(tmp_path: Path) -> None:
    model = made("prompt")
    with pytest.raises(EditError, match=r"virtual tokens need .* and greedy decoding; choose another method or model"):
        lm(model).generate_until(asked(["Q:"], do_sample=True, temperature=0.7), True)
    with pytest.raises(EditError, match="virtual tokens need a model that takes a block mask"):
        Forward(made("prompt", "bloom"), [(TEXTS[0],)], 0)
    with pytest.raises(EditError, match=r"virtual tokens need .* keys and values in front of a text"):
        Forward(made("prefix", "falcon", multi_query=True), [(TEXTS[0],)], 0)  # PEFT gives a head too many
    with pytest.raises(FitError, match="and 19 fit beside the 5 virtual tokens"):
        scores(lm(made("prompt", "mistral", sliding_window=24)))
    with model_class("hf") as stock, pytest.raises(EditError, match="pads between virtual tokens and prompt"):
        stock(pretrained=model, tokenizer=byte_tokenizer())
    with pytest.raises(EditError, match=r"cannot be merged \(virtual tokens are not part of its weights\); keep it"):
        export_merged(model, tmp_path / "out")


@pytest.mark.parametrize(("kind", "family"), [("words", "gemma3_text"), ("prompt", "gemma"), ("prefix", "llama")])
def test_that_a_mask_holds_in_half_precision_is_seen_through_them(kind: str, family: str) -> None:
    """What a leak changes is less behind many tokens, and rounding is not."""
    opened = session(family, {"max_position_embeddings": 256})
    opened.model.to(torch.bfloat16)
    config = KINDS[kind]()
    config.num_virtual_tokens = 50
    model = wrap(opened, config)
    forward = Forward(model, [(text,) for text in TEXTS], 0)
    assert forward.packs
    assert forward.log_probs([(TEXTS[0],)]).isfinite().all()
    disregard_block_masks(model.get_base_model())
    assert not supports_packing(model)


def test_their_number() -> None:
    model, values = made("prefix"), N * 3 * 2 * 16
    assert virtual_tokens(model) == N
    assert parameter_counts(model) == {"trained": values, "stored": values, "inference": values}
    assert virtual_tokens(base_of()) == 0
    with model.disable_adapter():
        assert virtual_tokens(model) == 0
