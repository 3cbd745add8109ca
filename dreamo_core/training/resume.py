"""Checkpoints that are whole or absent: one safetensors file, flushed, then renamed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from ..files import save_whole
from .parallel import like, whole

NAME = "checkpoint.safetensors"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, stage: int, step: int, write: bool = True
) -> None:
    """Trained parameters, optimizer state and place in the run; the file before it stays until this one is whole.

    Args:
        write: whether this process writes the file. Where parameters are sharded every process must call this.
    """
    tensors = {f"model.{name}": whole(parameter) for name, parameter in trained(model).items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": whole(value) for key, value in state.items()}
    if not write:
        return
    save_whole(tensors, folder / NAME, {"stage": str(stage), "step": str(step)})


@dataclass(frozen=True)
class Place:
    """Where a run stopped.

    Attributes:
        stage, step: the next to do.
        optimizer: state by number of the parameter; empty where there was no checkpoint.
    """

    stage: int
    step: int
    optimizer: dict[int, dict[str, torch.Tensor]]


def progress(folder: Path) -> tuple[int, int]:
    """Stage and step that a run goes on with; (0, 0) without a checkpoint, its number of stages when it is finished.

    Raises:
        ValueError: the file is not a checkpoint.
    """
    path = folder / NAME
    if not path.exists():
        return 0, 0
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["stage"]), int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint of this trainer ({error}); move it away.") from error


def load_checkpoint(folder: Path, model: nn.Module) -> Place:
    """Put what `save_checkpoint` kept into a model that is not sharded yet; stage and step 0 without a checkpoint.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    path = folder / NAME
    stage, step = progress(folder)
    if not path.exists():
        return Place(stage, step, {})
    tensors = load_file(path)
    parameters = trained(model)
    stored = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    different = set(stored) ^ set(parameters) or {n for n in stored if stored[n].shape != parameters[n].shape}
    if different:
        raise ValueError(
            f"{path} is of another model: {sorted(different)[0]} differs; change `output` or move the file away."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    return Place(stage, step, state)


def restore_optimizer(optimizer: torch.optim.Optimizer, place: Place) -> None:
    """Give an optimizer over the parameters, sharded or not, the state they stopped with."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: like(value, parameters[number]) for name, value in values.items()}
        for number, values in place.optimizer.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
