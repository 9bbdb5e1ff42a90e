"""Exact per-sample LoRA gradients of a whole batch in one forward and one backward pass.

For an adapted layer y = W x + s B (A x) with delta = dL/dy per token (s the LoRA scaling):
    grad B = s * sum_t delta_t (A x_t)^T        grad A = s * sum_t (B^T delta_t) x_t^T
Both need x and delta alone (see `taps`). The passes themselves run with the adapter merged into W: its low-rank
products, forward and backward, are then paid for once, here, and not a second time in the model.
(Not so where weights are narrower than float32: see `merge`.)
Each module's [B, O, R] and [B, R, I] gradients are sketched at once and freed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from evoray.config import Preconditioning, SketchKind
from evoray.errors import ModelError
from evoray.features.precondition import adam_scale, less_update
from evoray.features.protocol import FeatureBatch
from evoray.features.sketches import KroneckerSketch, make_sketch
from evoray.features.taps import Consumer, tapped_losses
from evoray.models.flops import FORWARD_AND_BACKWARD, flops_per_token
from evoray.models.loss import Batch
from evoray.models.moments import Moments, canonical_name

#: Receives a parameter's canonical name and its per-sample gradient [B, *parameter shape].
GradientSink = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class AdaptedLayer:
    """One linear layer with a LoRA pair."""

    name: str
    layer: Any  # peft's LoraLayer
    adapter: str

    @property
    def linear(self) -> nn.Module:
        """The layer whose two sides the gradients are made of."""
        base: nn.Module = self.layer.get_base_layer()
        return base

    @property
    def factors(self) -> dict[str, Tensor]:
        """A [R, I] and B [O, R] by the canonical names of the parameters."""
        return {
            f"{self.name}.lora_A": self.layer.lora_A[self.adapter].weight,
            f"{self.name}.lora_B": self.layer.lora_B[self.adapter].weight,
        }

    @property
    def scaling(self) -> float:
        """The LoRA scaling s, rank-stabilised where the adapter says so."""
        return float(self.layer.scaling[self.adapter])

    def consumer(self, sink: GradientSink, wide: torch.dtype) -> Consumer:
        """What makes the pair's gradients of the layer's two sides, and gives them to `sink` in the type `wide`."""
        (name_a, a_RI), (name_b, b_OR) = self.factors.items()

        def consume(x_BTI: Tensor, delta_BTO: Tensor) -> None:
            # The scaling multiplies the small factors: x and delta are the large ones. Each is the right-hand side of
            # its products, as matrix libraries like it: the other way round a CPU takes three times as long.
            x_BTI = x_BTI.to(delta_BTO.dtype)
            ax_BTR = linear(x_BTI, (a_RI.detach() * self.scaling).to(delta_BTO.dtype))
            sink(name_b, (ax_BTR.transpose(1, 2) @ delta_BTO).transpose(1, 2).to(wide))
            bd_BTR = linear(delta_BTO, (b_OR.detach() * self.scaling).to(delta_BTO.dtype).T.contiguous())
            sink(name_a, (bd_BTR.transpose(1, 2) @ x_BTI).to(wide))

        return consume


class GradientFeatures:
    """Sketched per-sample gradients of a PEFT LoRA model.

    The model is taken over: its adapter is merged into the weights, and nothing of it asks for a gradient.
    moments: the optimiser's, for the preconditionings `adam` and `less`.
    precision: autocast type of the passes; None computes in the model's own.

    Raises ModelError on building where the adapter holds something whose gradient would be missed: DoRA and
    other LoRA variants, adapted embeddings, convolutions or expert tensors, trained biases or whole modules; and
    where the moments do not fit it or the sketch cannot be preconditioned.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        dim: int,
        seed: int,
        sketch: SketchKind = "sparse",
        preconditioning: Preconditioning = "none",
        moments: Moments | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.model = model.eval()
        self.model.requires_grad_(False)
        self.dim = dim
        self.precision = precision
        self.layers = adapted_layers(model)
        self.device = next(model.parameters()).device
        self.flops_per_token = flops_per_token(model, FORWARD_AND_BACKWARD)
        self.maps = {
            name: _parameter_map(name, weight, dim, seed, sketch, preconditioning, moments)
            for layer in self.layers
            for name, weight in layer.factors.items()
        }
        merge(model, self.layers)

    def __call__(self, batch: Batch) -> FeatureBatch:
        """One forward and backward pass; features of every sample of the batch."""
        sketch_BD = torch.zeros(batch.rows, self.dim, device=self.device)

        def sink(name: str, gradient_BOI: Tensor) -> None:
            sketch_BD.add_(self.maps[name](gradient_BOI))

        loss_B = per_sample_gradients(self.model, self.layers, batch, sink, self.precision)
        return FeatureBatch(sketch_BD, loss_B)


def per_sample_gradients(
    model: nn.Module,
    layers: list[AdaptedLayer],
    batch: Batch,
    sink: GradientSink,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Feed every LoRA parameter's per-sample gradient to `sink`; return the losses [B].

    Gradients are given in float32, or float64 for a float64 model, whatever the precision of the passes.
    """
    wide = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    taps = {layer.name: (layer.linear, layer.consumer(sink, wide)) for layer in layers}
    return tapped_losses(model, batch, taps, precision)


def merge(model: PeftModel, layers: list[AdaptedLayer]) -> None:
    """Add the adapter into the weights, in place, where that is exact.

    Weights narrower than float32 keep it apart: an adapter is small beside them, and would be rounded away.
    """
    exact = all(layer.linear.weight.dtype in (torch.float32, torch.float64) for layer in layers)
    if exact and not any(layer.layer.merged for layer in layers):
        model.merge_adapter()


def adapted_layers(model: PeftModel) -> list[AdaptedLayer]:
    """All layers of the active adapter. Raises ModelError where some of it is not a LoRA pair on a linear layer."""
    adapters = list(model.active_adapters)
    if len(adapters) != 1:
        raise _refuse(f"active adapters {adapters}", "exactly one active LoRA adapter")
    (adapter,) = adapters
    layers: list[AdaptedLayer] = []
    covered: set[str] = set()
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
            continue
        if module.lora_variant:
            raise _refuse(f"layer {path} with a LoRA variant (DoRA or another)", "plain LoRA")
        base = module.get_base_layer()
        if not hasattr(base, "weight") or base.weight.ndim != 2 or isinstance(base, nn.Embedding):
            raise _refuse(f"an adapted {type(base).__name__} at {path}", "LoRA on linear layers")
        layers.append(AdaptedLayer(canonical_name(path), module, adapter))
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


def _parameter_map(
    name: str,
    weight: Tensor,
    dim: int,
    seed: int,
    kind: SketchKind,
    preconditioning: Preconditioning,
    moments: Moments | None,
) -> Callable[[Tensor], Tensor]:
    """The map of one parameter's gradients [B, O, I] to [B, D]: precondition, then sketch."""
    shape = (weight.shape[0], weight.shape[1])
    sketch = make_sketch(kind, name, shape, dim, seed)
    if preconditioning == "none":
        return sketch.to(weight.device).apply
    if isinstance(sketch, KroneckerSketch):
        raise ModelError(
            f"features.sketch: kronecker, and features.preconditioning: {preconditioning}",
            "a sketch of whole gradients: a factored one cannot be weighted coordinate by coordinate",
            "set features.sketch: sparse, or features.preconditioning: none",
        )
    device, known = weight.device, _fitting(moments, name, weight)
    if preconditioning == "adam":
        return sketch.preconditioned(adam_scale(known.corrected_second(name))).to(device).apply
    update = partial(less_update, first=known.first[name].to(device), second=known.second[name].to(device))
    on_device = sketch.to(device)
    return lambda gradient_BOI: on_device.apply(update(gradient_BOI))


def _fitting(moments: Moments | None, name: str, weight: Tensor) -> Moments:
    second = None if moments is None else moments.second.get(name)
    if moments is not None and second is not None and second.shape == weight.shape:
        return moments
    found = "none" if second is None else f"of shape {tuple(second.shape)}"
    raise ModelError(
        f"optimiser moments for {name}: {found}",
        f"moments of shape {tuple(weight.shape)} by parameter name",
        "warm the adapter up with evoray, or set features.preconditioning: none",
    )


def _refuse(received: str, expected: str) -> ModelError:
    return ModelError(received, expected, "train or load a plain LoRA adapter on linear layers for the proxy")
