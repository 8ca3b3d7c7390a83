"""The ids that a model is trained on are those that it is scored on, whatever the tokenizer does around a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lofit.activations.last_token import encode_texts
from lofit.errors import FitError
from lofit.evaluation.finite import CheckedLM
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.text import _windows as windows_of
from lofit.models.encoding import encode, encode_rows, token_ids
from tests.tiny import tiny_model

SPECIAL = ["<pad>", "<s>", "</s>"]
CORPUS = [
    "Q: Who saw the cat? A: Bob saw it.",
    "Is 7 a prime number, yes or no?\nyes",
    "naïve café: “quoted”",
    "  two  blanks",
]
TEXTS = [
    ("Q: Who saw it?\nA:", " Bob"),
    ("Is 7 a prime number?", " yes"),
    ("naïve café:", " “quoted” é"),
    ("ends with a blank ", "yes"),
    ("ends with a line break\n", "no"),
    ("glued A:", "Bob"),
    ("<s>user: Who?</s>\nassistant:", " Bob"),
    ("<s> <s>twice", " and </s> within"),
]


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(special_tokens=SPECIAL, vocab_size=300, initial_alphabet=alphabet))


def sentencepiece_like(model: str = "unigram", prepend: str = "always") -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram() if model == "unigram" else models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    names = [*SPECIAL, "<unk>"]
    if model == "unigram":
        return trained(tokenizer, trainers.UnigramTrainer(special_tokens=names, unk_token="<unk>", vocab_size=80))
    return trained(tokenizer, trainers.BpeTrainer(special_tokens=names, vocab_size=200))


def lower_case_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer(special_tokens=[*SPECIAL, "<unk>"], vocab_size=120))


def with_added_tokens() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|user|>", special=True)])
    tokenizer.add_tokens([AddedToken("Bob saw", lstrip=True, rstrip=True)])
    return tokenizer


TEMPLATES = {"plain": None, "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}
MADE: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, prefix space": lambda: byte_level(prefix_space=True),
    "unigram": sentencepiece_like,
    "unigram, first word only": lambda: sentencepiece_like(prepend="first"),
    "bpe with byte fallback": lambda: sentencepiece_like("bpe"),
    "uncased words": lower_case_words,
    "added tokens": with_added_tokens,
}


def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerFast:
    tokenizer = MADE[kind]()
    if pattern := TEMPLATES[template]:
        ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>") if name in pattern]
        tokenizer.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


CASES = [(kind, template) for kind in MADE for template in TEMPLATES]


def scorer(tokenizer: PreTrainedTokenizerFast, kind: type[CheckedLM] = LocalizedLM) -> CheckedLM:
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    return kind(pretrained=model, tokenizer=tokenizer, batch_size=2, backend="causal")


def trained_on(tokenizer: PreTrainedTokenizerFast, texts: Iterable[tuple[str, str]]) -> list[Any]:
    rows = [{"id": str(i), "prompt": prompt, "target": answer} for i, (prompt, answer) in enumerate(texts)]
    return [text for (text,) in encode_rows(tokenizer, rows, "sft", 512)]


@pytest.mark.parametrize(("kind", "template"), CASES, ids=[f"{kind}-{template}" for kind, template in CASES])
def test_training_activations_and_evaluation_read_the_same_ids(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind, template)
    lm, examples = scorer(tokenizer), trained_on(tokenizer, TEXTS)
    session: Any = SimpleNamespace(tokenizer=tokenizer, window=None, vocabulary=len(tokenizer))
    captured = encode_texts(session, pd.DataFrame(TEXTS, columns=["prompt", "answer"]))
    assert captured == examples
    for (prompt, answer), example in zip(TEXTS, examples, strict=True):
        assert example.ids[-1] == tokenizer.eos_token_id
        context, continuation = lm._encode_pair(prompt, answer)
        assert (*context, *continuation) == example.ids[:-1]
        assert len(context) == example.answer_start
        # What is scored spells the answer, and nothing that the tokenizer added.
        assert tokenizer.eos_token_id not in continuation or "</s>" in answer
        begins = [tokenizer.bos_token_id] if template in ("bos", "both") or prompt.startswith("<s>") else []
        written = prompt.count("<s>")
        assert context[: len(begins)] == begins
        assert context.count(tokenizer.bos_token_id) == max(len(begins), written)


@pytest.mark.parametrize(("kind", "template"), CASES, ids=[f"{kind}-{template}" for kind, template in CASES])
def test_generation_begins_after_the_prompt(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind, template)
    lm, prompts = scorer(tokenizer, CheckedLM), [prompt for prompt, _ in TEXTS]
    ids, mask = lm.tok_batch_encode(prompts)
    for row, kept, prompt in zip(ids, mask, prompts, strict=True):
        assert row[kept.bool()].tolist() == lm.tok_encode(prompt) == token_ids(tokenizer, prompt)[0]
        assert row[-1] != tokenizer.eos_token_id
        assert kept.tolist() == sorted(kept.tolist()), "padded on the left"
    cut, kept = lm.tok_batch_encode(prompts, left_truncate_len=3)
    assert [row[on.bool()].tolist() for row, on in zip(cut, kept, strict=True)] == [
        lm.tok_encode(p)[-3:] for p in prompts
    ]


@given(prompt=st.text(min_size=1, max_size=20), answer=st.text(min_size=1, max_size=10))
def test_any_text_is_read_as_in_training(prompt: str, answer: str) -> None:
    for tokenizer, lm in ANY:
        try:
            example = encode(tokenizer, prompt, answer)
        except FitError:
            with pytest.raises(FitError):
                lm._encode_pair(prompt, answer)
            continue
        context, continuation = lm._encode_pair(prompt, answer)
        assert ((*context, *continuation), len(context)) == (example.ids[:-1], example.answer_start)


ANY = [(made, scorer(made)) for made in (tokenizer_of("byte-level", "both"), tokenizer_of("unigram", "eos"))]


def test_without_a_quirk_of_the_tokenizer_the_encoding_is_lm_evals() -> None:
    for template in ("plain", "bos"):
        tokenizer = tokenizer_of("byte-level", template)
        ours = scorer(tokenizer)
        stock = HFLM(pretrained=ours.model, tokenizer=tokenizer, batch_size=2, backend="causal")
        for prompt, answer in TEXTS[:3]:
            assert ours._encode_pair(prompt, answer) == stock._encode_pair(prompt, answer)
            assert ours.tok_encode(prompt) == stock.tok_encode(prompt)


def test_a_token_that_the_embedding_lacks_is_one_line() -> None:
    tokenizer = tokenizer_of("added tokens", "plain")
    lm = scorer(tokenizer)
    lm.vocabulary = tokenizer.convert_tokens_to_ids("<|user|>")
    assert lm.tok_encode("Q: Who?")
    for read in (lambda: lm.tok_encode("<|user|> Who?"), lambda: lm._encode_pair("<|user|> Who?", " Bob")):
        with pytest.raises(FitError, match=r"has no row in the model's embedding, which has \d+; resize"):
            read()
    row = {"id": "a", "prompt": "<|user|> Who?", "target": " Bob"}
    with pytest.raises(FitError, match=r"row 'a': token .* has no row"):
        encode_rows(tokenizer, [row], "sft", 512, vocabulary=lm.vocabulary)


def test_padding_beyond_the_embedding_is_not_fed_to_the_model() -> None:
    tokenizer = tokenizer_of("byte-level", "plain")
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= model.get_input_embeddings().weight.shape[0]
    for kind in (CheckedLM, LocalizedLM):
        lm = kind(pretrained=model, tokenizer=tokenizer, batch_size=2, backend="causal")
        settings = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
        asked: Any = [
            dataclasses.make_dataclass("Asked", ["args"])((prompt, settings)) for prompt in ("Q: a", "Is it so?")
        ]
        assert len(lm.generate_until(asked, disable_tqdm=True)) == 2
        pair = ("Q: a", " b")
        assert len(lm._loglikelihood_tokens([(pair, *lm._encode_pair(*pair))], disable_tqdm=True)) == 1


def test_windows_of_plain_text_begin_once() -> None:
    tokenizer = tokenizer_of("byte-level", "both")
    for text in ("Hello there", "<s>Hello there"):
        [window] = windows_of(tokenizer, text)
        assert window == token_ids(tokenizer, text)[0]
        assert window.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_without_tokens_for_a_text_is_one_line() -> None:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "yes": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    assert encode(tokenizer, "yes", " yes").ids == (3, 3, 2)
    with pytest.raises(FitError, match="cannot encode 'What"):
        encode(tokenizer, "What?", " yes")
