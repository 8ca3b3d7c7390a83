"""Put what commands such as `lofit run` need of the checkout into the wheel (`shipped` in lofit/files.py)."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = ("Snakefile", "config", "config.yaml", "docs/extending.md", "environment.yml", "examples", "workflow")


class WheelHook(BuildHookInterface[Any]):
    """Adds them; an editable installation has the checkout itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say where each goes."""
        if version == "standard":
            build_data["force_include"] |= {name: f"lofit/shipped/{name}" for name in SHIPPED}
            build_data["force_include"]["workflow/profiles"] = "lofit/shipped/profiles"  # a link in the checkout
