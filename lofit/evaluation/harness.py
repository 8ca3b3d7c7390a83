"""Run lm-evaluation-harness on one of this package's task folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml

from lofit.errors import TaskError
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.window import cut_items
from lofit.files import read_jsonl
from lofit.models.chat import in_chat
from lofit.spec.protocol import HARNESS, OPEN, PAPER, Protocol, scoring
from lofit.tasks import Task, lm_eval_config
from lofit.tasks.answers import by_length, same_text, tied, wins

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RowsTask(ConfigurableTask):
    """An lm-eval task on rows in memory, in which a tie between a right and a wrong choice counts as wrong.

    Rows are passed in memory because ``datasets``, which would read a file of them, parses text that looks like a date.
    Of choices with equal scores, lm-eval takes the first as the model's answer, which may be the right one.
    """

    def __init__(self, definition: Mapping[str, Any], rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        """Set up a task.

        Args:
            definition: definition of the task, as in lm-eval's YAML files.
            rows: rows of every split that the definition names.
        """
        self._rows = rows
        super().__init__(config={key: value for key, value in definition.items() if key not in ("tag", "group")})

    def download(self, *args: Any, **kwargs: Any) -> None:
        self.dataset = {split: Dataset.from_list(list(rows)) for split, rows in self._rows.items()}

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        """Score one item as lm-eval does, but with ``acc`` and ``acc_norm`` 0 if a wrong choice scores as high."""
        scores: dict[str, Any] = super().process_results(doc, results)
        if self.OUTPUT_TYPE == "multiple_choice" and not callable(self.config.process_results):
            choices = self.doc_to_choice(doc)
            gold = self.doc_to_text(doc) if self.multiple_input else self.doc_to_target(doc)
            named = [choices[at] if isinstance(at, int) else at for at in (gold if isinstance(gold, list) else [gold])]
            right = [any(same_text(choice, other) for other in named) for choice in choices]
            sums = [score for score, _ in results]
            for name, values in (("acc", sums), ("acc_norm", by_length(sums, choices))):
                if name in scores:
                    scores[name] = float(wins(values, right))
        return scores


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Path,
    *,
    batch_size: int,
    protocol: Protocol = PAPER,
    shots: Sequence[dict[str, Any]] = (),
    model_class: Callable[..., LM] | None = None,
    chat: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score ``model`` on the JSON lines in ``items``.

    Args:
        model: the model to score; a PEFT model with its adapters in place.
        tokenizer: the model's tokenizer.
        task: the task to score.
        items: JSON lines of evaluation rows; few-shot examples of a definition come from ``train.jsonl`` beside it.
        batch_size: prompts in one forward pass.
        protocol: ``paper`` and ``open`` for the task folder's own lm-eval definitions, ``harness`` for lm-eval's.
        shots: training rows to put, with their answers, in front of every prompt, in this order.
        model_class: creates lm-eval's model from the arguments of ``HFLM``; None for :class:`LocalizedLM`.
        chat: the ``system`` message, if prompts are messages of a chat; ``shots`` are then part of the user's, and
            lm-eval's own examples are turns of their own.

    Returns:
        ``{"n_items", "n_truncated", "n_ties", "n_unreachable", "metrics": {name: {"value", "stderr"}},
        "task_version"}``; and one sample per item as lm-eval gives them (document, arguments, responses, per-item
        metrics). ``n_truncated`` counts items with a prompt that was longer than the model reads and was truncated on
        the left. ``n_ties`` counts items in which different choices share the best score. ``n_unreachable`` counts
        items with no answer that could be generated (all are too long, or contain a stop string or a special token), or
        whose right choice only goes on after the tokens of another, so that it is less probable.
    """
    rows, make_lm, protocol = read_jsonl(items), model_class or LocalizedLM, scoring(protocol)
    by_template: dict[str, Any] = {}
    if protocol == HARNESS:
        tasks = stock_tasks(task, rows, items.with_name("train.jsonl"))
        if chat:
            by_template = {"apply_chat_template": True, "system_instruction": chat["system"]}
    else:
        definition = lm_eval_config(task, task.open_definition if protocol == OPEN else None)
        shown = _after_examples(task, rows, shots) if shots else rows
        if chat:
            shown, definition = in_chat(shown, tokenizer, **chat), definition | {"target_delimiter": ""}
        tasks = [RowsTask(definition, {"test": shown})]
    lm: Any = make_lm(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
    # lm-eval describes the machine in every output, which nothing here reads: it asks git for the commit of the working
    # folder, which prints an error outside a repository, and pip for all packages, which takes half a second.
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    lm_eval.evaluator.add_env_info = lambda results: None
    output = simple_evaluate(
        model=lm,
        tasks=list(tasks),
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=1000,  # means get their analytic standard error; 0 would drop it
        **by_template,
        verbosity="WARNING",
    )
    samples: list[dict[str, Any]] = []
    metrics: dict[str, dict[str, float | None]] = {}
    for name in (asked.config.task for asked in tasks):
        scored = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
        if len({sample["doc_id"] for sample in scored}) != len(rows):
            raise RuntimeError(f"{items}: lm-eval scored {len(scored)} items for {name}, not all {len(rows)}")
        prefix = f"{name}." if len(tasks) > 1 else ""
        samples += [{"task": name, **sample} for sample in scored]
        metrics |= {prefix + metric: value for metric, value in _metrics(output["results"][name]).items()}
    scores = {
        "n_items": len(rows),
        "n_truncated": cut_items(lm, samples),
        "n_ties": len({sample["doc_id"] for sample in samples if _is_tie(sample)}),
        "n_unreachable": _unreachable(tokenizer, task, tasks[0], shown, bool(chat)) if protocol == PAPER else 0,
        "metrics": metrics,
        "task_version": {asked.config.task: output["versions"][asked.config.task] for asked in tasks},
    }
    return scores, samples


def stock_tasks(task: Task, rows: Sequence[dict[str, Any]], train: Path) -> list[RowsTask]:
    """Build lm-eval's own definitions of a task, on the original fields of the rows instead of the hub's dataset.

    Args:
        task: a task that lm-eval defines.
        rows: evaluation rows.
        train: JSON lines of training rows, for definitions with few-shot examples.

    Raises:
        TaskError: there are fewer training rows than the definition shows.
    """
    assert task.harness, f"lm-eval has no definition of {task.name}"
    made = []
    for definition in task.harness.definitions:
        stock = load_yaml(Path(lm_eval.__file__).parent / "tasks" / definition)
        kept = {key: value for key, value in stock.items() if not key.endswith("_split") and key != "dataset_name"}
        splits = {"test": [row["item"] for row in rows]}
        if shots := stock.get("num_fewshot"):
            splits["train"] = [row["item"] for row in read_jsonl(train)]
            if len(splits["train"]) < shots:
                raise TaskError(
                    f"{task.name}: lm-eval's definition shows {shots} training rows and there are "
                    f"{len(splits['train'])}; raise n_train, or leave the protocol harness out"
                )
            kept["fewshot_split"] = "train"
        made.append(RowsTask(kept | {"test_split": "test"}, splits))
    return made


def _after_examples(
    task: Task, rows: Sequence[dict[str, Any]], shots: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Put training rows with their answers in front of the prompt of every row, in this order."""
    prompt, answer = ("prompt", "target") if task.objective == "sft" else ("train_prompt", "chosen")
    examples = "".join(f"{shot[prompt]}{shot[answer]}\n\n" for shot in shots)
    contexts = (
        {"contexts": [examples + text for text in row["contexts"]]} if "contexts" in row else {} for row in rows
    )
    return [row | {"prompt": examples + row["prompt"]} | more for row, more in zip(rows, contexts, strict=True)]


def _is_tie(sample: dict[str, Any]) -> bool:
    """Whether different choices share the best score of an item."""
    if not isinstance(sample["filtered_resps"][0], list | tuple):
        return False  # a generated text
    texts = ["".join(map(str, argument)) for argument in sample["arguments"]]
    sums = [score for score, _ in sample["filtered_resps"]]
    answers = [str(answer) for _, answer in sample["arguments"]]
    return tied(sums, texts) or ("acc_norm" in sample and tied(by_length(sums, answers), texts))


def _unreachable(
    tokenizer: PreTrainedTokenizerBase, task: Task, asked: RowsTask, rows: Sequence[dict[str, Any]], chat: bool
) -> int:
    """Count the items whose reference answers would all count as wrong, however well the model does."""

    def ids(row: dict[str, Any], answer: str) -> list[int]:
        text = answer if chat or answer[0].isspace() or row["prompt"][-1].isspace() else f" {answer}"
        found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    if asked.OUTPUT_TYPE == "generate_until":
        settings = asked.config.generation_kwargs
        until, most = settings.get("until", []), settings["max_gen_toks"]

        def counts(row: dict[str, Any], answer: str) -> bool:
            text = tokenizer.decode(ids(row, answer)[:most], skip_special_tokens=True)
            output = postprocess_generated_text(text, until, None)
            return bool(asked.process_results(row, [output])[task.headline])

        return sum(not any(counts(row, answer) for answer in row["answers"]) for row in rows)

    def beaten(row: dict[str, Any]) -> bool:
        encoded = [ids(row, choice) for choice in row["choices"]]
        right = encoded[row["gold"]]
        return any(len(other) < len(right) and right[: len(other)] == other for other in encoded)

    return sum(beaten(row) for row in rows if "gold" in row) if task.headline == "acc" else 0


def _metrics(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Turn lm-eval's ``metric,filter`` keys into ``metric`` or ``metric.filter``, with value and standard error."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in results.items():
        metric, _, kind = key.partition(",")
        if "," not in key or metric.endswith("_stderr"):
            continue
        stderr = results.get(key.replace(metric, f"{metric}_stderr", 1))
        metrics[metric if kind == "none" else f"{metric}.{kind}"] = {
            "value": float(value),
            "stderr": stderr if isinstance(stderr, float) else None,
        }
    return metrics
