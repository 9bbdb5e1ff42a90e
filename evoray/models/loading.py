"""Load models, tokenizers and LoRA adapters, with errors that say what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evoray.config import LoraConfig
from evoray.errors import ModelError, first_line
from evoray.models.attention import use_tiled_attention
from evoray.models.reference import missing_model, resolve_model, revision_of


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token. Raises ModelError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_model(reference), revision=revision_of(reference), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise missing_model(reference, first_line(error)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{reference}: a tokenizer without padding and end-of-text tokens",
                "one of them, to fill up batches with",
                "set pad_token in the tokenizer's folder",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(reference: str) -> PreTrainedModel:
    """The causal language model in float32, in evaluation mode. Raises ModelError."""
    return _load(AutoModelForCausalLM, reference)


def load_encoder(reference: str) -> PreTrainedModel:
    """A sentence encoder (or any model, without its head) in float32, on the device. Raises ModelError."""
    encoder: PreTrainedModel = to_device(_load(AutoModel, reference))
    return encoder


def _load(kind: Any, reference: str) -> PreTrainedModel:
    # On a CPU, plain matrix products: the backward pass of fused attention works in small blocks there.
    attention = None if torch.cuda.is_available() else "eager"
    try:
        model: PreTrainedModel = kind.from_pretrained(
            resolve_model(reference),
            revision=revision_of(reference),
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,  # nothing that was read is executed
            trust_remote_code=False,  # unless it is said, transformers asks on the terminal
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise missing_model(reference, first_line(error)) from error
    if attention is not None:
        use_tiled_attention(model)
    return model.eval()


def new_adapter(model: PreTrainedModel, lora: LoraConfig, seed: int) -> PeftModel:
    """A fresh LoRA adapter (B = 0) on a model; its A matrices depend on the seed alone."""
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = PeftLoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=modules, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"lora.target_modules = {lora.target_modules!r}: {first_line(error)}",
                "names of linear layers of the model",
                "use all-linear, or the layer names that the model prints",
            ) from error


def load_adapter(model: PreTrainedModel, folder: str, trainable: bool = False) -> PeftModel:
    """A saved LoRA adapter on its model. Only safetensors are read. Raises ModelError."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise ModelError(
                f"adapter {folder} without {name}",
                "a PEFT adapter directory with adapter_config.json and adapter_model.safetensors",
                "check the path, or save the adapter again with safetensors",
            )
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
        _check_complete(adapted, folder)
        return adapted
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"adapter {folder}: {first_line(error)}",
            f"an adapter trained on a model of this shape ({model.config.model_type})",
            "give the model that the adapter was trained on",
        ) from error


def _check_complete(adapted: PeftModel, folder: str) -> None:
    """Raise ValueError where an adapter has weights for other layers than the model: PEFT leaves them out silently."""
    with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as stored:
        saved = set(stored.keys())
    expected = set(get_peft_model_state_dict(adapted))
    if saved != expected:
        example = sorted(saved ^ expected)[0]
        raise ValueError(f"{len(saved - expected)} weights too many and {len(expected - saved)} too few ({example})")


def load_trained(reference: str, folder: str | None, trainable: bool = False) -> Any:
    """The model with what a training left in `folder`: an adapter on it, or weights of its own in place of the model's.

    None: the model as it is. Raises ModelError.
    """
    if folder is None:
        return load_model(reference)
    if is_whole_model(folder):
        return load_model(folder)
    return load_adapter(load_model(reference), folder, trainable)


def is_whole_model(folder: str) -> bool:
    """Whether a training of all weights left this folder."""
    return (Path(folder) / "config.json").is_file() and not (Path(folder) / "adapter_config.json").is_file()


def write_trained(model: Any, folder: Path) -> None:
    """Write what was trained, an adapter or a whole model, for `load_trained`.

    Equal trainings leave equal files, by which later stages know them: PEFT lists the adapted modules in the order of a
    set, which is another in every process.
    """
    model.save_pretrained(folder, safe_serialization=True)
    settings = folder / "adapter_config.json"
    if settings.is_file():
        written = json.loads(settings.read_text(encoding="utf-8"))
        if isinstance(written["target_modules"], list):
            written["target_modules"].sort()
        settings.write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The autocast type: None is plain float32. What `auto` means is decided before, for all workers alike."""
    return {"float32": None, "bfloat16": torch.bfloat16}[precision]


def to_device(model: Any) -> Any:
    """The model on the GPU that this process sees; an engine's worker sees one only where it asked for one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_for_inference(reference: str, adapter: str | None, precision: torch.dtype | None, merge: bool = False) -> Any:
    """A model with an adapter (merged into its weights if asked for), on the device, ready for passes."""
    model = load_trained(reference, adapter)
    if merge and isinstance(model, PeftModel):
        model = model.merge_and_unload()
    return _untied(cast_frozen(to_device(model), precision), precision)


def _untied(model: Any, precision: torch.dtype | None) -> Any:
    """Give an LM head that is tied to the embedding weights of its own in the autocast type, in place.

    Nothing is trained here, and autocast would cast the whole vocabulary anew in every pass, with the same result.
    """
    head = model.get_output_embeddings()
    if precision is not None and isinstance(head, torch.nn.Linear) and head.weight.dtype != precision:
        head.weight = torch.nn.Parameter(head.weight.detach().to(precision), requires_grad=False)
    return model


def cast_frozen(model: Any, precision: torch.dtype | None) -> Any:
    """Keep the weights of frozen base layers in the autocast type, in place.

    Autocast would cast them to it in every pass, with the same result. Left as they are: adapters, and an LM head
    that is tied to the embedding (whose output carries the float32 residual stream).
    """
    if precision is None:
        return model
    embedding = model.get_input_embeddings().weight
    for name, module in model.named_modules():
        adapter = "lora_" in name
        if isinstance(module, torch.nn.Linear) and not adapter and module.weight is not embedding:
            module.weight.requires_grad_(False)
            module.weight.data = module.weight.data.to(precision)
    return model
