"""Train a model with TRL's SFTTrainer on rows that evoray chose.

    evoray export runs/my-task --out data/chosen
    python jobs/examples/train_with_trl.py data/chosen/train.jsonl --model MODEL --out models/my-task

Loss is on the last answer, its end of turn included. (evoray's own training puts it on every answer of a conversation.)
"""

from __future__ import annotations

import argparse
from typing import Any

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer


def train(data: str, model: str, out: str, **settings: Any) -> Any:
    """Train on exported messages and write the model to `out`; settings: of TRL's SFTConfig. TRL's TrainOutput."""
    rows = load_dataset("json", data_files=data, split="train")
    turns = rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=rows.column_names,
    )
    trainer = SFTTrainer(model=model, args=SFTConfig(output_dir=out, **settings), train_dataset=turns)
    done = trainer.train()
    trainer.save_model(out)
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="train.jsonl of `evoray export`")
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--out", required=True, help="folder for the trained model")
    parser.add_argument("--epochs", type=float, default=3)
    options = parser.parse_args()
    train(options.data, options.model, options.out, num_train_epochs=options.epochs)
