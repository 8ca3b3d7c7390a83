"""Broken configurations give one line that names file, key and remedy; good ones keep their meaning."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import json_schema, load_config, parse_config
from lofit.errors import ConfigError, error_lines
from lofit.plan.table import RunTable

REPOSITORY = Path(__file__).parents[2]

GOOD: dict[str, Any] = {
    "models": ["smollm2-135m"],
    "tasks": {"listops": {"options": {"n_train": 8}}},
    "methods": {"base": None, "lofit": {"heads": {"k": [0.1]}}},
}


def put(path: str, value: Any) -> dict[str, Any]:
    """A good configuration with one key set; missing mappings on the way are made."""
    config = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    place: Any = config
    for key in parents:
        place[key] = place.get(key) or {}
        place = place[key]
    place[last] = value
    return config


def search(**values: list[Any]) -> dict[str, Any]:
    """Configuration of a method that is searched over some of its hyperparameters."""
    return {"search": {"params": values}}


BROKEN = {
    "unknown key": (put("modles", ["x"]), ["modles", "did you mean 'models'?"]),
    "unknown key inside": (put("methods/lofit/heads/kk", [3]), ["methods.lofit.heads.kk", "did you mean 'k'?"]),
    "unknown model": (put("models", ["smollm2-135"]), ["models", "did you mean 'smollm2-135m'?"]),
    "unknown task": (put("tasks/siqaa", {}), ["tasks", "did you mean 'siqa'?"]),
    "unknown method": (put("methods/loffit", {}), ["methods", "did you mean 'lofit'?"]),
    "unknown localizer": (put("methods/lofit/heads/localizer", "itti"), ["methods.lofit.heads.localizer", "lofit"]),
    "unknown task option": (put("tasks/listops/options/n_trian", 3), ["tasks.listops.options.n_trian", "n_train"]),
    "more rows than there are": (
        put("tasks/mquake", {"options": {"n_train": 500}}),
        ["tasks.mquake.options.n_train", "500 rows asked for, of about 134"],
    ),
    "unknown hyperparameter": (put("methods/lofit/params/learning_rate", 1), ["methods.lofit.params", "unknown key"]),
    "with and without the chat template": (put("protocols", ["paper", "open-chat"]), ["protocols", "another file"]),
    "a system message that nobody reads": (put("system", "Be brief."), ["system", "add -chat"]),
    "wrong type": (put("seeds", "forty-two"), ["seeds.0", "valid integer"]),
    "wrong hyperparameter": (put("methods/lofit/params/lr", -1), ["methods.lofit.params.lr", "greater than 0"]),
    "too many heads": (put("methods/lofit/heads/k", [271]), ["methods.lofit.heads.k", "270 heads", "smaller"]),
    "share above one": (put("methods/lofit/heads/k", [1.5]), ["methods.lofit.heads.k", "270 heads"]),
    "unknown shared hyperparameter": (
        put("shared_params", [{"set": {"weight_dekay": 0.01}}]),
        ["shared_params.0.set: unknown hyperparameter 'weight_dekay'; did you mean 'weight_decay'?"],
    ),
    "shared hyperparameter of an absent task": (
        put("shared_params", [{"task": ["listops", "siqa"], "set": {"epochs": 3}}]),
        ["shared_params.0.task: unknown task 'siqa'"],
    ),
    "wrong shared hyperparameter": (
        put("shared_params", [{"set": {"epochs": 0}}]),
        ["methods.lofit", "epochs", "greater than or equal to 1"],
    ),
    "precision of an absent model": (
        put("model_dtypes", {"llama-2-7b": "float32"}),
        ["model_dtypes: unknown model 'llama-2-7b'"],
    ),
    "full fine-tuning of one model in few bits": (
        {**put("methods/full", None), "model_dtypes": {"smollm2-135m": "nf4"}},
        ["methods.full", "dtype"],
    ),
    "empty grid": (put("methods/lofit/heads/k", []), ["methods.lofit.heads.k: empty", "at least 1 entry"]),
    "no tasks": (put("tasks", {}), ["tasks: empty", "at least 1 entry"]),
    "no such fold": (put("tasks/truthfulqa", {"folds": [2]}), ["tasks.truthfulqa.folds", "no fold 2", "[0, 1]"]),
    "heads for a method without": (put("methods/lora/heads", {"k": [3]}), ["methods.lora.heads", "remove"]),
    "method of another task": (put("methods/repe_contrast", None), ["methods.repe_contrast", "truthfulqa only"]),
    "heads of an absent task": (put("methods/lofit/heads/task", "siqa"), ["methods.lofit.heads.task", "siqa"]),
    "transfer of a method that chooses": (
        put("methods", {"iti": None}) | {"transfer": {"method": "iti"}},
        ["transfer.method", "choose lofit"],
    ),
    "evaluation-only task to train for": (put("tasks/mmlu", None), ["tasks.mmlu: for evaluation only", "retention"]),
    "own task under a name of the package": (put("tasks/listops/path", "x"), ["tasks.listops.path", "another name"]),
    "own task that is not there": (put("tasks/mine", {"path": "mine"}), ["tasks.mine.path: mine: cannot be read"]),
    "unknown task to retain": (put("retention", {"mmul": None}), ["retention: unknown task 'mmul'", "mmlu"]),
    "retention without a base": (
        put("methods", {"lora": None}) | {"retention": {"mmlu": None}},
        ["retention: differences", "add 'base'"],
    ),
    "suite of an absent task": (put("suite", ["siqa"]), ["suite: unknown task 'siqa'"]),
    "full fine-tuning of few bits": ({**put("methods/full", None), "dtype": "nf4"}, ["methods.full", "dtype"]),
    "few bits for vllm": ({**put("backend", "vllm"), "dtype": "int8"}, ["backend", "not quantised"]),
    "plain text by another backend": (
        {**put("retention", {"wikitext": None}), "backend": "hf"},
        ["retention.wikitext", "backend packed"],
    ),
    "unknown protocol": (put("protocols", ["lm-eval"]), ["protocols", "'paper', 'harness', 'open', 'paper-chat'"]),
    "task without a protocol": (put("protocols", ["harness"]), ["protocols: listops is scored under 'paper' only"]),
    "open answers of tasks without": (
        put("protocols", ["paper", "open"]),
        ["protocols: none of the tasks is scored under 'open'", "truthfulqa"],
    ),
    "a protocol that no task has": (
        put("protocols", ["paper", "harness"]),
        ["protocols: none of the tasks is scored under 'harness'; remove it"],
    ),
    "an experiment without a score": (
        put("tasks/siqa", {})
        | {"protocols": ["harness", "paper"], "experiments": {"head_selection": {"tasks": ["listops"]}}},
        ["experiments.head_selection.tasks: none of them is scored under 'harness'", "put another one first"],
    ),
    "transfer without a score": (
        put("tasks/siqa", {}) | {"protocols": ["harness", "paper"], "transfer": {"tasks": ["listops"]}},
        ["transfer.tasks: none of them is scored under 'harness'"],
    ),
    "contrast vectors asked for words": (
        put("tasks", {"truthfulqa": None}) | {"methods": {"repe_contrast": None}, "protocols": ["open"]},
        ["methods.repe_contrast: not scored under open", "add paper"],
    ),
    "examples asked for where prompts are not ours": (
        put("tasks", {"siqa": None}) | {"methods": {"base": None, "fewshot": None}, "protocols": ["harness"]},
        ["methods.fewshot: not scored under harness", "add paper"],
    ),
    "an arm that is not scored first": (
        put("tasks", {"truthfulqa": None})
        | {
            "protocols": ["open", "paper"],
            "experiments": {"mine": {"kind": "table", "arms": {"a": {"method": "repe_contrast"}}}},
        },
        ["experiments.mine.arms.a.method: 'repe_contrast' is not scored under 'open'"],
    ),
    "a primary arm that is none": (
        put("experiments", {"pareto": {"primary": "LoFiT"}}),
        ["experiments.pareto.primary: unknown arm 'LoFiT'", "LoFiT (3%)"],
    ),
    "judges with nothing to read": (put("judges", {}), ["judges: they read open answers only", "add 'open'"]),
    "seed twice": (put("seeds", [1, 1]), ["seeds", "'1' is given twice"]),
    "random heads of random heads": (
        put("methods", {"lofit": {"heads": {"localizer": "random"}}}) | {"transfer": {"random_row": True}},
        ["transfer.random_row", "are random anyway"],
    ),
    "transfer of an absent task": (put("transfer", {"tasks": ["siqa"]}), ["transfer.tasks", "siqa"]),
    "transfer of the last heads": (
        put("methods/lofit/heads/bottom", True) | {"transfer": {}},
        ["transfer.method", "ranked last"],
    ),
    "transfer of an absent method": (put("transfer", {"method": "lora"}), ["transfer.method", "add it"]),
    "model name that leaves its folder": (
        put("model_sources", {"../x": {"source": {"kind": "local", "path": "m"}, "n_layers": 1, "n_heads": 1}}),
        ["model_sources", "pattern"],
    ),
    "search of what is not fitted": (put("methods/base", search(lr=[1, 2])), ["methods.base.search", "no fit"]),
    "search of nothing": (put("methods/lofit", {"search": {}}), ["methods.lofit.search: 1 settings", "at least 2"]),
    "search of a value twice": (
        put("methods/lofit", search(lr=["1e-4", 0.0001])),
        ["methods.lofit.search.params.lr: 0.0001 is there twice"],
    ),
    "search of one value": (put("methods/lofit", search(lr=[1])), ["methods.lofit.search", "more values"]),
    "search below its budget": (
        put("methods/lofit", search(lr=[1, 2])) | {"search_points": 3},
        ["methods.lofit.search: 2 settings", "at least 3"],
    ),
    "search of a setting that is wrong": (
        put("methods/lofit", search(lr=[1, -1])),
        ["methods.lofit.search (lr=-1).params.lr", "greater than 0"],
    ),
    "search of what the loss depends on": (put("methods/lofit", search(beta=[1, 2])), ["search.beta", "compared"]),
    "search over heads of a method without": (put("methods/lora", {"search": {"k": [1, 2]}}), ["search.k", "no heads"]),
    "search over heads that are chosen anyway": (
        put("methods/iti", {"search": {"k": [1, 2]}}),
        ["methods.iti.search: iti chooses among params.alpha and heads.k on validation anyway"],
    ),
    "searches of different size": (
        put("methods", {"lora": search(lr=[1, 2]), "red": search(lr=[1, 2, 3])}),
        ["methods.red: tries 3 settings and methods.lora 2", "equal"],
    ),
    "search beside the grid of the others": (
        put("methods", {"lora": search(lr=[1, 2]), "red": None}),
        ["methods.red: tries 4 settings and methods.lora 2", "equal"],
    ),
    "grid that does not ascend": (put("lr_grid", [1, 10, 3]), ["lr_grid: [1.0, 10.0, 3.0] does not ascend"]),
    "grid of one": (put("lr_grid", [1]), ["lr_grid", "at least 2"]),
    "seeds of an experiment": (
        put("experiments", {"peft": {"seeds": [42, 7]}}),
        ["experiments.peft.seeds: 7", "add it"],
    ),
    "not a mapping": ([1], ["mapping"]),
    "infinite number": (put("training", {"prefix_memory_gb": float("inf")}), ["training.prefix_memory_gb", "finite"]),
    "infinite value to choose from": (
        put("methods/iti", {"params": {"alpha": [float("inf")]}}),
        ["methods.iti.params.alpha.0", "finite"],
    ),
    "yes for a number of heads": (put("methods/lofit/heads/k", [True]), ["methods.lofit.heads.k.0", "found True"]),
    "seed that generators do not take": (put("seeds", [2**32]), ["seeds.0", "less than 4294967296"]),
    "threads that torch does not take": (put("threads", 2**40), ["threads", "less than or equal to 4096"]),
    "name too long for a folder": (
        put("model_sources", {"x" * 300: {"source": {"kind": "local", "path": "m"}, "n_layers": 1, "n_heads": 1}}),
        ["model_sources", "pattern"],
    ),
    "search without end": (
        put("methods/lora", search(lr=[*range(1, 301)], l1=[*range(300)])),
        ["methods.lora.search: 90000 settings, more than 10000"],
    ),
    "unknown key that is a word of the form": (put("hub", {}), ["hub: unknown key 'hub'"]),
    "name that no file can have": (put("results", "x" * 300), ["results: a name of more than 255 bytes"]),
    "key of two lines": (put("mod\nels", 1), ["mod\\nels", "unknown key"]),
    "value without end": (put("device", "x" * 10**6), ["device", "..."]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_configuration_is_one_clear_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, expected = BROKEN[name]
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("broken.yaml", *expected):
        assert part in message
    assert [p.name for p in tmp_path.iterdir()] == ["broken.yaml"], "nothing is downloaded or written"


def merged(one: Any, other: Any) -> Any:
    """Both mappings in one; where both have a value, that of ``other``."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {key: merged(one[key], value) if key in one else value for key, value in other.items()}


def test_all_problems_are_told_at_once() -> None:
    """Every two of the broken configurations in one: an error is never followed by a crash, nor a crash by an error."""
    names, told = list(BROKEN), 0
    for number, name in enumerate(names):
        for step in (1, 7, 31):
            other = names[(number + step) % len(names)]
            try:
                parse_config(merged(BROKEN[name][0], BROKEN[other][0]))
            except ConfigError as error:
                assert len(set(error.problems)) == len(error.problems)
                assert all(problem.startswith("config: ") and "\n" not in problem for problem in error.problems)
                told += len(error.problems) > 1
    assert told > len(names) / 2


def test_problems_are_told_in_the_order_in_which_they_are_to_be_solved(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    wrong: dict[str, Any] = {"models": ["smollm"], "tasks": {"siqaa": None}, "methods": {"loffit": None}}

    def problems(config: dict[str, Any]) -> list[str]:
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        done = CliRunner().invoke(app, ["plan", "--configfile", str(file)])
        assert isinstance(done.exception, ConfigError)
        return [
            line.removeprefix(f"error: {file}: ").split(": ")[0] for line in error_lines(done.exception).split("\n")
        ]

    keys = {"thread": 2, "seeds": ["x", 1.5], "device": "gpu", "sedes": 3}
    assert problems(wrong | keys) == ["thread", "sedes", "seeds.0", "seeds.1", "device"]
    assert problems(wrong | {"seeds": [1, 1], "reuse": "none"}) == ["seeds", "models", "methods", "reuse", "tasks"]
    params = {"params": {"lr": -1, "epochs": 0}}
    assert problems(GOOD | {"methods": {"lora": params, "lofit": {"heads": {"k": 300}}}}) == [
        "methods.lora.params.lr", "methods.lora.params.epochs", "methods.lofit.heads.k",
    ]  # fmt: skip


def test_a_list_of_one_needs_no_brackets() -> None:
    short = {"models": "smollm2-135m", "seeds": 42, "protocols": "paper", "retention": {"nq_open": None}}
    short["methods"] = {"base": None, "lofit": {"heads": {"k": 0.1}}, "iti": {"heads": {"k": 8}}}
    long = {"models": ["smollm2-135m"], "seeds": [42], "protocols": ["paper"], "retention": {"nq_open": None}}
    long["methods"] = {"base": None, "lofit": {"heads": {"k": [0.1]}}, "iti": {"heads": {"k": [8]}}}
    assert parse_config(GOOD | short) == parse_config(GOOD | long)


def test_missing_file_and_bad_yaml_are_clear(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: [a\ntasks: {")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML at line \d"):
        load_config(bad)
    bad.write_text("a: !!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(bad)


def test_plan_shows_the_size_and_on_demand_every_run(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    result = CliRunner().invoke(app, ["plan", "--configfile", str(file)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "smollm2-135m/listops/fold0/seed42/base-" not in result.output
    whole = CliRunner().invoke(app, ["plan", "--verbose", "--configfile", str(file)]).output
    assert whole.count("smollm2-135m/listops/fold0/seed42/") == len(RunTable(parse_config(GOOD)).fits)
    assert "10 nodes; about " in result.output
    assert re.search(r"│ smollm2-135m │ listops │ +4 │ +2 │ +\d+ min │", result.output)
    assert re.search(r"tables/main +│ Methods by task, protocol paper +│ +2 │", result.output)
    rows = [line.split("│")[1:3] for line in result.output.splitlines() if line.count("│") == 5]
    assert {(rule.strip(), count.strip()) for rule, count in rows if count.strip().isdigit()} == {
        ("fetch", "1"), ("prepare", "1"), ("localize", "1"), ("fit", "4"), ("select_best", "1"), ("evaluate", "2"),
    }  # fmt: skip


def test_head_counts_are_numbers_or_rounded_shares() -> None:
    config = parse_config(GOOD)
    assert config.head_count("smollm2-135m", 0.03) == 8  # 3% of 270
    assert config.head_count("smollm2-135m", 0.0001) == 1
    assert config.head_count("smollm2-135m", 32) == 32
    assert config.head_count("smollm2-135m", 1.0) == 270


@pytest.mark.parametrize(
    ("model", "few", "many"), [("gemma-7b", 16, 48), ("llama-2-7b", 32, 96), ("llama-2-13b", 48, 160)]
)
def test_shares_rounded_to_multiples_of_16_are_the_numbers_of_the_paper(model: str, few: int, many: int) -> None:
    config = parse_config({**GOOD, "models": [model], "heads_multiple": 16})
    assert [config.head_count(model, share) for share in (0.03, 0.10)] == [few, many]
    assert config.head_count(model, 0.0001) == 16
    total = config.model_entry(model).n_layers * config.model_entry(model).n_heads
    assert config.head_count(model, 1.0) == total
    assert config.head_count(model, 5) == 5, "a number is a number"


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    """PyYAML reads 1e-4 as text."""
    config = parse_config(put("methods/lofit", search(lr=["1e-4", "3E-4", 0.001], init_std=["1.e+0", 2])))
    entry = config.methods["lofit"]
    assert entry and entry.search
    assert entry.search.axes == {"lr": [0.0001, 0.0003, 0.001], "init_std": [1.0, 2]}
    params = put("methods", {"base": None, "peft": {"params": {"config": {"peft_type": "LOHA", "alpha": "1e1"}}}})
    [fit] = [node for node in RunTable(parse_config(params | {"lr_grid": None})).fits.values() if node.method == "peft"]
    assert fit.params.model_dump()["config"]["alpha"] == 10.0


@pytest.mark.parametrize("step", [1, 16, 500])
def test_no_share_is_more_than_all_heads_and_the_whole_is_all(step: int) -> None:
    config = parse_config({**GOOD, "heads_multiple": step})
    assert config.head_count("smollm2-135m", 1.0) == 270, "no multiple of 16"
    assert config.head_count("smollm2-135m", 0.99) <= 270


def test_schema_file_is_generated_from_the_models() -> None:
    file = REPOSITORY / "workflow" / "schemas" / "config.schema.yaml"
    assert yaml.safe_load(file.read_text()) == json_schema(), "run `lofit schema > workflow/schemas/config.schema.yaml`"


def test_schema_takes_the_shipped_configurations_and_refuses_broken_ones() -> None:
    schema = json_schema()
    for file in [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "config").glob("*.yaml"))]:
        jsonschema.validate(load_config(file).model_dump(mode="json"), schema)
    for name in ("unknown key", "unknown key inside", "unknown task option", "wrong type", "no tasks"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(BROKEN[name][0], schema)
