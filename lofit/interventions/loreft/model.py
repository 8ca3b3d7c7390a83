"""The PEFT tuner of LoReFT."""

from __future__ import annotations

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from lofit.errors import EditError
from lofit.interventions.loreft.layer import LoreftLayer
from lofit.interventions.tuner.sites import find_site


class LoreftModel(BaseTuner):
    """Wraps the selected decoder layers; created by ``peft.get_peft_model``."""

    prefix = "loreft_"
    tuner_layer_cls = LoreftLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Point PEFT's matching of module names at the selected decoder layers."""
        site = find_site(model, "head")
        chosen = list(range(site.n_layers)) if peft_config.layers is None else peft_config.layers
        if max(chosen) >= site.n_layers:
            raise EditError(f"layers names {max(chosen)}, but the model has layers 0 to {site.n_layers - 1}")
        peft_config.target_modules = rf"{re.escape(site.layers)}\.({'|'.join(map(str, chosen))})"

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        width = self.model.config.get_text_config().hidden_size
        if isinstance(target, LoreftLayer):
            target.update_layer(adapter_name, peft_config, width, int(target_name))
            return
        wrapped = LoreftLayer(target)
        wrapped.set_adapter(adapter_name)
        wrapped.update_layer(adapter_name, peft_config, width, int(target_name))
        if adapter_name not in self.active_adapters:
            wrapped.requires_grad_(False)
        self._replace_module(parent, target_name, wrapped, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # a decoder layer has no weight of its own to carry over

    def _check_merge_allowed(self) -> None:
        raise EditError(
            "the edit depends on what it edits, or acts on some tokens only, so it cannot be merged; keep the adapter"
        )
