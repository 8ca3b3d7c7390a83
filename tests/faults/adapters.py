"""Adapters and checkpoints that were really fitted, then damaged, or put on another model."""

from __future__ import annotations

import atexit
import copy
import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from lofit.files import read_json
from lofit.models.adapters import load_fitted, verify
from tests.checkpoint import save_checkpoint
from tests.faults.configurations import junk
from tests.faults.kinds import Kind, UnclearError
from tests.fitted import find, fitted_table, tiny_config

TRAINING = {"epochs": 1, "lr": 0.01}
METHODS: dict[str, Any] = {
    "lofit": {"heads": {"k": [3], "localizer": "random"}, "params": TRAINING},
    "lora": {"params": TRAINING},
    "full": {"params": TRAINING},
}
OTHERS: dict[str, dict[str, Any]] = {
    "narrower": {"hidden_size": 16},
    "one layer": {"num_hidden_layers": 1},
    "five layers": {"num_hidden_layers": 5},
    "two heads": {"num_attention_heads": 2},
}
TENSOR_DAMAGE = ["nan", "inf", "shape", "transpose", "missing", "extra", "renamed", "empty", "integers"]
UNSEEN = ["none", "flip", "config", "text", "other", "nan", "inf", "extra"]
"""Damage to a whole checkpoint that only checksums show."""
PEFT_TYPES = ["LORA", "LOFIT", "LOREFT", "IA3", "PREFIX_TUNING", "XLORA", "LORa", "", None, 3, ["LORA"], "NOTHING"]


@dataclass(frozen=True)
class Case:
    """A damage to what a method left.

    Attributes:
        method: whose.
        damage: what is done.
        place: where, as a share of the file or of the tensors.
        value: what is put there.
        recorded: whether the checksums of the fit are compared, as the nodes do; without them only what is visible in
            the files themselves can be refused.
    """

    method: str
    damage: str
    place: float
    value: Any
    recorded: bool


@st.composite
def cases(draw: Any) -> Case:
    """One damage."""
    damage = draw(
        st.sampled_from(
            [
                "none",
                "none",
                "none",
                "cut",
                "flip",
                "flip",
                "flip",
                "other",
                "config",
                "config",
                "text",
                "pickle",
                "gone",
            ]
        )
        | st.sampled_from(TENSOR_DAMAGE)
    )
    value: Any = None
    if damage == "other":
        value = draw(st.sampled_from(sorted(OTHERS)))
    elif damage == "flip":
        value = draw(st.tuples(st.sampled_from(["weights", "config"]), st.integers(1, 255), st.booleans()))
    elif damage == "config":
        value = draw(st.sampled_from(PEFT_TYPES).map(lambda kind: ("peft_type", kind)) | st.tuples(st.none(), junk))
    elif damage == "text":
        value = draw(st.sampled_from(["", "{", "[]", "null", "{}", '{"peft_type": "LORA"}', "[" * 3000, "\x00", "é"]))
    return Case(draw(st.sampled_from(sorted(METHODS))), damage, draw(st.floats(0, 1)), value, draw(st.booleans()))


@dataclass(frozen=True)
class Fits:
    """What was fitted: the model's folder, and for each method its adapter and the checksums of its files."""

    model: Path
    adapters: dict[str, tuple[Path, dict[str, str]]]
    others: dict[str, Path]


@cache
def fits() -> Fits:
    """Fit every method once."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(tempfile.mkdtemp(prefix="lofit-fuzz-fits-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    table = fitted_table(tiny_config(folder, METHODS))
    adapters = {}
    for method in METHODS:
        run = table.folder(find(table, method))
        adapters[method] = (run / "adapter", read_json(run / "fit.json")["sha256"])
    others = {name: save_checkpoint(folder / name.replace(" ", "-"), **sizes) for name, sizes in OTHERS.items()}
    return Fits(table.model_dir("tiny"), adapters, others)


def _damage_tensors(file: Path, case: Case) -> None:
    tensors = load_file(file)
    names = sorted(tensors)
    name = names[min(int(case.place * len(names)), len(names) - 1)]
    chosen = tensors[name]
    match case.damage:
        case "nan" | "inf":
            chosen.view(-1)[int(case.place * (chosen.numel() - 1))] = float(case.damage)
        case "shape":
            tensors[name] = torch.cat([chosen, chosen])
        case "transpose":
            tensors[name] = chosen.flatten()[None].repeat(2, 1)
        case "missing":
            del tensors[name]
        case "extra":
            tensors[name + ".more"] = chosen.clone()
        case "renamed":
            tensors[name.replace("layers.0", "layers.7") + ("x" if "layers.0" not in name else "")] = tensors.pop(name)
        case "empty":
            tensors.clear()
        case "integers":
            tensors[name] = chosen.new_ones((1,), dtype=torch.int8)
    save_file(tensors, file, metadata={"format": "pt"})


def damage(case: Case, adapter: Path) -> None:
    """Change the files of an adapter."""
    config = adapter / ("config.json" if case.method == "full" else "adapter_config.json")
    weights = adapter / ("model.safetensors" if case.method == "full" else "adapter_model.safetensors")
    match case.damage:
        case "cut":
            body = weights.read_bytes()
            weights.write_bytes(body[: int(case.place * (len(body) - 1))])
        case "flip":
            which, mask, header = case.value
            file = config if which == "config" else weights
            body = bytearray(file.read_bytes())
            reach = min(len(body), 600) if header else len(body)  # damage to the header is otherwise rare
            body[int(case.place * (reach - 1))] ^= mask
            file.write_bytes(bytes(body))
        case "config":
            values = read_json(config)
            key, value = case.value
            names = sorted(values)
            values[key or names[int(case.place * (len(names) - 1))]] = copy.deepcopy(value)
            config.write_text(json.dumps(values, skipkeys=True))
        case "text":
            config.write_text(case.value, encoding="utf-8")
        case "pickle":
            torch.save(load_file(weights), weights.with_suffix(".bin").with_name("adapter_model.bin"))
            weights.unlink()
        case "gone":
            (config if case.place < 0.5 else weights).unlink()
        case name if name in TENSOR_DAMAGE:
            _damage_tensors(weights, case)


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def use(case: Case, folder: Path) -> None:
    """Load what was fitted as the evaluate node does; what loads must compute finite numbers."""
    made = fits()
    source, recorded = made.adapters[case.method]
    adapter = Path(shutil.copytree(source, folder / "adapter"))
    damage(case, adapter)
    changed = _contents(adapter) != _contents(source)
    model = made.others[case.value] if case.damage == "other" else made.model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.recorded:
            verify(adapter, recorded)
            if changed:
                raise UnclearError("passes for what was fitted")
        loaded = load_fitted(model, adapter, torch.device("cpu"), torch.float32)
    full = case.method == "full"  # a checkpoint brings its own configuration, and its values are not looked at
    deeper = case.method == "lofit" and case.value == "five layers"  # has every head that the adapter names
    if deeper or case.damage in (UNSEEN if full else ("none", "flip", "config", "text")):
        return _finite(loaded) if case.damage == "none" else None
    raise UnclearError("loaded all the same")


def _finite(model: Any) -> None:
    with torch.no_grad():
        if not model(torch.arange(3, 20)[None]).logits.isfinite().all():
            raise UnclearError("logits are not finite")


KIND = Kind("adapters", cases(), use)
