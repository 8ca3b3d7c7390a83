"""The report page: all of the results and nothing from outside, as a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import axe_core_python
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from lofit.config import load_config
from lofit.errors import ConfigError, ReportError
from lofit.files import read_jsonl
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import MAIN, RunTable
from lofit.report import interactive
from lofit.report.head_map import head_scores
from lofit.report.items import scores_of
from lofit.report.outputs import named, outputs
from lofit.report.page import write_report
from lofit.report.page_data import page_data
from lofit.report.parts import collect_results
from lofit.report.show import _item, show
from lofit.report.site import write_site
from tests.fitted import fitted_table, tiny_config, write_outputs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TRAINING = {"epochs": 1, "lr": 0.05}
HEADS = {"k": [3], "params": TRAINING}
METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {"heads": HEADS, "params": TRAINING},
    "lora": {"params": {"epochs": 3, "lr": 1e30, "batch_size": 2}},
    "red": {"search": {"params": {"lr": [0.001, 0.01]}}},
}
MINE = {
    "kind": "table",
    "title": "<b>A & B</b>",
    "arms": {"a|b": {"method": "lofit", "heads": HEADS, "params": TRAINING}},
}


PROBE = (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")
HINT = "the table goes on to the right"
FIGURES = 5  # scores, scores against costs, head_fraction, transfer, maps of heads


class Page(HTMLParser):
    """Images, references, headings and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "src":
                self.images.append(value or "")
            elif name == "href":
                self.references.append(value or "")
            elif name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    folder = tmp_path_factory.mktemp("page")
    experiments = {"head_fraction": {"k": [0.1, 0.25], "arms": {"LoFiT": METHODS["lofit"] | {"method": "lofit"}}}}
    experiments |= {"mine": MINE, "lens": {"arms": {"LoFiT": METHODS["lofit"] | {"method": "lofit"}}}}
    made = fitted_table(tiny_config(folder, METHODS, experiments=experiments, seeds=[1, 2], transfer={"k": 3}))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    for part in made.parts():
        collect_results(made, part)
    with pytest.raises(ReportError, match=r"main\.png is not there"):
        write_report(made)
    write_outputs(made)
    return made


@pytest.fixture(scope="module")
def report(table: RunTable) -> Path:
    return write_report(table)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_every_table_and_figure_is_on_the_page(table: RunTable, page: Page) -> None:
    shown = outputs(table)
    assert {f"{output.kind}-{output.name}" for output in shown} < set(page.ids)
    assert {"findings", "look", "costs-of-nodes", "failed", "again"} < set(page.ids)
    assert len(page.images) == sum(output.kind == "figure" for output in shown) == FIGURES
    for name in ("lofit (3 heads)", "a|b", "<b>A & B</b>", "Transfer of heads across tasks (LoFiT, Figure 2)"):
        assert name in page.texts
    assert "b" not in page.tags, "text of a configuration is text, not HTML"


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    assert all(image.startswith("data:image/png;base64,") for image in page.images)
    assert all(reference.removeprefix("#") in page.ids for reference in page.references)
    assert not page.tags & {"link", "iframe", "object"}


def test_failures_data_and_costs_are_told(table: RunTable, page: Page) -> None:
    failed = page.texts[page.texts.index("Failed") :]
    assert sum("lora-" in text for text in failed) == 2
    assert any("lower the learning rate" in text for text in failed)
    costs = page.texts[page.texts.index("Costs of nodes") : page.texts.index("Failed")]
    task, data = table.config.task("listops"), page.texts[page.texts.index("Data") : page.texts.index("Costs of nodes")]
    assert data[-8:] == ["listops", task.summary, "exact_match", "8 of 8", "4 of 4", "6 of 6", task.licence, HINT]
    rows = {
        tuple(costs[i : i + 2]): costs[i + 2 : i + 4] for i, text in enumerate(costs) if text in ("fit", "evaluate")
    }
    assert rows["fit", "lora"] == ["2", "2"]
    assert rows["fit", "red"] == ["2", "0"], "the search of the first seed"
    assert rows["evaluate", "lofit"] == ["4", "0"]


def test_the_configuration_on_the_page_gives_the_same_runs(table: RunTable, report: Path, tmp_path: Path) -> None:
    found = re.search(r"<pre>(models:.*?)</pre>", report.read_text(), re.DOTALL)
    assert found
    (tmp_path / "again.yaml").write_text(unescape(found[1]))
    assert list(RunTable(load_config(tmp_path / "again.yaml")).fits) == list(table.fits)


@pytest.fixture(scope="module", params=[400, 1400])
def seen(request: pytest.FixtureRequest, report: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a script finds on the page in a browser, in a narrow and in a wide window."""
    if not CHROMIUM:
        pytest.skip("browser: no chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")
    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    inline = "script-src 'unsafe-inline' 'unsafe-eval'"
    text = re.sub(r"script-src [^\"]*", inline, report.read_text(encoding="utf-8"), count=1)
    copy = folder / "probed.html"
    body, _, end = text.rpartition("</body>")  # the first is in a text of Vega
    copy.write_text(f"{body}<script>{axe}</script><script>{PROBE}</script></body>{end}", encoding="utf-8")
    dumped = browse(folder, f"--window-size={request.param},1200", "--dump-dom", copy.as_uri())
    found = re.search(r'<pre id="probe">(.*?)</pre>', dumped)
    assert found, dumped[-2000:]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    assert "error" not in told, told["error"]
    return told


def test_a_browser_shows_it_whole(seen: dict[str, Any]) -> None:
    """Every image is decoded, figures with an interactive form are drawn, and nothing sticks out of the page."""
    assert len(seen["images"]) == FIGURES
    assert min(seen["images"]) > 500
    assert seen["width"] <= seen["window"]
    assert float(seen["heading"].removesuffix("px")) > 25
    assert seen["hidden"] == FIGURES - 1, "transfer is a picture"
    assert seen["drawn"] == 1 + 2 + 1 + 2  # scores; costs in parameters and seconds; a curve; two maps
    assert set(seen["hinted"]) <= {"block"}
    assert seen["loaded"] == 0


def test_tables_are_sorted_and_filtered(seen: dict[str, Any]) -> None:
    def numbers(column: list[str]) -> list[float]:
        return [float(text.split()[0]) for text in column if text[0].isdigit()]

    assert numbers(seen["up"]) == sorted(numbers(seen["up"]))
    assert numbers(seen["down"]) == sorted(numbers(seen["up"]), reverse=True)
    assert seen["sorted"] == "descending"
    assert len(seen["up"]) == 4
    assert len(seen["filtered"]) == 1
    assert "lora" in seen["filtered"][0]


def test_a_cell_opens_its_items(table: RunTable, seen: dict[str, Any]) -> None:
    """The two methods are set, kinds of items are counted as the samples say, and answers are those of the samples."""
    assert seen["chosen"] == ["listops", "base", "lofit (3 heads)"]
    nodes = [node for node in table.evaluations.values() if node.fit.id in table.comparison and node.fit.seed == 1]
    samples = {
        node.fit.method: read_jsonl(table.folder(node) / "samples.jsonl")
        for node in nodes
        if (table.folder(node) / "samples.jsonl").is_file()
    }
    pairs = [
        (base["exact_match"], lofit["exact_match"])
        for base, lofit in zip(samples["base"], samples["lofit"], strict=True)
    ]
    kinds = {"gained": (0, 1), "lost": (1, 0), "wrong": (0, 0), "right": (1, 1)}
    expected = {"all": len(pairs)} | {name: pairs.count(kind) for name, kind in kinds.items()}
    assert seen["counts"] == {name: f"{count} of {len(pairs)} items" for name, count in expected.items()}
    assert seen["second"] == f"{len(pairs)} of {len(pairs)} items", "the base model is run once, on the same items"
    for text, base, lofit in zip(seen["items"], samples["base"], samples["lofit"], strict=False):
        assert " ".join(base["doc"]["prompt"].split()) in " ".join(text.split())
        for sample in (base, lofit):
            assert " ".join(sample["filtered_resps"][0].split()) in " ".join(text.split())
    assert seen["curves"] == 1
    rows = pd.read_csv(table.config.results / "tables" / "lens.csv").groupby(["layer", "head"], sort=False)
    assert seen["lens"] == [
        f"layer {layer}, head {head}{tokens['norm'].iloc[0]:.3f}{', '.join(tokens['token'])}"
        for (layer, head), tokens in rows
    ]


def test_a_head_tells_its_place_and_score(table: RunTable, seen: dict[str, Any]) -> None:
    told = re.fullmatch(r"layer(\d+)head(\d+)score([\d.e-]+)rank(\d+)selected(first|last|no)", seen["hover"])
    assert told, seen["hover"]
    scores = head_scores(table)
    first = scores[scores["ranking"] == scores["ranking"].iloc[0]].set_index(["layer", "head"])
    row = first.loc[(int(told[1]), int(told[2]))]
    assert float(told[3]) == pytest.approx(row["score"], rel=1e-3)
    assert (int(told[4]), told[5]) == (row["rank"], row["selected"] or "no")


def test_axe_finds_nothing_serious(seen: dict[str, Any]) -> None:
    assert seen["axe"] == []


def test_a_map_of_many_heads_is_cut_by_whole_rankings(table: RunTable, tmp_path: Path) -> None:
    """Altair takes no more than 5,000 rows unless it is told; the first seed is kept before the second."""
    [output] = named(table, "heads")
    sides, per_map = 40, 40 * 40
    where = {"model": "m", "task": "t", "localizer": "l", "fold": 0, "training_seed": 0, "selected": ""}
    parts = [
        pd.DataFrame(
            {
                **where,
                "ranking": f"{localizer}/{seed}",
                "localizer": localizer,
                "seed": seed,
                "layer": np.repeat(np.arange(sides), sides),
                "head": np.tile(np.arange(sides), sides),
                "score": np.arange(per_map) / 7,
                "rank": np.arange(per_map) + 1,
            }
        )
        for seed in range(6)
        for localizer in ("a", "b", "c", "d")
    ]
    output.path(tmp_path).parent.mkdir()
    pd.concat(parts).to_csv(output.path(tmp_path).with_suffix(".csv"), index=False)
    for panel in interactive.panels(output, tmp_path):
        maps = panel["data"]["values"]
        assert len(maps) == interactive.MOST_HEADS // per_map
        assert [entry["map"] for entry in maps[:4]] == [f"{localizer}, 0" for localizer in ("a", "b", "c", "d")]
        assert {len(entry["score"]) for entry in maps} == {per_map}


@pytest.mark.skipif(not CHROMIUM, reason="browser: no chromium on this machine")
def test_the_page_itself_draws_its_figures_without_a_word_on_the_console(report: Path, tmp_path: Path) -> None:
    """With the policy that lets no other script run."""
    assert "default-src 'none'; " in report.read_text(encoding="utf-8")
    picture = tmp_path / "page.png"
    said = browse(tmp_path, "--window-size=1400,2000", "--dump-dom", report.as_uri(), stderr=True)
    assert said[0].count("<svg") >= 6
    assert "CONSOLE" not in said[1], said[1]
    browse(tmp_path, "--window-size=1400,2000", f"--screenshot={picture}", report.as_uri())
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (2000, 1400)
    assert pixels.std() > 0.05


def test_few_shot_answers_are_to_the_same_items(tmp_path: Path) -> None:
    """Whatever examples are in front of their prompts."""
    made = fitted_table(tiny_config(tmp_path, {"base": None, "fewshot": {"params": {"shots": 2}}}, seeds=[1, 2]))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    collect_results(made, MAIN)
    data = page_data(made)
    assert [run["method"] for run in data["runs"]] == ["base", "fewshot", "fewshot"]
    assert len({run["set"] for run in data["runs"]}) == len(data["items"]) == 1
    assert data["shown"] == data["of"] == 6
    [node, _] = [node for node in made.evaluations.values() if node.fit.method == "fewshot"]
    sample = read_jsonl(made.folder(node) / "samples.jsonl")[0]
    [items] = data["items"].values()
    assert sample["doc"]["prompt"].endswith(items[0]["prompt"]) and sample["doc"]["prompt"] != items[0]["prompt"]


def test_a_site_over_several_studies(table: RunTable, report: Path, tmp_path: Path) -> None:
    """Every score with its interval, the pages beside it, names that tell studies of one name apart."""
    first, second = table.config.results, tmp_path / "again" / table.config.results.name
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("runs", "activations", "localize"))
    index = write_site([first, second], tmp_path / "site")
    names = [f"{folder.parent.name}-{folder.name}" for folder in (first, second)]
    for name in names:
        assert (tmp_path / "site" / name / "report.html").read_bytes() == report.read_bytes()
    page = Page(index.read_text(encoding="utf-8"))
    assert [reference for reference in page.references if reference.endswith(".html")] == [
        f"{name}/report.html" for name in names
    ]
    board = pd.read_csv(tmp_path / "site" / "leaderboard.csv")
    shown = (first / "tables" / "main.md").read_text().replace("**", "").replace("\\", "")
    assert set(board["study"]) == set(names)
    assert len(board) == 2 * 4
    scored = board[board["percent"].notna() & (board["study"] == names[0])]
    assert set(scored["method"]) == {"base", "lofit (3 heads)", "red"}
    for line in scored.to_dict("records"):
        text = f"{line['percent']:.1f} [{line['percent_low']:.1f}, {line['percent_high']:.1f}]"
        assert text in page.texts
        assert text in shown
    trained = scored.set_index("method")["trained_params"]
    assert trained["lofit (3 heads)"] == 3 * 8 < trained["red"]
    with pytest.raises(ReportError, match=r"has no drawn study \(report\.html, figures\); run it"):
        write_site([tmp_path], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    if CHROMIUM:
        drawn, said = browse(tmp_path, "--window-size=400,900", "--dump-dom", index.as_uri(), stderr=True)
        assert "<svg" in drawn
        assert "CONSOLE" not in said, said


def browse(folder: Path, *arguments: str, stderr: bool = False) -> Any:
    """Run the browser and return what it prints; with ``stderr``, what it says on the console too."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
    command += [
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return (done.stdout, done.stderr) if stderr else done.stdout


def test_what_is_behind_a_cell(table: RunTable) -> None:
    """Value and interval of the table itself, every run of both seeds, and its items with prompt and answer."""
    lines = list(show(table, "main", "lofit", "listops", n_items=2))
    shown = (table.config.results / "tables" / "main.md").read_text()
    value = re.search(r"listops, tiny: (\S+ \[\S+ \S+\])", lines[0])
    assert value and value[1] in shown.replace("**", "")
    runs = [fit for fit in table.comparison.values() if fit.method == "lofit"]
    assert [line for line in lines if line.startswith("## ")] == [
        f"## seed {fit.seed}, fold 0: {fit.id}" for fit in runs
    ]
    text = "\n".join(lines)
    for fit in runs:
        assert f"files: {table.folder(fit)}" in text
        samples = read_jsonl(
            next(table.folder(node) for node in table.evaluations.values() if node.fit.id == fit.id) / "samples.jsonl"
        )
        for sample in samples[:2]:
            asked, answer = sample["arguments"][0][0], sample["filtered_resps"][0]
            assert f"### {sample['doc']['id']}: exact_match" in text and asked in text
            assert f"right: {sample['doc']['answers'][0]}\nanswered: {answer}" in text
    wrong = "\n".join(show(table, "main", "lofit", "listops", n_items=6, which="wrong"))
    assert wrong.count(": exact_match 0") == wrong.count("### ") > 0


def test_which_choices_are_right_and_which_scores_are_meant() -> None:
    """Of our tasks and lm-eval's: an index, labels, a text, or an option that is counted from 1."""

    def marks(doc: dict[str, Any], target: Any, choices: list[str]) -> list[bool]:
        asked = [[f"context {n if len(set(choices)) == 1 else ''}", choice] for n, choice in enumerate(choices)]
        sample = {"doc_id": 0, "doc": doc, "target": target, "arguments": asked, "filtered_resps": [[-1.0, False]] * 2}
        lines = [line for line in _item(sample, "acc 1") if "nats" in line]
        return ["nats right" in line for line in lines]

    assert marks({"gold": 1}, 1, [" 1", " 2"]) == [False, True]
    assert marks({"labels": [1, 0]}, 0, [" a", " b"]) == [True, False]
    assert marks({}, 1, [" no", " yes"]) == [False, True]
    assert marks({}, " yes", [" no", " yes"]) == [False, True]
    assert marks({"gold": 1}, " rest", [" rest", " rest"]) == [False, True]
    assert marks({"answer": "2"}, " rest", [" rest", " rest"]) == [False, True]
    sample = {"task": "gsm8k", "filter": "flexible-extract", "exact_match": 1.0, "doc": {}, "doc_id": 3}
    scores = scores_of(sample)
    assert scores["exact_match.flexible-extract"] == scores["gsm8k.exact_match.flexible-extract"] == 1.0
    assert "exact_match" not in scores


def test_what_is_behind_a_search_a_failure_and_a_point_of_a_curve(table: RunTable) -> None:
    searched = "\n".join(show(table, "main", "red", "listops"))
    assert 'chosen: {"lr": 0.0' in searched and 'of: [{"lr": 0.001}, {"lr": 0.01}]' in searched
    failed = "\n".join(show(table, "main", "lora", "listops"))
    assert "failed (exact_match, paper)" in failed and "lower the learning rate" in failed
    point = next(iter(show(table, "head_fraction", "LoFiT at 0.25", "listops")))
    assert point.startswith("head_fraction, LoFiT at 0.25, listops, tiny: ")
    for asked, said in (
        (("nain", "lofit", "listops"), "unknown table 'nain'; did you mean 'main'?"),
        (("main", "lofti", "listops"), "unknown row 'lofti'"),
        (("main", "lo", "listops"), "'lo' is part of several names: lofit (3 heads), lora; give one whole"),
        (("main", "lofit", "siqa"), "unknown column 'siqa'; choose from: listops"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            list(show(table, *asked))
