"""One JSON row for each cell of a comparison: what was chosen, trained and scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evoray.engine.cell_models import CellModel
from evoray.engine.cell_selections import Wanted
from evoray.engine.site import fingerprint
from evoray.engine.stages import Scores


def untrained_cell(target: str, scores: Scores, model: str) -> dict[str, Any]:
    """The model as it is, on one target."""
    about = {"target": target, "selector": "untrained", "kind": "untrained", "budget": None, "seed": None}
    return {"cell": fingerprint(model=model, ids=scores.ids, **about), **about, **_measured(scores)}


def model_cell(
    wanted: Wanted,
    scores: Scores,
    scored: str,
    selection: Mapping[str, Any],
    model: CellModel,
) -> dict[str, Any]:
    """A model that was trained on a selection. scored: fingerprint of the scores."""
    trained = model.facts
    everything = wanted.entry.selection.selector == "all"
    about = {
        "target": wanted.target,
        "selector": wanted.entry.name,
        "kind": wanted.entry.kind,
        "budget": None if everything else str(wanted.budget),
        "seed": wanted.seed,
    }
    identities = {"selection": selection["identity"], "model": model.identity, "scores": scored}
    decile = None
    if wanted.entry.kind == "decile":
        facts = selection["facts"]
        decile = {"index": wanted.entry.selection.options["index"], "alignment": facts["alignment"]}
    return {
        "cell": fingerprint(**about, **identities),
        **about,
        **_measured(scores),
        "rows": trained["rows"],
        "tokens": trained["row_tokens"],
        "steps": trained["steps"],
        "training_tokens": trained["tokens"],
        "ids": selection["ids"],
        "sources": selection["sources"],
        **{name: selection[name] for name in ("distance", "cosine", "vendi", "vendi_target")},
        "seconds": {
            "select": selection["seconds"],
            "train": trained["seconds"] + selection.get("tried_seconds", 0.0),
        },
        "facts": selection["facts"],
        "fingerprints": identities,
        "decile": decile,
    }


def _measured(scores: Scores) -> dict[str, Any]:
    losses = [value if math.isfinite(value) else None for value in scores.loss]
    known = [value for value in losses if value is not None]
    answered = [value for value in scores.correct if value is not None]
    return {
        "split": "test",
        "losses": losses,
        "correct": list(scores.correct),
        "loss": float(np.mean(known)) if known else None,
        "accuracy": float(np.mean(answered)) if answered else None,
    }
