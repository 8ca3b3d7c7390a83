"""Target modules of PEFT's methods: linear maps in the layers of the language model, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lofit.errors import EditError
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Module names in transformers and in common remote code, for families that PEFT's tables lack or list with older names.
# The first set that a model has completely is taken.
_FUSED = (("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("wqkv",), ("W_pack",), ("att_proj",), ("qkv",))
QUERY_VALUE = (
    ("q_proj", "v_proj"), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("wq", "wv"), ("q_lin", "v_lin"),
    ("query", "value"), *_FUSED,
)  # fmt: skip
KEY_VALUE = (("k_proj", "v_proj"), ("kv_b_proj",), ("wk", "wv"), ("k_lin", "v_lin"), ("key", "value"), *_FUSED)
FEED_FORWARD = (
    ("down_proj",), ("w2",), ("fc2",), ("dense_4h_to_h",), ("fc_out",), ("lin2",), ("mlp.c_proj",), ("ffn.c_proj",),
)  # fmt: skip


class TargetParams(FitParams):
    """Hyperparameters of a method whose modules can be named."""

    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="names of linear maps in the layers of the language model; null: PEFT's choice for the family",
    )


@dataclass(frozen=True)
class Targets:
    """Modules to adapt, and the fields of a PEFT configuration that select them.

    Attributes:
        names: ends of the modules' paths, as PEFT matches them.
        paths: the modules' paths.
        others: paths of other modules with such names, for instance in a vision tower, which must not be adapted.
    """

    names: list[str]
    paths: list[str]
    others: list[str]

    @property
    def by_name(self) -> dict[str, Any]:
        """The fields for a configuration that can exclude modules."""
        return {"target_modules": self.names, "exclude_modules": pattern(self.others) if self.others else None}

    @property
    def by_pattern(self) -> dict[str, Any]:
        """The field for a configuration that cannot exclude modules."""
        return {"target_modules": pattern(self.paths) if self.others else self.names}


def pattern(paths: Sequence[str]) -> str:
    """Return a regular expression that matches module paths in any layer."""
    parts = {r"\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in path.split(".")) for path in paths}
    return "|".join(sorted(parts))


class Layers:
    """The linear maps in the layers of a language model, or the norms, by path.

    Raises:
        EditError: the model is not a decoder-only ``transformers`` model, or its layers cannot be found.
    """

    def __init__(self, model: PreTrainedModel, norms: bool = False) -> None:
        from lofit.interventions.tuner.sites import language_layers, linear_features

        def fits(module: Any) -> bool:
            return "Norm" in type(module).__name__ if norms else bool(linear_features(module))

        self.kind, self.what = type(model).__name__, "norm" if norms else "linear map"
        self.families = (model.config.get_text_config().model_type, model.config.model_type)
        self._everything = [path for path, _ in model.named_modules()]
        self._lists = {
            layers: [
                f"{layers}.{path}"
                for path, module in blocks.named_modules()
                if fits(module) and "cross" not in path  # cross-attention reads no text
            ]
            for layers, blocks in language_layers(model)
        }
        self.paths = [path for paths in self._lists.values() for path in paths]
        if not self.paths:
            raise EditError(
                f"{self.kind} has no list of num_hidden_layers layers with {self.what}s; this family cannot be adapted"
            )

    def find(self, name: str) -> list[str]:
        """Return the paths of the modules with a name."""
        return [path for path in self.paths if f".{path}".endswith(f".{name}")]

    def choose(self, known: Mapping[str, Any], candidates: Sequence[Sequence[str]]) -> list[str]:
        """Return names that the model has, from PEFT's table or else the first of ``candidates``; empty if none."""
        rows = [known[family] for family in self.families if isinstance(known.get(family), list)]
        for names in (*rows, *candidates):
            if names and all(self.find(name) for name in names):
                return list(names)
        return []

    def targets(self, names: Sequence[str]) -> Targets:
        """Select the modules with these names.

        Raises:
            EditError: there is none with one of the names, or several language models have them.
        """
        for name in names:
            if not self.find(name):
                raise EditError(f"target_modules: {self.kind} has no {self.what} '{name}' in its layers; {self.remedy}")
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
        """Select the linear maps that the user names, or else those of PEFT's table or of ``candidates``.

        Args:
            given: names in the configuration.
            known: PEFT's table from family to names.
            candidates: sets of names for other families.
            what: what the modules are, for the message.

        Raises:
            EditError: the model has no such modules; see also :meth:`targets`.
        """
        names = list(given or ()) or self.choose(known, candidates)
        if not names:
            raise EditError(f"{self.kind} has no {what} of a name that is known here; {self.remedy}")
        return self.targets(names)

    @property
    def remedy(self) -> str:
        """End of a message: what to write instead, and the names to choose from."""
        names = sorted({path.rpartition(".")[2] for path in self.paths})
        return f"set params: {{target_modules: [...]}}; it has {', '.join(names)}"
