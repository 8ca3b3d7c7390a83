"""What the nodes of the workflow do: one module per kind, each with ``run(table, node)`` and ``summary_line(folder)``.

``run`` of a kind that runs a model also takes the reason why the node failed, if it could not say so itself.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from lofit.plan.kinds import NodeKind


def module_of(kind: NodeKind) -> ModuleType:
    """The module of a kind of node; importing it may take seconds."""
    return importlib.import_module(f"{__name__}.{kind.name}")
