"""Contrast vectors against three separate passes that are steered layer by layer, without batch, padding or cache."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lofit import methods
from lofit.config.recipes import resolve
from lofit.errors import EditError, TaskError
from lofit.evaluation import generation
from lofit.evaluation.contrast import ContrastLM, cue_start, layer_indices
from lofit.evaluation.harness import evaluate
from lofit.evaluation.lm import LocalizedLM
from lofit.files import write_jsonl
from lofit.methods import load_method
from lofit.sources.fetcher import Fetcher
from lofit.tasks import load_task
from tests.by_hand import PROJECTIONS
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

TEXTS = [("Q: a\nA:", " yes."), ("Q: a\nA:", "4"), ("Q: longer one\nA:", " no, never."), ("Q: bc\nA:", " 4")]
POSITIVE, NEGATIVE = " Be right.", " Be wrong, please."
# Prompts with their cues, of different lengths.
PROMPTS = {
    "Q: Imagine that a is b. What is a? A:": " A:",
    "Q: Imagine that the king of somewhere is Ann. Who is the king there? A:": " A:",
    "Q: a question\nA:": "\nA:",
    'A story. "Al met his son, Bob." How is Bob related to Al? Answer: Bob is Al \'s\n': " Answer: Bob is Al 's\n",
    "how is B related to A? Answer: B is A 's\n": " Answer: B is A 's\n",
    " A:": " A:",
}
GENERATED = 10


def lm(family: str, alpha: float, batch_size: int = 2, layers: Any = None, **changes: Any) -> ContrastLM:
    model = tiny_model(family, **{"vocab_size": 259, "max_position_embeddings": 256, **changes})
    return ContrastLM(
        alpha=alpha,
        layers=layers,
        layer_step=2,
        positive=POSITIVE,
        negative=NEGATIVE,
        cues=("\nA:", " A:", " Answer:"),
        pretrained=model,
        tokenizer=byte_tokenizer(),
        batch_size=batch_size,
        backend="causal",
    )


def requests(scorer: HFLM) -> list[Any]:
    return [(text, *scorer._encode_pair(*text)) for text in TEXTS]


def asked(**changes: Any) -> list[Instance]:
    given = {"until": [], "max_gen_toks": GENERATED, "do_sample": False, **changes}
    return [Instance("generate_until", {}, (prompt, given), i) for i, prompt in enumerate(PROMPTS)]


@functools.cache
def reference_model(family: str) -> Any:
    return tiny_model(family, vocab_size=259, max_position_embeddings=256)


def three(prompt: str, cue: str) -> list[list[int]]:
    """Token ids of the plain, the positive and the negative stream of a prompt that ends with ``cue``."""
    before = prompt.removesuffix(cue)
    return [byte_tokenizer()(before + words + cue)["input_ids"] for words in ("", POSITIVE, NEGATIVE)]


@torch.no_grad()
def steered_logits(
    family: str, alpha: float, layers: Sequence[int], streams: Sequence[Sequence[int]], m: int
) -> torch.Tensor:
    """Logits of the plain stream; the last ``m`` tokens are steered.

    Each stream is a pass of its own. All passes start over for each edited layer, with the changes found so far.
    """
    model = reference_model(family)
    path = PROJECTIONS[family][0].split(".{}")[0]
    changes: dict[int, torch.Tensor] = {}

    def run(ids: Sequence[int], watched: int | None) -> Any:
        seen: list[torch.Tensor] = []

        def hook(layer: int) -> Any:
            def change(module: Any, inputs: Any, output: Any) -> Any:
                h = (output if isinstance(output, torch.Tensor) else output[0]).clone()
                if layer == watched:
                    seen.append(h[0, len(ids) - m :])
                if layer in changes:
                    h[0, len(ids) - m :] += changes[layer]
                return h if isinstance(output, torch.Tensor) else (h, *output[1:])

            return change

        handles = [model.get_submodule(f"{path}.{layer}").register_forward_hook(hook(layer)) for layer in layers]
        logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        return logits if watched is None else seen[0]

    for layer in layers:
        changes[layer] = alpha * (run(streams[1], layer) - run(streams[2], layer))
    return run(streams[0], None)


def steered_score(family: str, alpha: float, texts: tuple[str, str]) -> float:
    """Sum of the log-probabilities of an answer."""
    answer = byte_tokenizer()(texts[1])["input_ids"]
    streams = [ids + answer[:-1] for ids in three(texts[0], "\nA:")]  # the answer's last token is no input
    table = steered_logits(family, alpha, (0, 2), streams, len("\nA:") + len(answer) - 1).log_softmax(-1)
    return sum(float(table[i - len(answer), token]) for i, token in enumerate(answer))


def steered_tokens(family: str, alpha: float, layers: Sequence[int], prompt: str, cue: str) -> list[int]:
    """Greedy continuation, of at most ``GENERATED`` tokens, up to the end-of-sequence."""
    streams, found = three(prompt, cue), list[int]()
    while len(found) < GENERATED and (not found or found[-1] != byte_tokenizer().eos_token_id):
        token = int(steered_logits(family, alpha, layers, streams, len(cue) + len(found))[-1].argmax())
        found.append(token)
        streams = [[*stream, token] for stream in streams]
    return found


def steered_texts(family: str, alpha: float, layers: Sequence[int]) -> list[str]:
    tokens = [steered_tokens(family, alpha, layers, prompt, cue) for prompt, cue in PROMPTS.items()]
    return [byte_tokenizer().decode(ids, skip_special_tokens=True) for ids in tokens]


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt2", "gpt_neox", "phi"])
def test_scores_equal_three_separate_steered_passes(family: str) -> None:
    scorer = lm(family, alpha=0.5)
    found = [score for score, _ in scorer._loglikelihood_tokens(requests(scorer))]
    assert found == pytest.approx([steered_score(family, 0.5, texts) for texts in TEXTS], abs=1e-3)
    plain = [steered_score(family, 0.0, texts) for texts in TEXTS]
    assert any(abs(a - b) > 0.01 for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt2", "gpt_neox", "phi", "gemma3_text"])
@pytest.mark.parametrize(("layers", "indices"), [(None, (0, 2)), ([0.5], (1,))], ids=["every-second", "middle"])
def test_generated_texts_are_those_of_three_separate_steered_passes(family: str, layers: Any, indices: Any) -> None:
    expected = steered_texts(family, 1.5, indices)
    for batch_size in (1, 4):
        assert lm(family, 1.5, batch_size, layers).generate_until(asked(), disable_tqdm=True) == expected
    assert expected != lm(family, 0.0).generate_until(asked(), disable_tqdm=True)


def test_texts_end_at_stop_strings_and_those_that_ended_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = steered_texts("llama", 1.5, (0, 2))
    kept = max(whole, key=len)
    stops = sorted({letter for text in whole for letter in text[1:-2] if letter.isascii()} - set(kept))
    expected = [
        text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))] for text in whole
    ]
    assert sum(len(text) < len(before) for text, before in zip(expected, whole, strict=True)) > 1
    sizes: list[int] = []
    keep = generation._PreallocatedLayer.keep

    def counted(layer: Any, rows: torch.Tensor) -> None:
        sizes.append(len(rows))
        keep(layer, rows)

    monkeypatch.setattr(generation._PreallocatedLayer, "keep", counted)
    assert lm("llama", 1.5, len(PROMPTS)).generate_until(asked(until=stops), disable_tqdm=True) == expected
    assert sizes
    assert all(size % 3 == 0 for size in sizes)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_alpha_zero_is_the_stock_model(family: str) -> None:
    scorer = lm(family, alpha=0.0)
    given: dict[str, Any] = {"tokenizer": byte_tokenizer(), "batch_size": 2, "backend": "causal"}
    for other in (LocalizedLM(pretrained=scorer.model, **given), HFLM(pretrained=scorer.model, **given)):
        found, expected = (model._loglikelihood_tokens(requests(scorer)) for model in (scorer, other))
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)
        assert scorer.generate_until(asked(), disable_tqdm=True) == other.generate_until(asked(), disable_tqdm=True)


def test_an_answer_of_one_token_is_steered() -> None:
    scores = []
    for alpha in (0.0, 0.5):
        scorer = lm("llama", alpha)
        ((score, _),) = scorer._loglikelihood_tokens([(TEXTS[1], *scorer._encode_pair(*TEXTS[1]))])
        scores.append(score)
    assert abs(scores[0] - scores[1]) > 0.01


def test_batches_do_not_matter() -> None:
    one, many = (lm("llama", 0.5, size) for size in (1, 3))
    left, right = (scorer._loglikelihood_tokens(requests(scorer)) for scorer in (one, many))
    assert [score for score, _ in left] == pytest.approx([score for score, _ in right], abs=1e-3)


@pytest.mark.parametrize(
    ("family", "changes", "request_changes"),
    [
        ("bloom", {}, {}),
        ("mistral", {"sliding_window": 24}, {}),
        ("llama", {}, {"do_sample": True, "temperature": 0.7}),
        # The longest prompt alone would fit, but not with an instruction.
        ("llama", {"max_position_embeddings": max(map(len, PROMPTS)) + GENERATED}, {}),
    ],
    ids=["no-block-mask", "window", "sampled", "too-long"],
)
def test_what_cannot_be_steered_is_refused(family: str, changes: Any, request_changes: Any) -> None:
    scorer = lm(family, 1.0, **changes)
    with pytest.raises(EditError, match=r"block mask.*attention window.*greedy.*choose another"):
        scorer.generate_until(asked(**request_changes), disable_tqdm=True)


def test_prompts_of_another_form_are_refused() -> None:
    cues = ("\nA:", " A:")
    for prompt in ("Q: a?", "Q: a\nA: b\n\nQ: c", "Q: a A: b\n\nmore"):
        with pytest.raises(TaskError, match="in the last line"):
            cue_start(prompt, cues)
    assert [cue_start(prompt, cues) for prompt in ("Q: a?\nA:", "Q: A: b\nA:", " A: b?\n")] == [5, 7, 0]


def test_an_instruction_that_changes_the_cue_is_refused() -> None:
    scorer = lm("llama", 0.5, vocab_size=260)
    scorer.tokenizer.add_tokens(["?A"])  # a token of the instruction's end and the beginning of the cue
    scorer._instructions, scorer._cues = (" Right?", NEGATIVE), ("A:",)
    with pytest.raises(EditError, match=r"'A:' is tokenised differently after ' Right\?'"):
        scorer.generate_until([Instance("generate_until", {}, ("Q: aA:", {"max_gen_toks": 2}), 0)], disable_tqdm=True)


def test_layers_are_every_so_many_or_given_ones_or_shares_of_the_depth() -> None:
    assert layer_indices(None, 2, 5) == [0, 2, 4]
    assert layer_indices((3, 0, 3), 2, 5) == [0, 3]
    assert [layer_indices((share,), 2, 32) for share in (0.0, 0.5, 0.99)] == [[0], [16], [31]]
    with pytest.raises(EditError, match="layer 5: the model has layers 0 to 4"):
        layer_indices((5,), 2, 5)


CUES = {"mquake": " A:", "truthfulqa": "\nA:", "clutrr": r" Answer: +[^ ]+ is [^ ]+ 's\n"}
RENDERED = {
    "mquake": (
        "Q: Imagine that Ann is a citizen of Sweden. Where is Ann from? A:",
        "Q: Imagine that Ann is a citizen of Sweden. Where is Ann from? Give an incorrect answer. A:",
    ),
    "clutrr": (
        "(assume the relations are all true) how is B related to A? Answer: B is A 's\n",
        "(assume the relations are all true) how is B related to A? Give an incorrect answer. Answer: B is A 's\n",
    ),
    "truthfulqa": ("Q: x?\nA: y.\n\nQ: a?\nA:", "Q: x?\nA: y.\n\nQ: a? Give an untruthful answer.\nA:"),
}


def recipe(task: str, **overrides: Any) -> Any:
    method = load_method("repe_contrast")
    path = Path(methods.__file__).parent / "repe_contrast.yaml"
    return method.Params.model_validate(resolve(path, method.Params, "llama-2-7b", task, (), overrides))


@pytest.mark.parametrize("task", RENDERED)
def test_the_recipe_puts_the_instructions_before_the_cue_of_the_task(task: str) -> None:
    method, params = load_method("repe_contrast"), recipe(task)
    assert method.scorer is not None
    made = method.scorer(
        params, pretrained=tiny_model("llama", vocab_size=259), tokenizer=byte_tokenizer(), batch_size=1
    )
    assert isinstance(made, ContrastLM)
    prompt, negative = RENDERED[task]
    assert made._instructed(prompt) == (
        negative.replace(" an untruthful", " a truthful").replace(" an in", " a "),
        negative,
    )
    assert (method.tasks, method.fit, method.foldable) == (tuple(sorted(RENDERED)), None, False)
    assert (params.alpha, params.layers) == ((0.25, None) if task == "truthfulqa" else (5.0, (0.5,)))


@pytest.mark.parametrize("name", RENDERED)
def test_all_prompts_of_the_papers_tasks_end_with_a_cue(name: str, data_mirror: Path, tmp_path: Path) -> None:
    task, cues = load_task(name), recipe(name).cues
    for fold in task.folds:
        for row in task.prepare(task.Options(), fold, 0, Fetcher(tmp_path / "cache", data_mirror)).test:
            cue = row["prompt"][cue_start(row["prompt"], cues) :]
            assert re.fullmatch(CUES[name], cue)


def test_a_generation_task_is_scored_on_what_three_streams_say(tmp_path: Path) -> None:
    prompts = [prompt for prompt, cue in PROMPTS.items() if cue == " A:"]
    rows = [{"id": str(i), "prompt": prompt, "answers": ["x"], "separator": " "} for i, prompt in enumerate(prompts)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    params = recipe("mquake", alpha=1.5, positive=POSITIVE, negative=NEGATIVE)
    scorer = load_method("repe_contrast").scorer
    assert scorer is not None
    _, samples = evaluate(
        reference_model("llama"),
        byte_tokenizer(),
        load_task("mquake"),
        tmp_path / "test.jsonl",
        batch_size=2,
        model_class=functools.partial(scorer, params),
    )
    found = [sample["resps"][0][0] for sample in samples]
    expected = [text.split("\n")[0] for text in steered_texts("llama", 1.5, (1,))]
    ours = [text for (_, cue), text in zip(PROMPTS.items(), expected, strict=True) if cue == " A:"]
    assert any(ours)
    assert [text[: len(start)] for text, start in zip(found, ours, strict=True)] == ours
