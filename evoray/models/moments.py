"""Adam's moments, kept beside an adapter by parameter name, for preconditioning its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evoray.errors import ModelError
from evoray.models.folder import MOMENTS_FILE

#: Adam's decay rates, in the warm-up and under DeepSpeed alike.
BETAS = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The running averages of an Adam optimiser by parameter name (see `canonical_name`), before bias correction."""

    first: Mapping[str, Tensor]  # m, the parameter's shape, float32
    second: Mapping[str, Tensor]  # v, the parameter's shape, float32
    steps: int  # of the optimiser; 0 for plain averages, which need no correction
    origin: str  # "optimizer" or "estimated"

    def corrected_second(self, name: str) -> Tensor:
        """v_hat = v / (1 - beta2^steps) of one parameter."""
        return self.second[name] / (1.0 - BETAS[1] ** self.steps) if self.steps else self.second[name]


def canonical_name(name: str) -> str:
    """A parameter's name without PEFT's and DeepSpeed's wrapping, the same in each of them."""
    for part in ("base_model.model.", "module."):
        while name.startswith(part):
            name = name.removeprefix(part)
    return name.replace(".default", "").removesuffix(".weight")


def save_moments(folder: Path, moments: Moments) -> None:
    """Write the moments beside an adapter."""
    tensors = {
        f"{kind}/{name}": tensor.float().contiguous()
        for kind, named in (("first", moments.first), ("second", moments.second))
        for name, tensor in named.items()
    }
    save_file(tensors, folder / MOMENTS_FILE, metadata={"origin": moments.origin, "steps": str(moments.steps)})


def load_moments(folder: str | Path) -> Moments | None:
    """The moments stored beside an adapter, or None. Raises ModelError for a damaged file."""
    path = Path(folder) / MOMENTS_FILE
    if not path.is_file():
        return None
    kinds: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            names = stored.keys()  # the open file is no mapping and cannot be iterated over
            for key in names:
                kind, _, name = key.partition("/")
                kinds[kind][name] = stored.get_tensor(key)
            return Moments(**kinds, steps=int(metadata["steps"]), origin=metadata["origin"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: {error}", "the moments as evoray wrote them", "train or warm up the adapter again"
        ) from error


def optimizer_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], steps: int) -> Moments:
    """Moments of a torch Adam optimiser after `steps` steps; zeros for a parameter that it never moved."""

    def state(parameter: Tensor, kind: str) -> Tensor:
        found: Tensor | None = optimizer.state.get(parameter, {}).get(kind)
        return torch.zeros_like(parameter, dtype=torch.float32) if found is None else found.detach().float().clone()

    return Moments(
        first={canonical_name(name): state(parameter, "exp_avg") for name, parameter in named.items()},
        second={canonical_name(name): state(parameter, "exp_avg_sq") for name, parameter in named.items()},
        steps=steps,
        origin="optimizer",
    )
