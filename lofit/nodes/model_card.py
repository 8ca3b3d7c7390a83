"""Write the model card of a fitted method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lofit.files import read_json, write_json, write_text
from lofit.interventions import Head
from lofit.interventions.hook import LOREFT
from lofit.interventions.hook import NAME as LOFIT
from lofit.interventions.tuner.steering import CONTROL_VECTOR, STEERED
from lofit.plan.nodes import FitNode, ModelNode

_TEXT = """\
---
base_model: {base}
library_name: {library}
tags: [{tags}]
---

# {method} on {task}

{kind} of `{base}`{revision}, fitted with LoFiT Bench:
method `{method}`, task `{task}`, fold {fold}, seed {seed}.
{chat}{heads}{metrics}{warning}
```{language}
{load}
```
"""
_CHECKPOINT = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")  # this folder"""
_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, ".")  # this folder"""
_STEERED = """\
# lm-evaluation-harness, in this folder; its hook adds the vectors wherever modules of these names compute
lm_eval run --model steered --model_args pretrained={base},steer_path={file} --tasks <tasks>"""
_CONTROL_VECTOR = """\
# llama.cpp, in this folder, with {base} as a GGUF file
llama-cli -m model.gguf --control-vector {file}"""
_IMPORT = "import lofit  # registers this type of adapter with PEFT; without it loading fails with KeyError\n"
_SPANS = """

# The adapter acts at some positions only, and has to be told where the prompt is.
from lofit.interventions.spans import generation_spans

with generation_spans(inputs["attention_mask"]):  # padded on the left
    model.generate(**inputs)"""


def _how_to_load(folder: Path, node: FitNode) -> str:
    if (folder / STEERED).is_file():
        return _STEERED.format(base=_base(node).partition(",")[0].strip('"'), file=STEERED)
    if (folder / CONTROL_VECTOR).is_file():
        return _CONTROL_VECTOR.format(base=base_name(node), file=CONTROL_VECTOR)
    config = folder / "adapter_config.json"
    if not config.is_file():
        return _CHECKPOINT
    settings = read_json(config)
    ours = settings["peft_type"] in (LOFIT, LOREFT)
    on_prompt = settings["peft_type"] == LOREFT and settings.get("form", "loreft") == "loreft"
    at_some_positions = on_prompt or settings.get("positions", "all") != "all"
    return (_IMPORT if ours else "") + _ADAPTER.format(base=_base(node)) + (_SPANS if at_some_positions else "")


def _base(node: FitNode) -> str:
    """Arguments with which transformers loads the base model; one that is not on the hub is where a study keeps it."""
    if node.model_source["kind"] != "hub":
        return f'"resources/models/{ModelNode(node.model, node.model_source).id}"'
    revision = node.model_source.get("revision")
    return f'"{base_name(node)}"' + (f', revision="{revision}"' if revision else "")


def base_name(node: FitNode) -> str:
    """Return the name by which the base model can be found.

    This is its hub id, its pinned wheel and member, or, for a local model, the configured name.
    """
    source = node.model_source
    if source["kind"] == "hub":
        return str(source["repo"])
    return f"{source['requirement']}/{source['member']}" if source["kind"] == "pypi_gguf" else node.model


def write_card(
    folder: Path,
    node: FitNode,
    heads: Sequence[Head] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    warning: str = "",
) -> None:
    """Write ``README.md`` and replace the local path of the base model in ``adapter_config.json`` by its name.

    Args:
        folder: folder of the adapter or checkpoint.
        node: the fit.
        heads: the heads that the method edits, for methods that select heads.
        metrics: test metrics, each with ``value`` and ``stderr``.
        warning: a sentence without its full stop, which stands above the code.
    """
    config = folder / "adapter_config.json"
    is_adapter = config.is_file()
    if is_adapter:
        write_json(config, read_json(config) | {"base_model_name_or_path": base_name(node)})
    revision = node.model_source.get("revision")
    text = _TEXT.format(
        base=base_name(node),
        library="peft" if is_adapter else "transformers",
        method=node.method,
        task=node.data.task,
        fold=node.data.fold,
        seed=node.own_seed,
        kind="Checkpoint" if (folder / "config.json").is_file() else "Adapter" if is_adapter else "Vectors",
        revision=f" at revision `{revision}`" if revision else "",
        chat=_chat(node),
        heads=_heads(node, heads or ()),
        metrics=_metrics(metrics or {}),
        warning=f"\n**{warning}.**\n" if warning else "",
        language="bash" if any((folder / name).is_file() for name in (STEERED, CONTROL_VECTOR)) else "python",
        load=_how_to_load(folder, node),
        tags=", ".join(dict.fromkeys(["lofit", node.method])),
    )
    write_text(folder / "README.md", text)


def _chat(node: FitNode) -> str:
    if not node.data.chat:
        return ""
    system = node.data.chat["system"]
    after = f", after the system message {system!r}" if system else ""
    return f"\nIts prompts are messages of a user, worded by the chat template{after}.\n"


def _heads(node: FitNode, heads: Sequence[Head]) -> str:
    if not heads or node.ranking is None:
        return ""
    named = ", ".join(f"L{layer}H{head}" for layer, head in heads)
    source = f"ranked by `{node.ranking.localizer}` on `{node.ranking.data.task}`"
    first = "last" if node.bottom else "best"
    return f"\nEdited heads (layer and query head, from 0), {source}, {first} first: {named}.\n"


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    lines = ["", "| test metric | value | standard error |", "|---|---|---|"]
    for name, entry in sorted(metrics.items()):
        error = "" if entry["stderr"] is None else f"{entry['stderr']:.4f}"
        lines.append(f"| {name} | {entry['value']:.4f} | {error} |")
    return "\n".join(lines) + "\n"
