"""Do evoray's multiple-choice scores agree with those of EleutherAI's LM Evaluation Harness?

Both score the same rows of one task with the embedded model in float32, after the same text: the chat template with the
row's question, the generation prompt, and then the choice. The harness runs as its users run it: its own command, in an
environment of its own, on a task written as YAML into a temporary folder. Compared are the log-likelihood of every
choice (a sum over tokens, in nats) and the verdicts: the choice with the highest log-likelihood a character (the
harness's `acc_norm`, which divides by `len(choice)`; `acc_bytes` would divide by UTF-8 bytes) and the one with the
highest sum (`acc`).

One difference is by definition. The harness moves white space at the prompt's end to the continuation before it
tokenises. Where a generation prompt ends in a line break, that line break is scored with every choice, though the model
is never asked to write it; evoray scores the choice's own text alone. Differences are therefore reported twice: each
side by its own definition, and with evoray's pass summed over the tokens that the harness sums over, which has to agree
up to rounding. The last line printed is one JSON object.

    python benchmarks/lm_eval_agreement.py --data PATH [--task arc_challenge] [--rows 60] [--peer-python PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from evoray.evaluation.likelihood import grouped_token_losses, score_rows
from evoray.models.chat import Encoded, encode_choices
from evoray.models.loading import load_model, load_tokenizer
from evoray.models.reference import resolve_model
from evoray.pool import load_rows
from evoray.records import Row

Array = npt.NDArray[np.float64]

MODEL, MAX_TOKENS, TASK, SEED = "smollm2", 2048, "evoray_agreement", 0


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row's choices as one side scored them."""

    sums: Array  # log-likelihood of each choice in nats
    correct: bool  # by log-likelihood a character
    texts: tuple[str, ...]  # what was tokenised


def main() -> None:
    """Score with both, compare, print the JSON object."""
    options = _options()
    rows = multiple_choice_rows(options.data / "targets" / options.task / f"{options.split}.parquet", options.rows)
    ours, moved = our_scores(rows)
    facts: dict[str, Any] = {
        "task": options.task,
        "rows": len(rows),
        "choices": sum(len(row.choices or ()) for row in rows),
    }
    facts["accuracy"] = float(np.mean([one.correct for one in ours]))
    if options.peer_python is None:
        facts["absent"] = {"lm_eval": "no --peer-python"}
    else:
        theirs, versions = peer_scores(rows, options)
        facts |= compared(rows, ours, moved, theirs) | {"peer_versions": versions}
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    facts |= {"versions": versions | {"python": platform.python_version()}}
    for name, value in facts.items():
        print(f"{name:>28}  {value}")
    print(json.dumps(facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with targets/<task>/{dev,test}.parquet")
    parser.add_argument("--task", default="arc_challenge", help="a target whose rows have choices")
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8, help="of the harness")
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with lm-eval")
    return parser.parse_args()


def multiple_choice_rows(file: Path, count: int) -> list[Row]:
    """Seeded rows of one question, choices and a gold answer, in the order of the file."""
    found, _ = load_rows(str(file))
    usable = [row for row in found if row.choices and row.answer is not None and len(row.messages) == 2]
    if not usable:
        raise SystemExit(f"{file} has no rows with choices and an answer")
    places = np.sort(np.random.default_rng(SEED).permutation(len(usable))[:count])
    return [usable[place] for place in places]


def our_scores(rows: Sequence[Row]) -> tuple[list[Scored], list[Array]]:
    """What evoray scores, and for each row the sums over the tokens that the harness counts as the choice's."""
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    scores = score_rows(model, tokenizer, rows, MAX_TOKENS)
    encoded = [encode_choices(row, tokenizer, MAX_TOKENS) for row in rows]
    widened = [
        [_from(prompt_tokens(row, tokenizer), choice) for choice in choices]
        for row, choices in zip(rows, encoded, strict=True)
    ]
    losses = grouped_token_losses(model, widened, int(tokenizer.pad_token_id))
    ours = []
    for row, score, choices in zip(rows, scores, encoded, strict=True):
        lengths = np.array([len(choice) for choice in row.choices or ()], dtype=np.float64)
        texts = tuple(str(tokenizer.decode(choice.ids)) for choice in choices)
        sums = np.array(score.choice_scores) * lengths
        ours.append(Scored(sums=sums, correct=bool(score.correct), texts=texts))
    return ours, [np.array([-float(choice.sum()) for choice in group]) for group in losses]


def prompt_tokens(row: Row, tokenizer: Any) -> int:
    """Tokens of the prompt without the white space at its end: where the harness's continuation begins."""
    turns = [{"role": message.role, "content": message.content} for message in row.messages[:-1]]
    prompt = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    return len(tokenizer(prompt.rstrip(), add_special_tokens=False)["input_ids"])


def _from(first: int, encoded: Encoded) -> Encoded:
    return replace(encoded, supervised=[place >= first for place in range(len(encoded.ids))])


def peer_scores(rows: Sequence[Row], options: argparse.Namespace) -> tuple[list[Scored], dict[str, str]]:
    """What the harness scores on the same rows, and the versions that it reports."""
    with tempfile.TemporaryDirectory(prefix="lm-eval-") as name:
        folder = Path(name)
        _write_task(rows, folder)
        command = [str(options.peer_python), "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
        command += ["--model_args", f"pretrained={resolve_model(MODEL)},dtype=float32", "--apply_chat_template"]
        command += ["--tasks", TASK, "--include_path", name, "--num_fewshot", "0", "--log_samples"]
        command += ["--batch_size", str(options.batch_size), "--output_path", str(folder / "out")]
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"lm_eval ended with {done.returncode}:\n{done.stderr[-2000:]}")
        (samples,) = (folder / "out").rglob(f"samples_{TASK}_*.jsonl")
        (results,) = (folder / "out").rglob("results_*.json")
        logged = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda one: one["doc_id"])
        found = json.loads(results.read_text())
    versions = {
        name: str(found[f"{name}_version"]) for name in ("lm_eval", "transformers") if f"{name}_version" in found
    }
    return [_peer_scored(sample) for sample in logged], versions


def _write_task(rows: Sequence[Row], folder: Path) -> None:
    """The rows as JSON lines, and the task that reads them."""
    documents = [
        {
            "question": row.messages[0].content,
            "options": list(row.choices or ()),
            "gold": (row.choices or ()).index(row.answer or ""),
        }
        for row in rows
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / f"{TASK}.yaml").write_text(yaml.safe_dump(task))


def _peer_scored(sample: dict[str, Any]) -> Scored:
    texts = [arguments["arg_0"] + arguments["arg_1"] for arguments in sample["arguments"].values()]
    sums = np.array([float(response[0][0]) for response in sample["resps"]])
    return Scored(sums=sums, correct=bool(sample["acc_norm"]), texts=tuple(texts))


def compared(
    rows: Sequence[Row], ours: Sequence[Scored], moved: Sequence[Array], theirs: Sequence[Scored]
) -> dict[str, Any]:
    """Differences in nats, and shares of rows with equal verdicts."""
    lengths = [np.array([len(choice) for choice in row.choices or ()], dtype=np.float64) for row in rows]
    pairs = list(zip(ours, theirs, strict=True))
    space = np.concatenate([both - one.sums for both, one in zip(moved, ours, strict=True)])
    own = np.concatenate([one.sums - other.sums for one, other in pairs])
    same = np.concatenate([both - other.sums for both, other in zip(moved, theirs, strict=True)])
    by_character = [
        np.argmax(one.sums / chars) == np.argmax(other.sums / chars)
        for (one, other), chars in zip(pairs, lengths, strict=True)
    ]
    return {
        "equal_texts": float(np.mean([one.texts == other.texts for one, other in pairs])),
        "max_difference": float(np.abs(own).max()),
        "max_difference_same_tokens": float(np.abs(same).max()),
        "white_space_nats": [float(space.min()), float(space.max())],
        "equal_verdicts": float(np.mean(by_character)),
        "equal_verdicts_by_sum": float(np.mean([one.sums.argmax() == other.sums.argmax() for one, other in pairs])),
        "accuracy_peer": float(np.mean([other.correct for other in theirs])),
    }


if __name__ == "__main__":
    main()
