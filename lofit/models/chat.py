"""Prompts as messages to an instruct model: worded by the chat template of its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lofit.errors import TaskError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DATE = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
"""The day it always is in templates that tell it, so that texts stay the same: the one Llama 3's falls back to."""
_NOW = f"""\
{{%- macro strftime_now(format) -%}}
{{{{ format{"".join(f".replace('{code}', '{value}')" for code, value in _DATE.items())} }}}}
{{%- endmacro %}}
"""


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], *, asks: bool = True) -> str:
    """Return messages as a model reads them.

    Args:
        tokenizer: the model's tokenizer.
        messages: each with its ``role`` and ``content``.
        asks: whether the answer to the last one begins behind them; if not, the text goes on with the last one.

    Raises:
        TaskError: there is no chat template, or it refuses the messages, such as one of the system.
    """
    if not tokenizer.chat_template:
        raise TaskError("the model's tokenizer has no chat template; choose an instruct model, or use no chat template")
    try:
        text = tokenizer.apply_chat_template(
            [*messages],
            chat_template=_NOW + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=asks,
            continue_final_message=not asks,
            enable_thinking=False,  # targets are answers without reasoning before them
        )
        return str(text)
    except Exception as error:  # a template raises what it likes
        reason = f"the model's chat template refuses the messages ({brief(error)})"
        raise TaskError(f"{reason}; choose another model, or change or remove the system message") from None


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str, system: str | None = None) -> str:
    """Return what a model reads before its answer to a message of the user.

    Args:
        tokenizer: the model's tokenizer.
        text: the user's message.
        system: message of the system before it; None: what the template puts there, if anything.

    Raises:
        TaskError: as of :func:`rendered`.
    """
    before = [{"role": "system", "content": system}] if system is not None else []
    return rendered(tokenizer, [*before, {"role": "user", "content": text}])


def in_chat(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, system: str | None
) -> list[dict[str, Any]]:
    """Return rows of a task with prompts worded by :func:`chat_prompt`, and answers as a model begins them there.

    Between a plain prompt and its answer there is whitespace, which the answers of rows begin with; after a template
    there is none. So training, activations and scoring, which read these rows, see the same text.

    Args:
        rows: training or evaluation rows (:class:`lofit.tasks.task.Splits`).
        tokenizer: the model's tokenizer.
        system: as for :func:`chat_prompt`.

    Raises:
        TaskError: as of :func:`chat_prompt`.
    """

    def worded(text: str) -> str:
        return chat_prompt(tokenizer, text, system)

    def change(value: Any, how: Any) -> Any:
        return [how(text) for text in value] if isinstance(value, list) else how(value)

    found = []
    for row in rows:
        new = dict(row)
        for name in ("prompt", "train_prompt", "open_prompt"):
            if name in row:
                new[name] = change(row[name], worded)
        for name in ("target", "chosen", "rejected", "choices", "separator"):
            if name in row:
                new[name] = change(row[name], str.lstrip)
        if "contexts" in row:  # each is the prompt with the first words of an answer, and the continuation its rest
            cut = len(row["prompt"])
            new["contexts"] = [new["prompt"] + text[cut:].lstrip() for text in row["contexts"]]
            new["continuation"] = f" {row['continuation'].lstrip()}"
        if "contrast" in row:
            sides = {side: change(row["contrast"][side], str.lstrip) for side in ("right", "wrong")}
            new["contrast"] = {"prompt": worded(row["contrast"]["prompt"]), **sides}
        found.append(new)
    return found
