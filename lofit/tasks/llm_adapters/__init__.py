"""Prompts, targets and scoring of LLM-Adapters, which the LoFiT paper uses: the model writes the name of an option.

Source: Hu et al. 2023 (arXiv 2304.01933), AGI-Edgerunners/LLM-Adapters at 81665720: ``dataset/<task>/*.json`` for the
texts, ``commonsense_evaluate.py`` for the frame and for the option that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from lofit.tasks.official import SharedTextOptions
from lofit.tasks.task import Row, Task, TaskOptions, contrast

DEFINITION = Path(__file__).with_name("generate.yaml")
HEADLINE = "extracted_acc"
ANSWERS = ("answer1", "answer2", "answer3", "answer4", "answer5")
"""Options that are looked for in the output of a task with answers, however many a question has."""
FRAME = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
"""The frame of ``commonsense_evaluate.py``, without the indentation of its source code and blanks at ends of lines."""


class FormatOptions(TaskOptions):
    """Options of a task that LLM-Adapters has a prompt for.

    Attributes:
        format: ``likelihood`` scores the choices by their probability; ``llm_adapters`` trains the model to write the
            name of the right option, and scores what it writes, as LLM-Adapters and the LoFiT paper do.
        frame: put LLM-Adapters' frame ("### Instruction: ... ### Response:") around the instruction.
    """

    WORDING: ClassVar[tuple[str, ...]] = ("format", "frame")

    format: Literal["likelihood", "llm_adapters"] = "likelihood"
    frame: bool = False

    @field_validator("frame")
    @classmethod
    def _belongs_to_format(cls, frame: bool, info: ValidationInfo) -> bool:
        if frame and info.data.get("format") == "likelihood":
            raise ValueError("only prompts of llm_adapters have a frame; set format to llm_adapters, or remove this")
        return frame

    def configured(self, task: Task) -> Task:
        """Return the task, scored by :data:`HEADLINE` if its prompts are those of LLM-Adapters."""
        return replace(task, definition=DEFINITION, headline=HEADLINE) if self.format == "llm_adapters" else task

    def choose_row(self, asked: str, texts: Sequence[str], gold: int, **fields: Any) -> Row:
        """Return the row of a question with up to five answers, in the words of LLM-Adapters; see :meth:`option_row`.

        Args:
            asked: the question, with its context.
            texts: the answers.
            gold: index of the right answer.
            **fields: further fields of the row.
        """
        names = [f"answer{number}" for number in range(1, len(texts) + 1)]
        instruction = (
            f"Please choose the correct answer to the question: {asked}\n\n{listed('Answer', texts)}\n\n"
            f"Answer format: {'/'.join(names)}"
        )
        return self.option_row(instruction, names, gold, **fields) | {"options": list(ANSWERS)}

    def option_row(self, instruction: str, options: Sequence[str], gold: int, **fields: Any) -> Row:
        """Return a row without an id, in which the name of an option is to be generated after a line break.

        The contrast compares the target with the same sentence about each of the other options.

        Args:
            instruction: the prompt without the frame.
            options: names of the options; they are looked for in what is generated.
            gold: index of the right option.
            **fields: further fields of the row.
        """
        prompt = f"{FRAME.format(instruction) if self.frame else instruction}\n"
        sentences = [f"the correct answer is {option}" for option in options]
        right = sentences.pop(gold)
        return {
            "prompt": prompt,
            "target": right,
            "contrast": contrast(prompt, [right], sentences),
            "answers": [right],
            "options": list(options),
            **fields,
        }


class SharedTextFormatOptions(SharedTextOptions, FormatOptions):
    """Options of a task that LLM-Adapters has a prompt for, and whose official splits share texts."""


def listed(name: str, texts: Sequence[str]) -> str:
    """Return texts on one line, each after its number: ``Answer1: dry Answer2: wet``."""
    return " ".join(f"{name}{number}: {text}" for number, text in enumerate(texts, start=1))
