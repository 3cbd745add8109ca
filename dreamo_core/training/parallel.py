"""Several processes: accelerate starts them, DDP or torch's FSDP2 joins them.

With `accelerate launch --config_file accelerate/fsdp.yaml` the frozen transformer and T5 are split over the devices,
block by block. Accelerate's settings are read, but the splitting is done here: accelerate itself leaves FSDP out on
CPUs, where it is tested, and its mixed-precision policy would round the rotary embedding that blocks are given.
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def accelerator_for(precision: str) -> Accelerator:
    """What `accelerate launch` described, or a single process."""
    # A batch without references leaves the condition embeddings unused.
    return Accelerator(
        mixed_precision=precision, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )


def sharding() -> FullyShardedDataParallelPlugin | None:
    """The FSDP settings of `accelerate launch`, None without.

    Raises:
        ValueError: a setting that this trainer does not follow.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    # Version 1 does not even get through the making of its settings without a GPU.
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("Only FSDP version 2 is supported; set fsdp_version: 2 in accelerate's config.")
    settings = FullyShardedDataParallelPlugin()
    if settings.activation_checkpointing:
        raise ValueError(
            "Set gradient_checkpointing = true under [model] of the training config, not fsdp_activation_checkpointing "
            "in accelerate's."
        )
    if settings.cpu_ram_efficient_loading:
        raise ValueError(
            "Set fsdp_cpu_ram_efficient_loading: false in accelerate's config: every process reads the weights itself."
        )
    if not settings.transformer_cls_names_to_wrap:
        raise ValueError(
            "FSDP needs to know what to split: set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP and "
            "fsdp_transformer_layer_cls_to_wrap in accelerate's config, as accelerate/fsdp.yaml beside this file does."
        )
    return settings


def units(model: nn.Module, classes: list[str]) -> list[str]:
    """Names of the modules that FSDP splits one by one, inner ones first; what is left is one more unit.

    Raises:
        ValueError: the model has none of one of the classes.
    """
    found = [(name, type(module).__name__) for name, module in model.named_modules()]
    for wanted in classes:
        if wanted not in {kind for _, kind in found}:
            raise ValueError(f"fsdp_transformer_layer_cls_to_wrap names {wanted}, which the model does not have.")
    return sorted((name for name, kind in found if kind in classes), key=lambda name: -name.count("."))


def shard(model: nn.Module, settings: FullyShardedDataParallelPlugin, device: torch.device, methods: list[str]) -> str:
    """Split a model, in place, over all processes; every process must hold the same weights.

    Args:
        methods: of the model beside `forward` that may be called from outside.

    Returns:
        What this process now holds, in words.

    Raises:
        ValueError: there is one process, or the model has none of the modules to split.
    """
    if not torch.distributed.is_initialized():
        raise ValueError("FSDP needs more than one process; start with accelerate launch --num_processes N.")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    options = {"mesh": mesh, "reshard_after_forward": settings.reshard_after_forward}
    if settings.cpu_offload:
        options["offload_policy"] = settings.cpu_offload
    for name in units(model, settings.transformer_cls_names_to_wrap):
        fully_shard(model.get_submodule(name), **options)
    fully_shard(model, **options)
    for method in methods:
        register_fsdp_forward_method(model, method)
    if device.type == "cpu":
        # Gloo cannot average, so it sums and FSDP divides.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    own, total = (sum(size(p) for p in model.parameters()) for size in (_held, torch.Tensor.numel))
    return f"sharded over {mesh.size()} processes: {own} of {total} parameters in this one"


def _held(parameter: torch.Tensor) -> int:
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter or its state without gradient; where it is sharded every process must ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as a parameter of its shape is; every process must have it."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def agreed(accelerator: Accelerator, answer: bool) -> bool:
    """Whether any process says so: the same answer for all."""
    return bool(accelerator.reduce(torch.tensor(float(answer), device=accelerator.device), "sum"))
