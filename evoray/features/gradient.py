"""Exact per-sample LoRA gradients of a whole batch in one forward and one backward pass.

For an adapted layer y = W x + s B (A x) with delta = dL/dy per token (s the LoRA scaling):
    grad B = s * sum_t delta_t (A x_t)^T        grad A = s * sum_t (B^T delta_t) x_t^T
Hooks keep x and A x of the forward pass and take delta in the backward pass; the sums over t stay apart
for each sample, because the losses of the samples are summed and samples do not mix. No weight is asked
for a gradient: backward only carries delta down, to the lowest adapted layer and no further.
Each module's [B, out, R] and [B, R, in] gradients are sketched at once and freed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from evoray.errors import ModelError
from evoray.features.precondition import adam_scale
from evoray.features.sketch import Sketch, make_sketch
from evoray.models.loss import Batch, sample_losses
from evoray.models.moments import Moments, canonical_name

#: Receives a parameter's canonical name and its per-sample gradient [B, *parameter shape].
GradientSink = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class GradientBatch:
    """Features of one batch, before normalisation."""

    sketch_BD: Tensor  # float32
    loss_B: Tensor  # mean over supervised tokens


@dataclass(frozen=True)
class _Adapted:
    """One LoRA layer and what its hooks keep between forward and backward."""

    name: str
    layer: Any
    adapter: str
    kept: dict[str, Tensor]

    @property
    def scaling(self) -> float:
        return float(self.layer.scaling[self.adapter])


class GradientFeatures:
    """Sketched per-sample gradients of a PEFT LoRA model.

    Raises ModelError on building where the adapter holds something whose gradient would be missed:
    DoRA and other LoRA variants, adapted embeddings or convolutions, trained biases or whole modules.
    """

    def __init__(self, model: PeftModel, dim: int, seed: int, moments: Moments | None, precision: torch.dtype | None):
        self.model = model.eval()
        self.model.requires_grad_(False)
        self.dim = dim
        self.precision = precision
        self.layers = _adapted_layers(model)
        self.sketches = _sketches(self.layers, dim, seed, moments)
        self.device = next(model.parameters()).device

    def __call__(self, batch: Batch) -> GradientBatch:
        """One forward and backward pass; features of every sample of the batch."""
        sketch_BD = torch.zeros(batch.rows, self.dim, device=self.device)

        def sink(name: str, gradient: Tensor) -> None:
            sketch_BD.add_(self.sketches[name].apply(gradient.flatten(1)))

        loss_B = per_sample_gradients(self.model, self.layers, batch, sink, self.precision)
        return GradientBatch(sketch_BD, loss_B)


def per_sample_gradients(
    model: PeftModel, layers: list[_Adapted], batch: Batch, sink: GradientSink, precision: torch.dtype | None = None
) -> Tensor:
    """Feed every LoRA parameter's per-sample gradient to `sink`; return the losses [B].

    Gradients are in float32, or float64 for a float64 model, whatever the precision of the passes.
    """
    wide = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    handles = [handle for layer in layers for handle in _hook(layer, sink, wide)]
    amp = torch.autocast(batch.ids_BT.device.type, precision) if precision else nullcontext()
    try:
        with torch.enable_grad(), amp:
            loss_B = sample_losses(model, batch)
        if loss_B.requires_grad:
            torch.autograd.backward(loss_B.sum())
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            layer.kept.clear()
    return loss_B.detach()


def _hook(adapted: _Adapted, sink: GradientSink, wide: torch.dtype) -> list[Any]:
    layer, name = adapted.layer, adapted.name

    def keep_projection(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        adapted.kept["ax"] = output.detach()

    def backward(delta_BTO: Tensor) -> None:
        delta = delta_BTO.to(wide)
        b_OR = layer.lora_B[adapted.adapter].weight.to(wide)
        ax_BTR = adapted.kept.pop("ax").to(wide)
        x_BTI = adapted.kept.pop("x").to(wide)
        # The scaling multiplies the small factors: delta is the large one.
        sink(f"{name}.lora_B", delta.transpose(1, 2) @ (ax_BTR * adapted.scaling))
        sink(f"{name}.lora_A", (delta @ (b_OR * adapted.scaling)).transpose(1, 2) @ x_BTI)

    def forward(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        adapted.kept["x"] = inputs[0].detach()
        # Nothing below the lowest adapted layers needs a gradient: there the graph begins at the output.
        traced = output if output.requires_grad else output.detach().requires_grad_(True)
        traced.register_hook(backward)  # type: ignore[no-untyped-call]
        return traced

    return [
        layer.lora_A[adapted.adapter].register_forward_hook(keep_projection),
        layer.register_forward_hook(forward),
    ]


def _adapted_layers(model: PeftModel) -> list[_Adapted]:
    adapters = list(model.active_adapters)
    if len(adapters) != 1:
        raise _refuse(f"active adapters {adapters}", "exactly one active LoRA adapter")
    (adapter,) = adapters
    layers: list[_Adapted] = []
    covered: set[str] = set()
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
            continue
        if module.lora_variant:
            raise _refuse(f"layer {path} with a LoRA variant (DoRA or another)", "plain LoRA")
        base = module.get_base_layer()
        if not hasattr(base, "weight") or base.weight.ndim != 2 or isinstance(base, nn.Embedding):
            raise _refuse(f"an adapted {type(base).__name__} at {path}", "LoRA on linear layers")
        layers.append(_Adapted(canonical_name(path), module, adapter, {}))
        covered |= {f"{path}.lora_A.{adapter}.weight", f"{path}.lora_B.{adapter}.weight"}
    missed = [name for name in _adapter_parameters(model, adapter) if name not in covered]
    if missed:
        raise _refuse(f"adapter parameters {missed[:3]}", "LoRA pairs on linear layers only")
    if not layers:
        raise _refuse("a model without LoRA layers", "a LoRA adapter with at least one layer")
    return layers


def _adapter_parameters(model: PeftModel, adapter: str) -> list[str]:
    """Names of all parameters that belong to the adapter, whatever their kind."""
    return [
        name
        for name, _ in model.named_parameters()
        if any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens")) and adapter in name
    ]


def _sketches(layers: list[_Adapted], dim: int, seed: int, moments: Moments | None) -> Mapping[str, Sketch]:
    sketches = {}
    for adapted in layers:
        for part, weights in (("lora_A", adapted.layer.lora_A), ("lora_B", adapted.layer.lora_B)):
            weight = weights[adapted.adapter].weight
            name = f"{adapted.name}.{part}"
            sketch = make_sketch(name, weight.numel(), dim, seed)
            if moments is not None:
                sketch = sketch.preconditioned(_scale_of(moments, name, weight))
            device = weight.device
            sketches[name] = Sketch(dim, sketch.coordinates, sketch.slot_L.to(device), sketch.weight_L.to(device))
    return sketches


def _scale_of(moments: Moments, name: str, weight: Tensor) -> Tensor:
    second = moments.second.get(name)
    if second is None or second.shape != weight.shape:
        found = "none" if second is None else f"of shape {tuple(second.shape)}"
        raise ModelError(
            f"optimiser moments for {name}: {found}",
            f"moments of shape {tuple(weight.shape)} by parameter name",
            "warm the adapter up with evoray, or set features.preconditioning: none",
        )
    return adam_scale(second).flatten()


def _refuse(received: str, expected: str) -> ModelError:
    return ModelError(received, expected, "train or load a plain LoRA adapter on linear layers for the proxy")
