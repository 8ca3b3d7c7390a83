"""The figure of disturbance: which scores meet which divergence, and what is drawn where nothing moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from lofit.report.disturbance import disturbance
from lofit.report.figures import draw_disturbance
from tests.unit.report.frames import HEADLINE, plain, results, scored

SHOWN = HEADLINE | {"nq": "em"}
COMPARED = {"plain text": ["text", "verse"], "prompts": ["nq"]}


def run(method: str, task: str, on: str, metric: str, values: list[float]) -> tuple[dict[str, Any], list[float]]:
    return plain(task, sum(values) / len(values), method) | {"eval_task": on, "metric": metric}, values


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    runs = [run("base", "clutrr", "nq", "em", [1.0, 1.0, 0.0, 1.0])]  # once, for all tasks
    for method, gain, kl in (("base", 0.0, None), ("lora", 1.0, 0.4), ("iti", 0.0, 0.0)):
        for task, metric in HEADLINE.items():
            runs.append(run(method, task, task, metric, [gain, gain, 0.0, 1.0]))
            if kl is not None:
                runs.append(run(method, task, "text", "kl", [kl, 3 * kl, 2 * kl]))
                runs.append(run(method, task, "text", "cross_entropy", [2.0, 2.0, 2.0]))
                runs.append(run(method, task, "verse", "kl", [10 * kl, 10 * kl]))
                runs.append(run(method, task, "nq", "kl", [kl / 2, kl / 2]))
                runs.append(run(method, task, "nq", "em", [1.0 - gain, 1.0, 0.0, 1.0]))
    runs.append(run("red", "clutrr", "clutrr", "exact_match", [1.0, 0.0]))  # whose divergence is not known
    return disturbance(results(*(each for each, _ in runs)), scored(*runs), SHOWN, COMPARED)


def test_a_score_meets_the_divergence_of_the_same_fit(frame: pd.DataFrame) -> None:
    assert not (frame["method"] == "red").any()
    assert list(frame["moved_on"].unique()) == list(COMPARED)
    cells = frame[frame["moved_on"] == "plain text"].set_index(["task", "scored_on", "method"])
    windows = [0.4, 1.2, 0.8, 4.0, 4.0]  # of both texts
    assert cells["kl"]["clutrr", "clutrr", "lora"] == pytest.approx(sum(windows) / 5)
    prompts = frame[frame["moved_on"] == "prompts"].set_index(["task", "scored_on", "method"])
    assert prompts["kl"]["clutrr", "clutrr", "lora"] == pytest.approx(0.2)
    assert prompts["value"].equals(cells["value"])
    assert cells["value"]["clutrr", "clutrr", "lora"] == 0.75
    assert cells["value"]["clutrr", "nq", "lora"] == 0.5
    assert (cells["low"]["clutrr", "nq", "lora"], cells["high"]["clutrr", "nq", "lora"]) == (0, 1)
    assert cells["kl_low"]["clutrr", "clutrr", "lora"] == 0 < 1 < cells["kl_high"]["clutrr", "clutrr", "lora"]
    assert (cells["kl"][:, :, "base"] == 0).all()
    assert (cells["value"][:, "nq", "base"] == 0.75).all() and len(cells["value"][:, "nq", "base"]) == 2
    assert list(frame["task"].unique()) == list(HEADLINE)


def test_what_moves_nothing_is_a_line(frame: pd.DataFrame, tmp_path: Path) -> None:
    paths = draw_disturbance(frame, tmp_path / "disturbance", title="Disturbance")
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[2]), frame)
    still = draw_disturbance(frame[frame["kl"] == 0], tmp_path / "still", title="Nothing moved")
    assert still[1].stat().st_size > 0


def test_close_divergences_have_ticks_that_differ(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    close = frame.assign(kl=0.016, kl_low=0.015, kl_high=0.019)
    draw_disturbance(close[close["method"] == "lora"], tmp_path / "close", title="Close")
    drawn[0].draw_without_rendering()  # ticks get their labels
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
        labels = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
        shown = [label for label in labels if label]
        assert len(shown) == len(set(shown)) >= 3
