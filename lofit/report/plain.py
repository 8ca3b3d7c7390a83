"""Write tables of text: CSV with all numbers, Markdown and LaTeX for people."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lofit.files import atomic_path, write_text

DAGGER = "†"
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}"}
    | {"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"}
    | {"±": "$\\pm$", DAGGER: "$^{\\dagger}$"}
)


def write_plain_table(frame: pd.DataFrame, shown: pd.DataFrame, stem: Path, *, title: str, legend: str) -> None:
    """Write ``<stem>.csv`` (all numbers), ``<stem>.md`` and ``<stem>.tex`` (what people read).

    Args:
        frame: content of the CSV.
        shown: content of Markdown and LaTeX, as text; its column names are the headings.
        stem: path without suffix.
        title: printed above the Markdown table and first in the LaTeX caption.
        legend: printed below the Markdown table and after the title in the LaTeX caption.
    """
    with atomic_path(stem.parent / f"{stem.name}.csv") as part:
        frame.to_csv(part, index=False)
    shown = shown.astype(str)
    body = shown.map(escape_pipe).to_markdown(index=False, disable_numparse=True)
    write_text(stem.parent / f"{stem.name}.md", f"**{escape_pipe(title)}**\n\n{body}\n\n{legend}\n")
    style = shown.style.hide(axis="index").format(latex_text).format_index(latex_text, axis=1)
    tabular = style.to_latex(hrules=True, column_format="l" * len(shown.columns))
    write_text(stem.parent / f"{stem.name}.tex", latex_table(tabular, f"{title}. {legend}", stem.name))


def latex_table(tabular: str, caption: str, label: str, notes: str = "") -> str:
    """Return a LaTeX ``table`` environment, scaled down if it is wider than the text.

    It needs the packages ``booktabs`` and ``graphicx``.

    Args:
        tabular: LaTeX of the ``tabular`` environment.
        caption: caption as plain text.
        label: label without the prefix ``tab:``.
        notes: LaTeX below the table.
    """
    scaled = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular.rstrip()}}}\n"
    return (
        "% needs \\usepackage{booktabs,graphicx}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{latex_text(caption)}}}\n\\label{{tab:{label}}}\n{scaled}"
        + (f"\\begin{{flushleft}}\\footnotesize\n{notes}\\end{{flushleft}}\n" if notes else "")
        + "\\end{table}\n"
    )


def latex_text(text: object) -> str:
    """Escape the special characters of LaTeX, and write signs such as ± in math mode."""
    return str(text).translate(_LATEX)


def escape_pipe(text: str) -> str:
    """Escape the pipe, which would end a cell of a Markdown table."""
    return text.replace("|", "\\|")
