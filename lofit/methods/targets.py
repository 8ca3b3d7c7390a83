"""Which modules PEFT's methods act on: linear maps in the layers of the language model, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lofit.errors import EditError
from lofit.spec.hyperparameters import TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Names of transformers and of common remote code, for families that PEFT's tables lack or have by older names. The
# first set of which a model has all is taken.
_FUSED = (("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("wqkv",), ("W_pack",), ("att_proj",), ("qkv",))
QUERY_VALUE = (
    ("q_proj", "v_proj"), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("wq", "wv"), ("q_lin", "v_lin"),
    ("query", "value"), *_FUSED,
)  # fmt: skip
KEY_VALUE = (("k_proj", "v_proj"), ("kv_b_proj",), ("wk", "wv"), ("k_lin", "v_lin"), ("key", "value"), *_FUSED)
FEED_FORWARD = (
    ("down_proj",), ("w2",), ("fc2",), ("dense_4h_to_h",), ("fc_out",), ("lin2",), ("mlp.c_proj",), ("ffn.c_proj",),
)  # fmt: skip


class TargetParams(TrainParams):
    """Hyperparameters of a method whose modules can be named."""

    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="names of linear maps in the layers of the language model; null: PEFT's choice for the family",
    )


@dataclass(frozen=True)
class Targets:
    """Modules to act on, and how PEFT is told.

    Attributes:
        names: ends of their paths, as PEFT matches them.
        paths: their paths.
        others: paths of further modules with such names, which are to be left alone: of a vision tower, for instance.
    """

    names: list[str]
    paths: list[str]
    others: list[str]

    @property
    def by_name(self) -> dict[str, Any]:
        """The fields of a configuration that can exclude modules."""
        return {"target_modules": self.names, "exclude_modules": pattern(self.others) if self.others else None}

    @property
    def by_pattern(self) -> dict[str, Any]:
        """The field of a configuration that cannot."""
        return {"target_modules": pattern(self.paths) if self.others else self.names}


def pattern(paths: Sequence[str]) -> str:
    """A regular expression for module paths, of any layer."""
    parts = {r"\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in path.split(".")) for path in paths}
    return "|".join(sorted(parts))


class Layers:
    """The linear maps in the layers of a language model, by path.

    Raises:
        EditError: it is no decoder-only ``transformers`` model, or its layers are not to be found.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        from lofit.interventions.tuner.sites import language_layers, linear_features

        self.kind = type(model).__name__
        self.families = (model.config.get_text_config().model_type, model.config.model_type)
        self._everything = [path for path, _ in model.named_modules()]
        self._lists = {
            layers: [
                f"{layers}.{path}"
                for path, module in blocks.named_modules()
                if linear_features(module) and "cross" not in path  # cross-attention reads no text
            ]
            for layers, blocks in language_layers(model)
        }
        self.paths = [path for paths in self._lists.values() for path in paths]
        if not self.paths:
            raise EditError(
                f"{self.kind} has no list of num_hidden_layers layers with linear maps; this family cannot be adapted"
            )

    def find(self, name: str) -> list[str]:
        """Paths of the linear maps with a name."""
        return [path for path in self.paths if f".{path}".endswith(f".{name}")]

    def choose(self, known: Mapping[str, Any], candidates: Sequence[Sequence[str]]) -> list[str]:
        """Names that the model has, from PEFT's table or else the first of ``candidates``; none where it has none."""
        rows = [known[family] for family in self.families if isinstance(known.get(family), list)]
        for names in (*rows, *candidates):
            if names and all(self.find(name) for name in names):
                return list(names)
        return []

    def targets(self, names: Sequence[str]) -> Targets:
        """The linear maps with these names.

        Raises:
            EditError: there are none of a name, or several language models have them.
        """
        for name in names:
            if not self.find(name):
                raise EditError(f"target_modules: {self.kind} has no linear map '{name}' in its layers; {self.remedy}")
        paths = sorted({path for name in names for path in self.find(name)})
        owners = [layers for layers, inside in self._lists.items() if not {*paths}.isdisjoint(inside)]
        if len(owners) > 1:
            raise EditError(
                f"{self.kind} has {len(owners)} lists of decoder layers with {', '.join(names)} ({', '.join(owners)}); "
                "pass the language model alone"
            )
        ends = tuple(f".{name}" for name in names)
        others = [path for path in self._everything if f".{path}".endswith(ends) and path not in {*paths}]
        return Targets(list(names), paths, others)

    def pick(
        self, given: Sequence[str] | None, known: Mapping[str, Any], candidates: Sequence[Sequence[str]], what: str
    ) -> Targets:
        """The linear maps that the user names, or else those of PEFT's table or the first of ``candidates``.

        Args:
            given: names of the configuration.
            known: PEFT's table from family to names.
            candidates: sets of names for other families.
            what: what is sought, for the message.

        Raises:
            EditError: there are none, or see :meth:`targets`.
        """
        names = list(given or ()) or self.choose(known, candidates)
        if not names:
            raise EditError(f"{self.kind} has no {what} of a name that is known here; {self.remedy}")
        return self.targets(names)

    @property
    def remedy(self) -> str:
        """What to write instead, and the names to choose from."""
        names = sorted({path.rpartition(".")[2] for path in self.paths})
        return f"set params: {{target_modules: [...]}}; it has {', '.join(names)}"
