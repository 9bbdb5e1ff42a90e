"""A trained model as one folder that serves: the adapter merged into its base, tokenizer beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoray.engine.rundir import existing
from evoray.errors import ConfigError, ModelError
from evoray.models.folder import Folder
from evoray.models.reference import identified
from evoray.report.shown import fields_view, shown
from evoray.storage import Storage, scratch_folder


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model that was written for serving."""

    path: str  # folder or URI: safetensors, config, tokenizer
    model: str  # the base
    trained: str  # what was merged into it


def export_model(source: str, out: str, *, model: str | None = None) -> ExportedModel:
    """Merge what was trained into its base model; `transformers`, vLLM and others load the folder as it is.

    source: a run directory (its best round), an adapter, or a model that was trained whole. model: the base; by default
    the run's, or the one that the adapter names. Weights get the type that the base model is stored in.
    Raises ConfigError where there is nothing to merge, ModelError where it does not fit the model.
    """
    folder, base = _find(source, model)
    base, identity = identified(base)
    folder.check_base(base, identity)
    with scratch_folder() as scratch:
        _merge(folder.fetch(), base, scratch)
        target = Storage(out)
        for path in sorted(scratch.iterdir()):
            target.write(path.name, path.read_bytes())
    return ExportedModel(path=target.uri, model=base, trained=str(folder))


def _find(source: str, model: str | None) -> tuple[Folder, str]:
    storage = existing(source)
    if storage.exists("best/best.json"):
        best = storage.read_json("best/best.json")
        if not best["round"]:
            raise ConfigError(
                f"{source}, of which no round was better than the untrained model",
                "a run with a best round",
                "give the folder of an adapter, for example rounds/0001/adapter",
            )
        return Folder(storage=storage, prefix="best"), model or best["model"]
    folder = Folder.at(source)
    if folder.has("adapter_config.json"):
        named = json.loads(folder.read("adapter_config.json")).get("base_model_name_or_path")
        if not (model or named):
            raise ModelError(f"adapter {source}, which names no base model", "its base model", "add --model")
        return folder, model or str(named)
    if folder.has("config.json") and model:
        return folder, model
    raise ConfigError(
        f"{source} without best/, adapter_config.json, or (with --model) config.json",
        "a finished run, an adapter, or a model that was trained whole",
        "check the path",
    )


def _merge(trained: str, base: str, out: Path) -> None:
    from peft import PeftModel
    from transformers import AutoConfig

    from evoray.models.loading import load_tokenizer, load_trained
    from evoray.models.reference import resolve_model, revision_of

    model: Any = load_trained(base, trained)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload(safe_merge=True)
    of_base = AutoConfig.from_pretrained(resolve_model(base), revision=revision_of(base), trust_remote_code=False)
    model.to(of_base.dtype or model.dtype).save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
