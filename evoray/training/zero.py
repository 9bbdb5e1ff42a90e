"""DeepSpeed ZeRO around a model: start it, set its optimiser where another training was, gather what it spread out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from evoray.config import TrainingConfig
from evoray.models.loading import write_trained
from evoray.models.loss import Batch, sample_losses
from evoray.models.moments import BETAS, Moments, canonical_name, save_moments
from evoray.training.operators import load_operators

Model: TypeAlias = PeftModel | PreTrainedModel


class SampleLoss(nn.Module):
    """The module that DeepSpeed wraps: a batch in, the sum of its sample losses out.

    Autocast lives inside, where ZeRO's own precision handling does not interfere.
    """

    def __init__(self, model: Model, precision: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.ids_BT.device.type, self.precision, enabled=self.precision is not None):
            return sample_losses(self.model, batch).sum()


def engine_settings(config: TrainingConfig) -> dict[str, Any]:
    """The configuration that DeepSpeed is given; cluster_configs/deepspeed-zero*.json is that of each stage."""
    optimizer = {
        "lr": config.learning_rate,
        "betas": list(BETAS),
        "weight_decay": config.weight_decay,
        "torch_adam": True,
    }
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        # Batch sizes only feed DeepSpeed's own accounting: the loop decides where a step ends.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "optimizer": {"type": "AdamW", "params": optimizer},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def import_deepspeed() -> ModuleType:
    """DeepSpeed. It is imported late, because importing it decides the accelerator of the process.

    Its autotuner, which is not used here, would bring MLflow along wherever that is installed: most of the time that
    the import takes, in every worker. It does without if it meets a refusal.
    """
    refused = "mlflow" not in sys.modules
    if refused:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # the import system's own word for "there is none"
    try:
        import deepspeed
    finally:
        if refused:
            del sys.modules["mlflow"]
    return deepspeed  # type: ignore[no-any-return]


def start_engine(module: SampleLoss, config: TrainingConfig) -> Any:
    """The DeepSpeed engine of this rank. Collective."""
    deepspeed = import_deepspeed()
    load_operators()
    trained, settings = list(_trained(module).values()), engine_settings(config)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=trained, config=settings)
    return engine


def set_rate(engine: Any, rate: float) -> None:
    """The learning rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def restore(engine: Any, module: SampleLoss, moments: Moments, batch: Batch) -> None:
    """Give the optimiser the moments and the step count of an earlier training. Collective.

    Adam's state comes into being with its first step: one of no gradient at no rate, which leaves the weights alone.
    """
    set_rate(engine, 0.0)
    engine.set_gradient_accumulation_boundary(True)
    engine.backward(engine(batch) * 0.0)
    engine.step()
    for name, parameter in _trained(module.model).items():
        for kind, named in (("exp_avg", moments.first), ("exp_avg_sq", moments.second)):
            _set_state(parameter, named[canonical_name(name)].to(parameter.device), kind)
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(float(moments.steps))


def _set_state(parameter: Tensor, value: Tensor, kind: str) -> None:
    """Set a whole state of one parameter: of ZeRO 3's partitions, the last one may be padded."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_tensor"):
        safe_set_full_optimizer_state(parameter, value, kind)
        return
    size, ranks = parameter.ds_tensor.numel(), torch.distributed.get_world_size()
    padded = nn.functional.pad(value.flatten(), (0, size * ranks - value.numel()))
    part = padded.narrow(0, size * torch.distributed.get_rank(), size)
    safe_set_local_optimizer_state(parameter, part, kind)


def save_trained(module: SampleLoss, folder: Path, config: TrainingConfig, *, write: bool, steps: int) -> bool:
    """Gather weights and moments on every rank; the one that is to `write` leaves them in `folder`. Collective.

    False where the weights are not finite: then nothing is written.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_optimizer_state

    trained = _trained(module.model)

    def gathered(kind: str) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, parameter in trained.items():
            state = safe_get_full_optimizer_state(parameter, kind)
            if write:  # the others take part, and keep nothing of it
                found[canonical_name(name)] = state.detach().cpu().float()
        return found

    moments = Moments(first=gathered("exp_avg"), second=gathered("exp_avg_sq"), steps=steps, origin="optimizer")
    whole = list(module.model.parameters()) if config.weights == "full" else list(trained.values())
    with deepspeed.zero.GatheredParameters(whole, enabled=config.zero_stage == 3):
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in trained.values())
        if write and finite:
            folder.mkdir(parents=True, exist_ok=True)
            write_trained(module.model, folder)
            save_moments(folder, moments)
    return finite


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
