"""The nodes of the workflow: one module per kind, each with ``run(table, node)`` and ``summary_line(folder)``.

For kinds that run a model, ``run`` has a third parameter ``killed``: the reason why the node failed, for a node that
was killed before it could write its own status. It then writes only that status and empty results.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from lofit.plan.kinds import NodeKind


def module_of(kind: NodeKind) -> ModuleType:
    """Import and return the module of a kind of node; the import may take seconds."""
    return importlib.import_module(f"{__name__}.{kind.name}")
