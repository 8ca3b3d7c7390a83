"""The common style of all figures, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lofit.files import atomic_path

PNG_DPI = 200
LINES: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "marker": marker, "linestyle": line}
    for colour, marker, line in zip(
        # The colour-blind safe palette of Okabe and Ito; in greyscale, markers and dashes differ.
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
        ("o", "s", "^", "D", "v", "P", "X"),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        strict=True,
    )
)
"""Line styles of a figure, in order; see :func:`line_style`."""
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures look alike on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.labelsize": 8,
    "hatch.linewidth": 0.6,
    "hatch.color": "0.72",
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "text.parse_math": False,  # names and titles come from the user: two dollar signs are not a formula
    "text.usetex": False,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the shared settings inside the block; draw and save within it."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def line_style(at: int) -> dict[str, Any]:
    """Return colour, marker and dashes of a line; from the eighth on, a colour comes back with other ones."""
    other = LINES[(at + at // len(LINES)) % len(LINES)]
    return LINES[at % len(LINES)] | {"marker": other["marker"], "linestyle": other["linestyle"]}


def set_caption(figure: Figure, caption: str) -> None:
    """Write a caption below a figure, in as many lines as its width asks for."""
    figure.set_label(caption)  # which goes into the files, for the page
    figure.supxlabel(textwrap.fill(caption, int(15 * figure.get_figwidth())), x=0.01, ha="left")


def set_title(figure: Figure, title: str) -> None:
    """Write a title above a figure, in as many lines as its width asks for."""
    figure.suptitle(textwrap.fill(title, int(figure.get_figwidth() * 12)), fontsize=10)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``<stem>.pdf`` (reproducible: no creation date) and ``<stem>.png`` (200 dpi); return both paths.

    The files hold the caption, which is the figure's label, as ``Subject`` and ``Description``.
    """
    paths, caption = [], str(figure.get_label())
    for suffix, metadata in ((".pdf", {"CreationDate": None, "Subject": caption}), (".png", {"Description": caption})):
        path = stem.parent / f"{stem.name}{suffix}"
        with atomic_path(path) as part:
            figure.savefig(part, dpi=PNG_DPI, metadata=metadata)
        paths.append(path)
    return paths


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Return black or white, whichever has the higher contrast on ``colour`` (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
