"""Contrast vectors against three separate passes that are steered layer by layer, without batch or padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from lofit.errors import TaskError
from lofit.evaluation.contrast import TRUTHFUL, UNTRUTHFUL, ContrastLM, with_instruction
from lofit.methods import load_method
from tests.by_hand import PROJECTIONS
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

TEXTS = [("Q: a\nA:", " yes."), ("Q: a\nA:", "4"), ("Q: longer one\nA:", " no, never."), ("Q: bc\nA:", " 4")]


def lm(family: str, alpha: float, batch_size: int = 2) -> ContrastLM:
    model = tiny_model(family, vocab_size=259, max_position_embeddings=256)
    return ContrastLM(
        alpha=alpha, layer_step=2, pretrained=model, tokenizer=byte_tokenizer(), batch_size=batch_size, backend="causal"
    )


def requests(scorer: HFLM) -> list[Any]:
    return [(text, *scorer._encode_pair(*text)) for text in TEXTS]


def steered_score(family: str, alpha: float, context: list[int], answer: list[int], texts: tuple[str, str]) -> float:
    """Sum of the answer's log-probabilities; each stream is a pass of its own, run as far as the next edited layer."""
    tokenizer = byte_tokenizer()
    streams = [context]
    for instruction in (TRUTHFUL, UNTRUTHFUL):
        streams.append(tokenizer(texts[0].removesuffix("\nA:") + instruction + "\nA:")["input_ids"])
    models = [tiny_model(family, vocab_size=259, max_position_embeddings=256) for _ in streams]
    layers = PROJECTIONS[family][0].split(".{}")[0]
    changes: dict[int, torch.Tensor] = {}
    m = len("\nA:") + len(answer) - 1  # from the cue on; the last token of the answer is no input
    logits = None
    for edited in (0, 2, None):
        # All passes start over with the changes found so far, and stop being of interest after the next edited layer.
        found: dict[int, Any] = {}
        for number, (model, prompt) in enumerate(zip(models, streams, strict=True)):
            handles = []
            for layer, change in changes.items():

                def add(module: Any, inputs: Any, output: Any, change: torch.Tensor = change) -> Any:
                    h = (output if isinstance(output, torch.Tensor) else output[0]).clone()
                    h[:, -m:] += change
                    return h if isinstance(output, torch.Tensor) else (h, *output[1:])

                handles.append(model.get_submodule(f"{layers}.{layer}").register_forward_hook(add))
            if edited is not None:

                def keep(
                    module: Any, inputs: Any, output: Any, number: int = number, into: dict[int, Any] = found
                ) -> None:
                    h = output if isinstance(output, torch.Tensor) else output[0]
                    into[number] = h[:, h.shape[1] - m :]

                handles.append(model.get_submodule(f"{layers}.{edited}").register_forward_hook(keep))
            with torch.no_grad():
                out = model(torch.tensor([prompt + answer[:-1]])).logits[0]
            logits = out if number == 0 else logits
            for handle in handles:
                handle.remove()
        if edited is not None:
            changes[edited] = alpha * (found[1] - found[2])
    assert logits is not None
    table = logits.log_softmax(-1)
    start = len(context) - 1
    return sum(float(table[start + i, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt2", "gpt_neox", "phi"])
def test_scores_equal_three_separate_steered_passes(family: str) -> None:
    scorer = lm(family, alpha=0.5)
    asked = requests(scorer)
    found = [score for score, _ in scorer._loglikelihood_tokens(asked)]
    expected = [steered_score(family, 0.5, context, answer, texts) for texts, context, answer in asked]
    assert found == pytest.approx(expected, abs=1e-3)
    plain = [steered_score(family, 0.0, context, answer, texts) for texts, context, answer in asked]
    assert any(abs(a - b) > 0.01 for a, b in zip(found, plain, strict=True))


def test_alpha_zero_is_the_stock_model() -> None:
    scorer = lm("llama", alpha=0.0)
    stock = HFLM(pretrained=scorer.model, tokenizer=byte_tokenizer(), batch_size=2, backend="causal")
    asked = requests(scorer)
    found, expected = scorer._loglikelihood_tokens(asked), stock._loglikelihood_tokens(asked)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_an_answer_of_one_token_is_steered() -> None:
    scores = []
    for alpha in (0.0, 0.5):
        scorer = lm("llama", alpha)
        ((score, _),) = scorer._loglikelihood_tokens([(TEXTS[1], *scorer._encode_pair(*TEXTS[1]))])
        scores.append(score)
    assert abs(scores[0] - scores[1]) > 0.01


def test_batches_do_not_matter() -> None:
    one, three = (lm("llama", 0.5, size) for size in (1, 3))
    left, right = (scorer._loglikelihood_tokens(requests(scorer)) for scorer in (one, three))
    assert [score for score, _ in left] == pytest.approx([score for score, _ in right], abs=1e-3)


def test_prompts_of_another_form_are_refused() -> None:
    assert with_instruction("Q: a?\nA:", TRUTHFUL) == "Q: a? Give a truthful answer.\nA:"
    with pytest.raises(TaskError, match="prompts that end with"):
        with_instruction("Q: a? A:", TRUTHFUL)


def test_the_method_is_for_truthfulqa_and_needs_no_fit() -> None:
    method = load_method("repe_contrast")
    assert (method.tasks, method.fit, method.foldable) == (("truthfulqa",), None, False)
    assert method.scorer is not None
    made = method.scorer(
        method.Params(alpha=0.1),
        pretrained=tiny_model("llama", vocab_size=259),
        tokenizer=byte_tokenizer(),
        batch_size=1,
    )
    assert isinstance(made, ContrastLM)
