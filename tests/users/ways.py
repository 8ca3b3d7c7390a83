"""What users do, as tutorials and as scripts beside this file: how many commands and minutes each takes.

python -m tests.users.ways          # with SmolLM2-135M, as a user would
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TUTORIALS = REPOSITORY / "docs" / "tutorials"
WAYS = {path.stem: path for path in sorted([*Path(__file__).parent.glob("*.sh"), *TUTORIALS.glob("*.md")])}
MOODS = {"grand": "positive", "dull": "negative"}
BLOCK = re.compile(r"(?:`([\w./]+)`:\n\n)?```(\w*)\n(.*?)```", re.DOTALL)
"""In a tutorial, the file that a block is, if the line before names one; its language, none of commands; its text."""


def script(way: str, model: Path | None = None) -> str:
    """What a user types, for bash; of a tutorial, its commands and the files that it has the user write.

    Args:
        way: its name.
        model: a transformers folder of 3 layers and 4 heads, to take in the place of a tutorial's model.
    """
    text = WAYS[way].read_text(encoding="utf-8")
    if WAYS[way].suffix == ".sh":
        return text
    lines = []
    for file, language, body in BLOCK.findall(text):
        if not language:
            lines.append(body)
        elif file:
            lines.append(f"cat > {file} <<'END'\n{body}END\n")
    text = "".join(lines)
    if way == "cluster":  # nothing is installed, downloaded or submitted, and the workflow is a smaller one
        text = text.replace("pip install", ": pip install").replace("lofit run ", "lofit run -n ")
        text = text.replace("--like paper", "--like smoke")
    if model:
        source = f"source: {{kind: local, path: {model}}}"
        text = re.sub("source: {kind: hub.*}", source, text).replace("n_layers: 32", "n_layers: 3")
        text = text.replace("n_heads: 15", "n_heads: 4").replace("--model smollm2-135m", f"--model {model}")
        text = text.replace(
            "models: [smollm2-135m]", f"models: [tiny]\nmodel_sources: {{tiny: {{{source}, n_layers: 3, n_heads: 4}}}}"
        )
    return text


def commands(way: str) -> int:
    """Number of commands of `lofit` that a user types."""
    return len(re.findall(r"^(?:wrong )?lofit ", script(way), re.MULTILINE))


def install_wheel(folder: Path) -> Path:
    """The programs of a fresh environment with the wheel in it; what the wheel depends on is that of this process."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("lofit-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return python.parent


def go(way: str, folder: Path, programs: Path, model: Path | None = None) -> tuple[str, float]:
    """Run a script in a folder, which is empty but for a table of reviews, and return what it printed, and seconds.

    Args:
        way: name of the script.
        folder: working folder.
        programs: folder of `lofit`.
        model: a transformers folder of 3 layers and 4 heads; None: SmolLM2-135M.

    Raises:
        RuntimeError: a command failed.
    """
    rows = [f"It was {word} {i}.,{mood}" for i in range(12) for word, mood in MOODS.items()]
    (folder / "reviews.csv").write_text("\n".join(["text,mood", *rows]) + "\n")
    source = f"{{source: {{kind: local, path: {model}}}, n_layers: 3, n_heads: 4}}"
    models = f"models: [mine]\\nmodel_sources: {{mine: {source}}}" if model else "models: [smollm2-135m]"
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LOFIT_CONFIG")}
    env |= {
        "PATH": f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODEL": str(model or "smollm2-135m"),
        "MODELS": models,
        "REPOSITORY": str(REPOSITORY),
        "COLUMNS": "160",
    }
    start = time.monotonic()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(way, model)],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{way}:\n{done.stdout[-4000:]}")
    return done.stdout, time.monotonic() - start


def main() -> None:
    """Run all ways, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, own = install_wheel(Path(folder)), Path(sys.executable).parent
        print("| way | commands | minutes |\n|---|---|---|")
        for way in WAYS:
            place = Path(folder) / "ways" / way
            place.mkdir(parents=True)
            _, seconds = go(way, place, wheel if way == "pip_alone" else own)
            print(f"| {way.replace('_', ' ').replace('-', ' ')} | {commands(way)} | {seconds / 60:.1f} |", flush=True)


if __name__ == "__main__":
    main()
