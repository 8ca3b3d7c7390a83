"""One command that proves a GPU machine: equality, failures, speed and memory, as a table.

    python -m tests.gpu.check --device cuda            # a card of the H100 class
    python -m tests.gpu.check --device cpu             # the same code at toy shapes, anywhere

Weights are random and tokenizers are made here: nothing is downloaded. docs/gpu.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from lofit.cluster.process import set_up_computing
from lofit.config import LimitsConfig, load_config
from lofit.errors import ConfigError
from lofit.evaluation.lm import LocalizedLM
from lofit.files import read_json
from lofit.interventions import LofitConfig, find_site
from lofit.models.encoding import Row as Texts
from lofit.models.loading import pick_device
from lofit.models.session import Session
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.table import RunTable
from lofit.spec.hyperparameters import ComputeParams, TrainParams
from lofit.training import loop, trainer
from lofit.training.forward import Forward
from lofit.training.objectives import SftObjective
from perf.baselines import HeadByHead, plain_step, reference_step
from perf.common import in_turn
from perf.shapes import gemm_rate, random_model
from perf.step import our_step, step_flops, texts
from tests.checkpoint import byte_tokenizer
from tests.workflows import TRAINING, Workflow

ROOT = Path(__file__).parents[2]
# Layers, width, width of the FFN, heads, texts, tokens, vocabulary.
SHAPES = {
    "cuda": {"equality": (12, 1024, 2816, 16, 8, 96, 32_000), "speed": (32, 4096, 11_008, 32, 8, 128, 32_000)},
    "cpu": {"equality": (3, 64, 128, 4, 4, 24, 500), "speed": (4, 64, 128, 4, 2, 32, 500)},
}
EQUAL = 1e-4
"""Largest difference, relative to the largest value, that float32 may have between devices and layouts."""
HALF = 0.05
"""Mean difference of a token's log-probability in nats that bfloat16 may have from float32."""


@dataclass(frozen=True)
class Row:
    """A row of the table; ``ok`` is None where nothing is demanded."""

    what: str
    found: str
    wanted: str = "-"
    ok: bool | None = None

    def line(self) -> str:
        """The row in Markdown."""
        holds = {None: "-", True: "yes", False: "**NO**"}[self.ok]
        return f"| {self.what} | {self.found} | {self.wanted} | {holds} |"


def at_most(what: str, value: float, bound: float, unit: str = "") -> Row:
    """A row that holds if the value is not above the bound."""
    return Row(what, f"{value:.3g}{unit}", f"at most {bound:g}{unit}", value <= bound)


def at_least(what: str, value: float, bound: float | None, unit: str = "x") -> Row:
    """A row that holds if the value is not below the bound; without a bound it only informs."""
    found = f"{value:.3g}{unit}"
    return Row(what, found) if bound is None else Row(what, found, f"at least {bound:g}{unit}", value >= bound)


def true(what: str, holds: bool, found: str = "", wanted: str = "yes") -> Row:
    """A row of what is so or not."""
    return Row(what, found or ("yes" if holds else "no"), wanted, holds)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def heads_of(model: Any, from_layer: int = 0, every: int = 1) -> list[tuple[int, int]]:
    """Heads of a model."""
    site = find_site(model)
    return [(layer, head) for layer in range(from_layer, site.n_layers) for head in range(0, site.groups, every)]


def edited(model: Any, heads: Sequence[tuple[int, int]], kind: str = "offset") -> Any:
    """The model with random scales or offsets on heads."""
    config = LofitConfig(heads=list(heads), scale=kind == "scale", offset=kind == "offset", init_std=0.1, init_seed=0)
    return get_peft_model(model, config).eval()


def gradient(forward: Forward, rows: list[Texts]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses by text, and the gradient of their sum at all trained values."""
    losses = -forward.log_probs(rows)[:, 0]
    losses.sum().backward()
    trained = [p for p in forward.model.parameters() if p.requires_grad]
    found = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    forward.model.zero_grad()
    return losses.detach(), found


def strings(n: int, preamble: int, length: int) -> list[str]:
    """Prompts of letters: ``length`` of their own after ``preamble`` that all share."""
    draw = torch.randint(97, 123, (n * length + preamble,), generator=torch.Generator().manual_seed(0)).tolist()
    letters = "".join(map(chr, draw))
    return [letters[:preamble] + letters[preamble + i * length :][:length] + "\nA:" for i in range(n)]


def choices(prompts: list[str], n: int, length: int) -> list[tuple[str, str]]:
    """Every prompt with each of ``n`` answers of its own."""
    answers = strings(len(prompts) * n, 0, length)
    return [(prompt, f" {answers[i * n + j][:length]}") for i, prompt in enumerate(prompts) for j in range(n)]


def asked(prompts: list[str], n_tokens: int) -> list[Instance]:
    """Requests for greedy continuations."""
    settings = {"until": ["\n"], "max_gen_toks": n_tokens, "do_sample": False}
    return [Instance("generate_until", {}, (prompt, settings), i) for i, prompt in enumerate(prompts)]


def scores(lm: HFLM, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Log-likelihoods: float64 [pairs]."""
    encoded = [(pair, *lm._encode_pair(*pair)) for pair in pairs]
    return torch.tensor([score for score, _ in lm._loglikelihood_tokens(encoded, disable_tqdm=True)]).double()


def lms(model: Any, batch_size: int = 16) -> tuple[LocalizedLM, HFLM]:
    """Ours and lm-eval's."""
    made = ({"pretrained": model, "tokenizer": byte_tokenizer(), "batch_size": batch_size, "backend": "causal"},) * 2
    return LocalizedLM(**made[0]), HFLM(**made[1])


def equality(device: torch.device) -> Iterator[Row]:
    """Losses, gradients, log-likelihoods and strings, between devices, precisions and layouts."""
    shape = SHAPES[device.type]["equality"]
    rows, half = texts(shape[4], shape[5], shape[6]), shape[0] // 2
    here = random_model(shape, torch.device("cpu"), torch.float32)
    there = copy.deepcopy(here).to(device)
    pairs, prompts = choices(strings(6, 40, 20), 4, 6), strings(16, 40, 20)
    said = {"cpu": lms(here)[0].generate_until(asked(prompts, 12), disable_tqdm=True)}
    said["there"] = lms(there)[0].generate_until(asked(prompts, 12), disable_tqdm=True)
    liked = scores(lms(here)[0], pairs), scores(lms(there)[0], pairs)
    tuned = {"cpu": edited(here, heads_of(here, half)), "there": edited(there, heads_of(there, half))}
    forward = {name: Forward(model, rows, 0) for name, model in tuned.items()}
    wanted, found = (gradient(forward[name], rows) for name in ("cpu", "there"))
    name = f"{device.type} float32 against CPU float32"
    yield true("texts share rows (packing)", forward["there"].packs)
    yield at_most(f"losses, {name}", difference(found[0], wanted[0]), EQUAL)
    yield at_most(f"gradients, {name}", difference(found[1], wanted[1]), EQUAL)
    yield at_most(f"log-likelihoods, {name}", difference(liked[1], liked[0]), EQUAL)
    same = sum(a == b for a, b in zip(said["cpu"], said["there"], strict=True))
    # Of random weights two tokens may be equally likely to within rounding.
    yield true(f"greedy strings, {name}", same >= 0.9 * len(prompts), f"{same} of {len(prompts)} equal", "at least 90%")
    alone = Forward(tuned["there"], rows, 0)
    alone.packs, alone.tail = False, None
    apart = gradient(alone, rows)
    yield at_most("losses, packed against text by text", difference(found[0], apart[0]), EQUAL)
    yield at_most("gradients, packed against text by text", difference(found[1], apart[1]), EQUAL)
    kept = Forward(tuned["there"], rows, 0)
    kept.keep_prefix(rows, len(rows), 1e10, 0)
    cached = gradient(kept, rows)
    yield true("layers below the first edited one are computed once", kept.store is not None)
    yield at_most("gradients, prefix kept against computed", difference(cached[1], found[1]), EQUAL)
    half_precision = edited(tuned["there"].unload().to(torch.bfloat16), heads_of(here, half))
    less = gradient(Forward(half_precision, rows, 0), rows)
    tokens = SftObjective().terms(rows) / len(rows)
    gap = float((less[0].cpu() - wanted[0].cpu()).abs().mean() / tokens)
    yield at_most("loss per token, bfloat16 against float32", gap, HALF, " nats")
    yield true("bfloat16 shares rows too", Forward(half_precision, rows, 0).packs)


WAITER = (
    "import sys; from lofit.cluster.gpus import take_gpus; take_gpus(1); print('taken', flush=True); sys.stdin.read()"
)


def failures(device: torch.device) -> Iterator[Row]:
    """One card and two processes, memory that is not there, and training that is killed."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": "0"} if device.type == "cpu" else {})
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        nodes = []
        for _ in range(2):
            node: Any = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", WAITER], env=environment, cwd=ROOT, **pipes)  # type: ignore[call-overload]
            )
            nodes.append(node)
            if len(nodes) == 1:
                first = node.stdout.readline().strip()
        said = nodes[1].stderr.readline().strip()  # what it waits for
        nodes[0].stdin.close()
        second = nodes[1].stdout.readline().strip()
        nodes[1].stdin.close()
        yield true("two nodes on one card: the second waits for the first", first == second == "taken" and bool(said))
    with record_failure() as report:
        if device.type == "cuda":
            torch.empty(2 * torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device=device)
        else:
            torch.empty(10**15, dtype=torch.uint8)
    yield true("out of memory is a failed row", str(report["reason"]).startswith("out of memory"))
    held = psutil.Process().memory_info().vms / 1e9 if device.type == "cpu" else torch.cuda.memory_reserved() / 1e9
    with record_failure() as report, limited(LimitsConfig(memory_gb=held + 1), device.type):
        torch.empty(int((held + 8) * 1e9), dtype=torch.uint8, device=device)
    yield true("more than limits.memory_gb is a failed row", "limits.memory_gb" in str(report["reason"]))
    with tempfile.TemporaryDirectory() as folder:
        resumed, whole = (trained(device, Path(folder) / "save.safetensors", kill) for kill in (True, False))
        equal = all(torch.equal(a, b) for a, b in zip(resumed[0], whole[0], strict=True))
        yield true("killed and resumed, bit for bit", equal)
        yield true("training uses deterministic operations only", bool(whole[1]["deterministic"]))


class Killed(Exception):
    """A training is interrupted."""


def trained(device: torch.device, file: Path, kill: bool) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Offsets after some steps, all at once or interrupted after three of them; and the record."""
    shape, step = SHAPES[device.type]["equality"], loop._update
    rows = [{"id": str(i), "prompt": prompt, "target": f" {prompt[:5]}"} for i, prompt in enumerate(strings(8, 0, 40))]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def run() -> tuple[list[torch.Tensor], dict[str, Any]]:
        session = Session(
            model=random_model(shape, device, dtype),
            tokenizer=byte_tokenizer(),
            objective="sft",
            train=rows,
            validation=rows[:2],
            seed=0,
            progress=False,
            compute=ComputeParams(save_minutes=0),
            save_to=file,
        )
        config = LofitConfig(heads=None, scale=True, offset=False, init_std=1e-3, init_seed=0)
        fitted = trainer.train(session, config, TrainParams(lr=5e-3, epochs=3, batch_size=4, l1=1e-3), "check")
        return [p.detach().cpu() for p in fitted.model.parameters() if p.requires_grad], fitted.record

    file.unlink(missing_ok=True)
    if kill:
        left = iter(range(3))

        def limited_step(*args: Any) -> None:
            if next(left, None) is None:
                raise Killed
            step(*args)

        loop._update = limited_step
        try:
            with contextlib.suppress(Killed):
                run()
        finally:
            loop._update = step
    return run()


def workflow(device: torch.device) -> Iterator[Row]:
    """A miniature of the whole workflow, by Snakemake."""
    with tempfile.TemporaryDirectory() as folder:
        made = Workflow(Path(folder))
        names = ("base", "lofit", "lora", "iti") if device.type == "cuda" else ("base", "lora")
        methods = {name: made.config["methods"][name] for name in names}
        config = made.config | {"device": device.type, "methods": methods, "transfer": None}
        start = time.perf_counter()
        result = made.snakemake(config=config)
        seconds = time.perf_counter() - start
        table = made.folder / "results" / "tables" / "main.md"
        lines = table.read_text(encoding="utf-8") if table.is_file() else result.stderr[-500:]
        ok = result.returncode == 0 and table.is_file() and "failed" not in lines
        yield true(f"a workflow of {', '.join(names)}", ok, f"{seconds:.0f} s" if ok else lines.replace("\n", " "))
        alone = [log for log in made.folder.glob("results/logs/**/*.log") if "node server: not used" in log.read_text()]
        starts = [read_json(file).get("start_seconds") for file in made.folder.glob("results/runs/**/fit.json")]
        seconds = statistics.median(filter(None, starts)) if any(starts) else math.nan
        yield true("its nodes are forks of servers", not alone, f"start of a fit {seconds:.1f} s (median)")


def weights_gb(model: Any) -> float:
    """GB (1e9 bytes) of a model's weights."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9


def peak_gb(device: torch.device, run: Callable[[], Any]) -> float:
    """GB (1e9 bytes) of GPU memory that a run holds at most; NaN on CPU."""
    if device.type != "cuda":
        run()
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 1e9


def speed(device: torch.device) -> Iterator[Row]:
    """Steps, scoring and generation at the shape of Llama-2-7B, against the authors' way, PEFT and lm-eval."""
    gpu = device.type == "cuda"
    shape, dtype, rounds = SHAPES[device.type]["speed"], torch.bfloat16 if gpu else torch.float32, 3
    model = random_model(shape, device, dtype)
    held, rate = weights_gb(model), gemm_rate(device, dtype)
    site, n_texts, n_tokens = find_site(model), shape[4], shape[5]
    rows = texts(n_texts, n_tokens, shape[6])
    plain = [text for (text,) in rows]
    yield Row("weights", f"{held:.3g} GB in {str(dtype).removeprefix('torch.')}")
    yield Row("the card's own rate of a large matrix product", f"{rate / 1e12:.3g} TFLOP/s")
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"]))
    lora_seconds = statistics.median(in_turn({"lora": partial(plain_step, lora, plain, 0)}, rounds)["lora"])
    model = lora.unload()
    yield Row("PEFT LoRA in a plain loop", f"{lora_seconds:.3g} s a step of {n_texts} x {n_tokens} tokens")
    last_third = heads_of(model, 2 * site.n_layers // 3, 3)
    for name, heads, kind in (("step A", heads_of(model), "scale"), ("step V", last_third, "offset")):
        edit = HeadByHead(model, heads, kind)
        slow = statistics.median(in_turn({"run": partial(reference_step, edit, plain, 0)}, rounds)["run"])
        edit.remove()
        tuned = edited(model, heads, kind)
        ours = Forward(tuned, rows, 0)
        ours.keep_prefix(rows, n_texts, 1e10, 0)
        run = partial(our_step, ours, rows)
        seconds = statistics.median(in_turn({"run": run}, 2 * rounds)["run"])
        most = peak_gb(device, run)
        share = step_flops(model, heads[0][0], n_texts, n_tokens) / seconds / rate
        tokens = n_texts * n_tokens / seconds
        yield Row(
            f"{name}, {len(heads)} heads", f"{seconds:.3g} s a step, {tokens:.3g} tokens/s, {share:.0%} of that rate"
        )
        yield at_least(f"{name} against the authors' way", slow / seconds, 4 if gpu else None)
        yield at_least(f"{name} against PEFT LoRA", lora_seconds / seconds, None)
        if gpu:
            yield at_most(f"{name}, peak memory over weights", most / held, 1.25, "x")
        with loop.only_deterministic(True):
            strict = statistics.median(in_turn({"run": run}, rounds)["run"])
        yield Row(f"{name}, deterministic operations only", f"{strict / seconds:.2f} times as long")
        model = tuned.unload()
    ours_lm, stock_lm = lms(model)
    pairs = choices(strings(24 if gpu else 3, 300 if gpu else 30, 60 if gpu else 8), 8, 30 if gpu else 4)
    found: dict[str, torch.Tensor] = {}
    work = {
        name: partial(lambda name, lm: found.update({name: scores(lm, pairs)}), name, lm)
        for name, lm in (("ours", ours_lm), ("hf", stock_lm))
    }
    seconds_of = {name: statistics.median(values) for name, values in in_turn(work, 2).items()}
    what = f"multiple choice like TruthfulQA's, {len(pairs)} answers"
    yield at_least(f"{what}, against lm-eval's hf", seconds_of["hf"] / seconds_of["ours"], 8 if gpu else None)
    yield at_most(f"{what}: log-likelihoods", difference(found["ours"], found["hf"]), 0.02 if gpu else EQUAL)
    prompts = strings(96 if gpu else 6, 20, 60 if gpu else 8)
    work = {
        name: partial(lm.generate_until, asked(prompts, 16), disable_tqdm=True)
        for name, lm in (("ours", ours_lm), ("hf", stock_lm))
    }
    seconds_of = {name: statistics.median(values) for name, values in in_turn(work, 2).items()}
    what = f"generation like MQuAKE's, {len(prompts)} prompts"
    yield at_least(f"{what}, against lm-eval's hf", seconds_of["hf"] / seconds_of["ours"], None)
    yield from start(device, model)


def start(device: torch.device, model: LlamaForCausalLM) -> Iterator[Row]:
    """What a node takes beside its computing: starting Python, importing, and reading the weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "checkpoint")
        byte_tokenizer().save_pretrained(folder / "checkpoint")
        config = model.config
        source = {"kind": "local", "path": str(folder / "checkpoint")}
        entry = {"source": source, "n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads}
        raw = {
            "models": ["check"],
            "model_sources": {"check": entry},
            "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 4}}},
            "methods": {"base": None, "lora": {"params": TRAINING}},
            "device": device.type,
            "results": str(folder / "results"),
            "resources": str(folder / "resources"),
            "progress": False,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        table = RunTable(load_config(folder / "config.yaml"))
        fit = next(node for node in table.fits.values() if node.method == "lora")

        def lofit(*arguments: str) -> float:
            begun = time.perf_counter()
            command = [sys.executable, "-m", "lofit", *arguments, "--configfile", str(folder / "config.yaml")]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            return time.perf_counter() - begun

        (model,) = table.models
        lofit("node", "fetch", model)
        lofit("node", "prepare", fit.data.id)
        seconds = lofit("node", "fit", fit.id)
        report = read_json(table.folder(fit) / "fit.json")
        yield true("a fit node on this shape", report["status"] == "ok", str(report["reason"] or "ok"), "ok")
        if report["status"] == "ok":
            yield Row("a fit node beside its training: start, imports, weights", f"{seconds - report['seconds']:.3g} s")


PARTS: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    "Equality": equality,
    "Failures": failures,
    "Workflow": workflow,
    "Speed and memory": speed,
}


def surroundings(device: torch.device) -> str:
    """Card and versions, in a line."""
    import peft
    import transformers

    card = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    return ", ".join([card, f"Python {platform.python_version()}", *(f"{name} {v}" for name, v in versions.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; the number of rows that do not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    given = parser.parse_args(arguments)
    set_up_computing(int(os.environ.get("OMP_NUM_THREADS", "2")))
    device = pick_device(given.device)
    if device.type == "cuda":
        device = torch.device("cuda", 0)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(f"# GPU check\n\n{surroundings(device)}\n")
    failed, begun = 0, time.perf_counter()
    for title, part in PARTS.items():
        say(f"## {title}\n\n| what | found | wanted | holds |\n|---|---|---|---|")
        try:
            for row in part(device):
                failed += row.ok is False
                say(row.line())
        except Exception as error:  # the other parts are worth having
            failed += 1
            say(
                Row(
                    f"{title}, as a whole", f"{type(error).__name__}: {error}"[:300].replace("\n", " "), "ends", False
                ).line()
            )
        say("")
    say(f"{time.perf_counter() - begun:.0f} s in all; {failed} rows do not hold.")
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(min(main(), 125))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
