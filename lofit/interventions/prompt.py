"""Virtual tokens, which adapters of PEFT's prompt learning put in front of every text."""

from __future__ import annotations

from typing import Any


def virtual_tokens(model: Any) -> int:
    """Return the number of virtual tokens in front of a text; 0 if the adapter has none, or is switched off."""
    from peft import PeftModel  # whose import runs the registration, which imports what imports this module

    if not isinstance(model, PeftModel) or not model.has_active_enabled_adapter:
        return 0
    return getattr(model.active_peft_config, "num_virtual_tokens", None) or 0
