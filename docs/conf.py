"""The documentation as a site (`make html`): the pages of the repository, and what they need beside GitHub."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lofit import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project, author, version = "LoFiT Bench", "LoFiT Bench maintainers", __version__
project_copyright = author
extensions = ["myst_parser"]
# The source folder is the root of the repository, so that a link between pages is the same path there and here.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/*/README.md", "lofit/tasks/*/README.md", "perf/*.md"]
# docs/README.md is part of docs/index.md; the others are not looked into, for speed.
exclude_patterns = ["docs/README.md", ".*", "build", "dist", "results", "resources", "docs/results/*/nodes"]
myst_heading_anchors = 4
highlight_language = "sh"
smartquotes = False  # a prime in a formula is no quote
html_theme = "furo"
html_title = f"LoFiT Bench {version}"
html_copy_source = False
html_static_path, html_css_files = ["static"], ["site.css"]

BELOW = {
    "docs/tasks": ["/lofit/tasks/*/README", "/examples/*/README"],
    "docs/results/README": ["*/README"],
    "docs/results/*/README": ["*/*"],
}
"""Pages that stand below another one in the contents; all others are in docs/index.md."""


def complete(_: Sphinx, name: str, source: list[str]) -> None:
    """Give tables a title and pages the contents below them; lead links to folders and to docs/README.md to pages."""
    page, text = PurePosixPath(name), source[0]
    if page.parent.name in ("tables", "comparisons"):
        text = f"# {page.parent.name.removesuffix('s').capitalize()}: {page.name}\n\n{text}"
    for pages in (below for above, below in BELOW.items() if page.match(above)):
        text += "\n".join(["", "```{toctree}", ":hidden:", ":glob:", "", *pages, "```", ""])

    def lead(link: re.Match[str]) -> str:
        target = (ROOT / page.parent / link[2]).resolve()
        if target == ROOT / "docs" / "README.md":
            return f"[{link[1]}]({link[2].replace('README', 'index')})"
        if not target.is_dir():
            return link[0]
        return f"[{link[1]}]({link[2]}/README.md)" if (target / "README.md").exists() else link[1]

    source[0] = re.sub(r"\[([^]]+)\]\(([^)#:]+)\)", lead, text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
