"""The PEFT tuner that edits attention heads, feed-forward outputs or the residual stream of a model."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.interventions.tuner.config import LofitConfig
from lofit.interventions.tuner.fold import reconcile_bias
from lofit.interventions.tuner.layer import EditLayer
from lofit.interventions.tuner.sites import Site, find_site


class LofitModel(BaseTuner):
    """Wraps the modules at which the selected heads or layers are edited; created by ``peft.get_peft_model``."""

    prefix = "lofit_"
    tuner_layer_cls = EditLayer
    site: Site

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Find the site in the model and point PEFT's matching of module names at the layers that are edited."""
        site = self.site = find_site(model, peft_config.site)
        for layer, head in peft_config.heads or []:
            if layer >= site.n_layers or head >= site.groups:
                raise EditError(
                    f"heads names ({layer}, {head}), but the model has layers 0 to {site.n_layers - 1} "
                    f"with query heads 0 to {site.groups - 1}"
                )
        layers = peft_config.edited_layers(site.n_layers)
        if layers[-1] >= site.n_layers:
            raise EditError(f"layers names {layers[-1]}, but the model has layers 0 to {site.n_layers - 1}")
        peft_config.target_modules = [site.suffix]
        peft_config.layers_pattern = site.layers
        peft_config.layers_to_transform = layers

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
        layer = int(current_key.removesuffix(f".{self.site.suffix}").rpartition(".")[2])
        groups = peft_config.groups_in(layer, self.site.groups)
        initial = _initial_values(peft_config, self.site, layer)[:, groups]
        if isinstance(target, EditLayer):
            target.update_layer(adapter_name, peft_config, self.site, groups, initial)
            return
        wrapped = EditLayer(target)
        wrapped.set_adapter(adapter_name)
        wrapped.update_layer(adapter_name, peft_config, self.site, groups, initial)
        if adapter_name not in self.active_adapters:
            wrapped.requires_grad_(False)
        self._replace_module(parent, target_name, wrapped, target)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for name, module in self.model.named_modules():
            if isinstance(module, EditLayer) and not module.mergeable:
                base = module.get_base_layer()
                if module.lofit_answer_only:
                    raise EditError("the adapter acts at answer positions only, so it cannot be merged; keep it")
                if isinstance(base, nn.Linear | Conv1D):
                    raise EditError(f"{name} is quantized; load the model unquantized to merge, or keep the adapter")
                raise EditError(f"{name} is a {type(base).__name__}, which cannot hold the edit; keep the adapter")

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: edits of different heads or sites have no average that is an adapter of one configuration.

        Raises:
            EditError: always.
        """
        raise EditError("LOFIT adapters cannot be averaged; activate several at once with set_adapter instead")

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters in place; if one layer refuses, no layer stays merged.

        Args:
            adapter_names: adapters to merge, in this order; None for the active ones.
            safe_merge: refuse a result that is not finite.

        Raises:
            EditError: the weights are quantized, or ``safe_merge`` is on and a result is not finite.
        """
        try:
            super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)
        except EditError:
            self.unmerge_adapter()
            raise

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        # The merge is done first and in place, so that the adapter model stays intact if it is refused.
        if merge:
            self.merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)
        else:
            self.unmerge_adapter()
        super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)
        if merge:
            reconcile_bias(self.model)
        return self.model


def _initial_values(config: LofitConfig, site: Site, layer: int) -> torch.Tensor:
    """Return float32 [2, groups, width]: scaling factors and offsets of all groups of a layer."""
    generator = torch.Generator().manual_seed(config.init_seed * 65536 + layer)
    values = torch.randn(2, site.groups, site.width, generator=generator)
    return values * config.init_std
