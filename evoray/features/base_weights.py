"""Per-sample gradients of a model's own linear weights, without LoRA, through factored projections.

A gradient of all linear weights has as many coordinates as the model. It is a sum over tokens of outer products of the
two sides of each layer (see `taps`), so that projecting the sides first (see `sketches.kronecker`) never forms it.
Embeddings, norms and the LM head are left out, as LoRA on all linear layers leaves them out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from evoray.errors import ModelError
from evoray.features.protocol import FeatureBatch
from evoray.features.sketches import KroneckerSketch
from evoray.features.taps import Consumer, tapped_losses
from evoray.models.flops import FORWARD_AND_BACKWARD, flops_per_token
from evoray.models.loss import Batch


class BaseWeightFeatures:
    """Sketched per-sample gradients of all linear layers of a model but the LM head.

    The model is taken over: nothing of it asks for a gradient any more.
    Raises ModelError on building where the model has weights of another kind, such as a tensor of experts.
    """

    def __init__(self, model: PreTrainedModel, *, dim: int, seed: int, precision: torch.dtype | None = None) -> None:
        self.model = model.eval()
        self.model.requires_grad_(False)
        self.dim = dim
        self.precision = precision
        self.device = next(model.parameters()).device
        self.flops_per_token = flops_per_token(model, FORWARD_AND_BACKWARD)
        self.layers = linear_layers(model)
        self.sketches = {
            name: KroneckerSketch.make(name, _shape(layer), dim, seed).to(self.device)
            for name, layer in self.layers.items()
        }

    def __call__(self, batch: Batch) -> FeatureBatch:
        """One forward and backward pass; features of every sample of the batch."""
        sketch_BD = torch.zeros(batch.rows, self.dim, device=self.device)

        def consumer(sketch: KroneckerSketch) -> Consumer:
            def consume(x_BTI: Tensor, delta_BTO: Tensor) -> None:
                sketch_BD.add_(sketch.apply_factors(delta_BTO, x_BTI.to(delta_BTO.dtype)))

            return consume

        taps = {name: (layer, consumer(self.sketches[name])) for name, layer in self.layers.items()}
        return FeatureBatch(sketch_BD, tapped_losses(self.model, batch, taps, self.precision))


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Linear layers of a model by name, without the LM head. Raises ModelError where other weights would be missed."""
    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
    known = {id(layer.weight) for layer in layers.values()}
    known |= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    known |= set() if head is None else {id(head.weight)}
    missed = [name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in known]
    if missed or not layers:
        raise ModelError(
            f"weights {missed[:3]} that are no linear layer's" if missed else "a model without linear layers",
            "a model of linear layers, embeddings and norms",
            "take gradients of a LoRA adapter on its linear layers (features.parameters: lora)",
        )
    return layers


def _shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer; GPT-2 keeps its weight the other way round."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = weight.shape
    return (columns, rows) if isinstance(layer, Conv1D) else (rows, columns)
