"""A frozen base divided over the processes of a run, by PyTorch's FSDP2 (`fully_shard`).

Each process holds a part of every decoder layer, and gathers a layer when a pass comes to it. So
every process has to make the same passes. What is trained stays whole and plain: the LoRA layers
are left out, and so are the embedding and the output head, which the loss reads in chunks.

The root is the decoder, not the causal language model and not PEFT's wrapper, since the decoder is
what is called (`split_model`).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError


def is_sharded(config: Config) -> bool:
    """True if the run's base is divided over several processes, which have met already."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    return config.train.shard == "full" and several


def shard_base(model: Any, device: torch.device, name: str) -> None:
    """Divide the base over all processes, layer by layer, so that no device ever holds it whole.

    Args:
        model: on the CPU, its adapter attached; whatever needs a gradient is left whole.
        device: of this process's parts.
        name: of the model, for errors.

    Raises:
        ModelError: it has no decoder layers that are known.
    """
    decoder = model.get_decoder()
    layers = [m for m in decoder.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"the layers of {name} cannot be told apart, so its base cannot be sharded",
            "set train.shard to none",
        )
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    whole = {parameter for end in ends for parameter in end.parameters()}
    whole |= {parameter for parameter in model.parameters() if parameter.requires_grad}
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in reversed(layers):  # where one holds another, the inner one first
        # The backward pass begins with the last layer, which is kept for it.
        fully_shard(
            layer, mesh=mesh, reshard_after_forward=layer is not layers[-1], ignored_params=whole
        )
    fully_shard(decoder, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    for tensor in chain(whole, model.buffers()):
        # A copy also on a CPU: a view of the mapped file would keep all of it in memory.
        tensor.data = tensor.data.to(device, copy=True)


def local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter; all of one that is whole."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
