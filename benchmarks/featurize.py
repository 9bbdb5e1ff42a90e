"""What do gradient features cost, and how far do their inner products fall from the exact ones?

Speed: seeded rows over all files of a folder of pools (made-up text of similar lengths without one), batched as one
unit; the batches are dealt to blocks. Every contender does a block before any goes on to the next, and medians over the
blocks are compared; the peak of matrix products is measured anew around each block, since a shared machine's speed
drifts. With one thread, seconds are those of the processor: what else runs on the machine then counts for little.
Fidelity: the sketches' inner products against those of the gradients themselves. The last line printed is one JSON
object: bare keys at float32 and D = 2048, other settings suffixed.

On a GPU, if torch finds one: batches lie there before the clock starts, and the clock waits for what was asked of it.
`--model` may be a shape of `shaped_model.py`: random weights. `budget` there: tokens a second at several budgets of a
pass, and their utilisation of the GPU's published peak.

    python benchmarks/featurize.py [--data PATH] [--rows 256] [--blocks 8] [--threads N] [--only speed fidelity ...]
        [--model smollm2] [--batch-tokens 512]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from featurize_baselines import DenseProjection, PlainModel, looped, padded_batches, plain_pass
from featurize_setting import (
    DEVICE,
    SEED,
    TOKENIZER,
    adapted_model,
    budgeted,
    features_of,
    flops_of,
    gemm_peak,
    samples_of,
)
from shaped_model import SHAPES, write_shaped_model
from sinkhorn_baselines import memory_now

from evoray.features.gradient import adapted_layers, per_sample_gradients
from evoray.features.sketches import make_sketch
from evoray.models.chat import Encoded
from evoray.models.flops import peak_of
from evoray.models.loading import load_tokenizer
from evoray.models.loss import Batch, collate, token_budget_batches

#: Seconds by the wall, or of the processor for a single thread; set once by `main`.
clock: Callable[[], float] = time.perf_counter
BUDGETS = (2048, 8192, 32_768)
PRECISIONS: dict[str, torch.dtype | None] = {"": None, "_bf16": torch.bfloat16}
PARTS = ("speed", "memory", "scaling", "fidelity", "budget")
_DEFAULT_PARTS = ["speed", "memory", *(["scaling", "fidelity"] if DEVICE.type == "cpu" else ["budget"])]


def main() -> None:
    """Run the parts asked for, print the JSON object."""
    options = _options()
    torch.set_num_threads(options.threads)
    global clock  # noqa: PLW0603
    if DEVICE.type == "cuda":
        clock = _finished
    elif options.threads == 1 and not options.child:
        clock = time.process_time
    if options.model in SHAPES:
        options.model = write_shaped_model(options.model, options.models / options.model, TOKENIZER)
    if options.child:
        _child(options)
        return
    facts: dict[str, Any] = {}
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "speed": speed, "memory": memory, "scaling": scaling, "fidelity": fidelity, "budget": budget,
    }  # fmt: skip
    for part in options.only:
        facts |= parts[part](options)
        print(f"{part}: {json.dumps(facts)}", file=sys.stderr)  # should a later part not end
    print(json.dumps(facts | _environment(options)))


def _finished() -> float:
    """The time at which the GPU had done all that it was asked."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with pools/*.parquet")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=_DEFAULT_PARTS)
    parser.add_argument("--model", default="smollm2", help=f"any, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()), help="where shapes are written")
    parser.add_argument("--batch-tokens", type=int, default=512 if DEVICE.type == "cpu" else 32_768)
    parser.add_argument(
        "--slow-blocks", type=int, default=2, help="blocks that all but ours and the plain pass do: they take the time"
    )
    parser.add_argument("--child", choices=["ours", "plain", "rate"], help=argparse.SUPPRESS)
    parser.add_argument("--suffix", choices=list(PRECISIONS), default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of times, block by block, at each precision."""
    samples = samples_of(options)
    facts: dict[str, Any] = {"rows": len(samples), "tokens": sum(len(sample.ids) for sample in samples)}
    for suffix, precision in PRECISIONS.items():
        facts |= {f"{key}{suffix}": value for key, value in _speed(samples, precision, options).items()}
    facts["bf16_over_fp32"] = facts["tokens_per_second_bf16"] / facts["tokens_per_second"]
    return facts


def _speed(samples: Sequence[Encoded], precision: torch.dtype | None, options: argparse.Namespace) -> dict[str, Any]:
    pad_id = int(load_tokenizer(TOKENIZER).pad_token_id)
    plain = PlainModel(adapted_model(options, precision), precision)
    ours = {dim: features_of(options, dim, precision) for dim in (2048, 8192)}
    work = flops_of(plain.model)
    sketches = [
        make_sketch("sparse", name, (weight.shape[0], weight.shape[1]), 2048, SEED).to(DEVICE)
        for layer in adapted_layers(plain.model)
        for name, weight in layer.factors.items()
    ]
    dense = DenseProjection(8192)

    def sketched(gradients: list[torch.Tensor]) -> None:
        for sketch, gradient in zip(sketches, gradients, strict=True):
            sketch.apply(gradient[None])

    def contenders(rows: Sequence[Encoded], batches: Sequence[Batch]) -> dict[str, Callable[[], object]]:
        return {
            "plain": lambda: plain_pass(plain, batches),
            "ours": lambda: [ours[2048](batch) for batch in batches],
            "ours_8192": lambda: [ours[8192](batch) for batch in batches],
            "padded": lambda: plain_pass(plain, [b.to(DEVICE) for b in padded_batches(rows, len(batches), pad_id)]),
            "loop": lambda: looped(plain, rows, pad_id, sketched, DEVICE),
            "dense": lambda: looped(plain, rows, pad_id, dense.add, DEVICE),  # what fills no sixteen waits, uncharged
        }

    lengths = [len(sample.ids) for sample in samples]
    groups = token_budget_batches(lengths, options.batch_tokens)
    seconds: dict[str, list[float]] = {}
    rates: list[float] = []
    for block in range(options.blocks):
        dealt = groups[block :: options.blocks]
        rows = [samples[index] for index in sorted(index for group in dealt for index in group)]
        batches = [collate([samples[index] for index in group], pad_id).to(DEVICE) for group in dealt]
        entries = list(contenders(rows, batches).items())
        plain_pass(plain, batches[:2])  # untimed: what is set up at the first pass
        turn = block % len(entries)
        for name, contender in entries[turn:] + entries[:turn]:  # no contender is always first
            if name not in ("plain", "ours") and block >= options.slow_blocks:
                continue
            peak = gemm_peak(precision, clock) if name == "ours" else 0.0
            began = clock()
            contender()
            seconds.setdefault(name, []).append(clock() - began)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
            if name == "ours":
                rates.append(work(rows) / seconds[name][-1] / max(peak, gemm_peak(precision, clock)))
    return _ratios(seconds, samples, dense) | {"mfu": median(rates)}


def _ratios(seconds: dict[str, list[float]], samples: Sequence[Encoded], dense: DenseProjection) -> dict[str, Any]:
    def ratio(over: str, under: str) -> float:
        return median(a / b for a, b in zip(seconds[over], seconds[under], strict=False))

    facts: dict[str, Any] = {}
    if "dense" in seconds:
        facts = {
            "speedup_over_dense": ratio("dense", "ours_8192"),
            "dense_random_seconds": dense.random_seconds,
            "dense_matrix_seconds": dense.matrix_seconds,
        }
    return facts | {
        "ratio_to_plain": ratio("ours", "plain"),
        "ratio_to_plain_8192": ratio("ours_8192", "plain"),
        "ratio_to_padded": ratio("ours", "padded"),
        "speedup_over_loop": ratio("loop", "ours"),
        "tokens_per_second": sum(len(sample.ids) for sample in samples) / sum(seconds["ours"]),
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a process that featurises over one that only trains, on the longest rows."""
    facts: dict[str, Any] = {}
    for suffix in PRECISIONS:
        peaks = {name: _run_child(options, name, suffix, options.threads)["peak_bytes"] for name in ("ours", "plain")}
        facts |= {f"memory_ratio{suffix}": peaks["ours"] / peaks["plain"], f"peak_bytes{suffix}": peaks["ours"]}
    return facts


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of two single-thread processes side by side over those of one alone."""
    alone = [_run_child(options, "rate", "", 1)["rate"] for _ in range(2)]
    pair = [_start_child(options, "rate", "", 1) for _ in range(2)]
    together = sum(_finish(process)["rate"] for process in pair)
    return {"scaling": together / median(alone)}


def _start_child(options: argparse.Namespace, name: str, suffix: str, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", name, "--threads", str(threads), "--rows", str(options.rows)]
    command += ["--model", options.model, "--batch-tokens", str(options.batch_tokens)]
    command += [f"--suffix={suffix}", *(["--data", str(options.data)] if options.data else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measuring process ended with {process.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _run_child(options: argparse.Namespace, name: str, suffix: str, threads: int) -> dict[str, Any]:
    return _finish(_start_child(options, name, suffix, threads))


def _child(options: argparse.Namespace) -> None:
    """One measuring process: its peak memory on the longest rows, or its rate on the first ones."""
    precision = PRECISIONS[options.suffix]
    samples = sorted(samples_of(options), key=lambda sample: -len(sample.ids))
    on_gpu = DEVICE.type == "cuda"
    few = samples[::12] if options.child == "rate" else samples[:3] + samples[-24:]
    chosen = samples if on_gpu else few
    batches = budgeted(chosen, options.batch_tokens)
    if options.child == "plain":
        plain_pass(PlainModel(adapted_model(options, precision), precision), batches)
        seconds = 1.0
    else:
        features = features_of(options, 2048, precision)
        features(batches[-1])
        began = time.perf_counter()
        for batch in batches:
            features(batch)
        seconds = time.perf_counter() - began
    # What `getrusage` says begins with the size of the process that started this one.
    peak = torch.cuda.max_memory_allocated() if on_gpu else memory_now("VmHWM")
    print(json.dumps({"rate": len(chosen) / seconds, "peak_bytes": peak}))


def fidelity(options: argparse.Namespace) -> dict[str, Any]:
    """Root mean square error of sketched inner products over ||g|| ||h||, and over the law sqrt((1 + cos^2) / D)."""
    samples = samples_of(options)[:24]
    model = adapted_model(options, None)
    model.requires_grad_(False)
    layers = adapted_layers(model)
    gradients: dict[str, list[torch.Tensor]] = {}
    for batch in budgeted(samples, options.batch_tokens):
        per_sample_gradients(model, layers, batch, lambda name, g: gradients.setdefault(name, []).append(g))
    whole = {name: torch.cat(parts) for name, parts in gradients.items()}
    cosines, norm_N = _cosines(whole)
    facts: dict[str, Any] = {}
    for kind, seeds in (("sparse", 6), ("kronecker", 6), ("rademacher", 2)):
        for dim in (512, 2048, 8192):
            errors = []
            for seed in range(seeds):
                sketched = sum(make_sketch(kind, n, tuple(g.shape[1:]), dim, seed).apply(g) for n, g in whole.items())  # type: ignore[arg-type, misc]
                rows = sketched / norm_N[:, None]
                errors.append((rows @ rows.T - cosines)[_pairs(len(cosines))])
            law = ((1 + cosines[_pairs(len(cosines))] ** 2) / dim).mean().sqrt()
            rms = torch.cat(errors).square().mean().sqrt()
            facts |= {f"rms_{kind}_{dim}": float(rms), f"rms_over_law_{kind}_{dim}": float(rms / law)}
            print(f"{kind} {dim}: {float(rms / law):.3f} of the law", file=sys.stderr)
    return facts


def budget(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second and utilisation in bfloat16 at several budgets of a pass."""
    samples = samples_of(options)
    features = features_of(options, 2048, torch.bfloat16)
    work, facts = flops_of(features.model), dict[str, Any]()
    for tokens in BUDGETS:
        batches = budgeted(samples, tokens)
        features(batches[0])
        seconds = []
        for _ in range(3):
            began = clock()
            for batch in batches:
                features(batch)
            seconds.append(clock() - began)
        rate = sum(len(sample.ids) for sample in samples) / median(seconds)
        facts |= {f"tokens_per_second_at_{tokens}": round(rate)}
        peak = peak_of(torch.cuda.get_device_name()) if DEVICE.type == "cuda" else None
        if peak is not None:
            facts |= {f"share_of_published_peak_at_{tokens}": work(samples) / median(seconds) / peak}
        print(f"{tokens} tokens a pass: {rate:.0f} tokens/s", file=sys.stderr)
    return facts


def _cosines(whole: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    gram = sum(g.flatten(1) @ g.flatten(1).T for g in whole.values())
    norm_N = torch.as_tensor(gram).diagonal().sqrt()
    return gram / norm_N[:, None] / norm_N, norm_N


def _pairs(rows: int) -> torch.Tensor:
    return torch.ones(rows, rows, dtype=torch.bool).triu(1)


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.split(": ")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "threads": options.threads,
        "seconds_of": "processor" if clock is time.process_time else "wall clock",
        "cpu": names[0] if names else platform.machine(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if DEVICE.type == "cuda" else None,
        "model": Path(options.model).name,
        "batch_tokens": options.batch_tokens,
    }


if __name__ == "__main__":
    main()
