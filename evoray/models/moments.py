"""Adam's second moments, kept beside an adapter by parameter name, for preconditioning its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evoray.errors import ModelError

MOMENTS_FILE = "moments.safetensors"


@dataclass(frozen=True)
class Moments:
    """Bias-corrected Adam moments by parameter name (see `canonical_name`), and where they come from."""

    second: Mapping[str, Tensor]  # v_hat, the parameter's shape, float32
    origin: str  # "optimizer" or "estimated"


def canonical_name(name: str) -> str:
    """A parameter's name without PEFT's and DeepSpeed's wrapping, the same in each of them."""
    for part in ("base_model.model.", "module."):
        while name.startswith(part):
            name = name.removeprefix(part)
    return name.replace(".default", "").removesuffix(".weight")


def save_moments(folder: Path, moments: Moments) -> None:
    """Write the moments beside an adapter."""
    tensors = {name: tensor.float().contiguous() for name, tensor in moments.second.items()}
    save_file(tensors, folder / MOMENTS_FILE, metadata={"origin": moments.origin})


def load_moments(folder: str | Path) -> Moments | None:
    """The moments stored beside an adapter, or None. Raises ModelError for a damaged file."""
    path = Path(folder) / MOMENTS_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            origin = (stored.metadata() or {}).get("origin", "optimizer")
            names = stored.keys()  # the open file is no mapping and cannot be iterated over
            return Moments({name: stored.get_tensor(name) for name in names}, origin)
    except SafetensorError as error:
        raise ModelError(
            f"{path}: {error}", "the moments as evoray wrote them", "train or warm up the adapter again"
        ) from error


def second_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """v_hat of a torch Adam optimiser for each named parameter; zeros where it never stepped."""
    moments = {}
    for name, parameter in named.items():
        state = optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            moments[canonical_name(name)] = torch.zeros_like(parameter, dtype=torch.float32)
            continue
        beta2 = next(
            group["betas"][1]
            for group in optimizer.param_groups
            if any(parameter is candidate for candidate in group["params"])
        )
        correction = 1.0 - beta2 ** float(state["step"])
        moments[canonical_name(name)] = state["exp_avg_sq"].detach().float() / correction
    return moments
