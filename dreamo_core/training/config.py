"""A training run as a TOML file; every field has a type, unknown fields are errors."""

from __future__ import annotations

import os
import sys
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""What is computed in, by the dtype of the frozen base, where the config does not say."""


class ConfigError(ValueError):
    """Names the file and the field."""


@dataclass(frozen=True)
class Base:
    """The frozen models. Paths are relative to the config and may hold `~` and `$VARIABLES`.

    Attributes:
        transformer: a safetensors file in the host's layout, or a folder of diffusers'.
        autoencoder: a folder of diffusers' AutoencoderKL, or a file of weights.
        autoencoder_class: whose weights such a file holds: "package.module.Class".
        t5, clip: transformers folders, or safetensors files with their config in the metadata.
        text_tokens: T5 tokens a prompt is padded to.
        dtype: of the frozen transformer and T5.
    """

    transformer: Path
    autoencoder: Path
    t5: Path
    clip: Path
    t5_tokenizer: Path
    clip_tokenizer: Path
    text_tokens: int = 512
    dtype: str = "bfloat16"
    autoencoder_class: str = ""


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        rank: of the LoRA.
        probed: blocks that Eq. 3 and 4 look into, all if empty.
        begin: a `dreamo.safetensors` of the same rank to train on, instead of a new one.
    """

    rank: int = 128
    condition_embedding: bool = True
    probed: tuple[int, ...] = ()
    gradient_checkpointing: bool = False
    begin: Path | None = None


@dataclass(frozen=True)
class Losses:
    """Weights of Eq. 5; placeholders: share of prompts that have them."""

    flow: float = 1.0
    routing: float = 0.5
    placeholder: float = 0.5
    placeholders: float = 0.5


@dataclass(frozen=True)
class Times:
    """The logit-normal of the times and its shift; guidance: what the distilled guidance is told."""

    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.16
    guidance: float = 1.0


@dataclass(frozen=True)
class Samples:
    """Pictures drawn on the way, always of the same lines with the same noise.

    Attributes:
        every: steps between them, 0 for none.
        count: the first lines of the manifest.
        manifest: of the lines; that of the first stage where it is not given.
        steps, guidance: of drawing.
        block: whose response maps are shown, a number among the probed ones; −1 for their mean.
    """

    every: int = 0
    count: int = 4
    manifest: Path | None = None
    steps: int = 12
    guidance: float = 3.5
    block: int = -1


@dataclass(frozen=True)
class Stage:
    """One of the progressive stages.

    Attributes:
        manifest: of its data.
        mixture: weight of each task; tasks that are not named are not used.
        warm_up: steps until the learning rate is reached; decay: share of the steps over which it falls to 0.
        clip: largest norm of the gradient, 0 for any.
        reference_token_drop: share of each reference's tokens that is left out.
    """

    name: str
    manifest: Path
    steps: int
    mixture: dict[str, float]
    batch: int = 8
    learning_rate: float = 4e-5
    warm_up: int = 0
    decay: float = 0.0
    clip: float = 0.0
    reference_token_drop: float = 0.0


@dataclass(frozen=True)
class Run:
    output: Path
    base: Base
    stages: tuple[Stage, ...]
    model: Model = field(default_factory=Model)
    losses: Losses = field(default_factory=Losses)
    times: Times = field(default_factory=Times)
    samples: Samples = field(default_factory=Samples)
    seed: int = 0
    precision: str = "auto"
    save_every: int = 500
    log_every: int = 10
    threads: int = 0

    @property
    def computed_in(self) -> str:
        """`precision`, with "auto" as what fits the frozen base's dtype."""
        return PRECISIONS[self.base.dtype] if self.precision == "auto" else self.precision


def _convert(value: Any, kind: Any, where: str, folder: Path) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _convert(value, inner[0], where, folder)
    if is_dataclass(kind):
        return _build(kind, value, where, folder)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        return tuple(_convert(item, inner[0], f"{where}[{n}]", folder) for n, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not value:
            raise ConfigError(f"{where}: expected a table of numbers, got {value!r}.")
        return {key: _convert(item, inner[1], f"{where}.{key}", folder) for key, item in value.items()}
    if kind is Path and isinstance(value, str):
        path = os.path.expanduser(os.path.expandvars(value))
        if "$" in path:
            raise ConfigError(f"{where}: {value} names an environment variable that is not set.")
        return folder / path
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}.")
    return value


def _build(kind: type, table: Any, where: str, folder: Path) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {table!r}.")
    hints = typing.get_type_hints(kind, {**vars(sys.modules[__name__]), **vars(types)})
    known = {f.name: f for f in fields(kind)}
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown field; known are {', '.join(known)}.".replace(": .", ": "))
    for name, f in known.items():
        if name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}.{name}: missing.")
    return kind(**{name: _convert(value, hints[name], f"{where}.{name}", folder) for name, value in table.items()})


def _check(run: Run, where: str) -> None:
    if not run.stages:
        raise ConfigError(f"{where}.stages: at least one stage is needed.")
    for n, stage in enumerate(run.stages):
        for name, low in (("steps", 1), ("batch", 1)):
            if getattr(stage, name) < low:
                raise ConfigError(f"{where}.stages[{n}].{name}: must be at least {low}, got {getattr(stage, name)}.")
        if not 0 <= stage.reference_token_drop < 1:
            raise ConfigError(f"{where}.stages[{n}].reference_token_drop: must be in [0, 1).")
        if any(weight < 0 for weight in stage.mixture.values()) or not sum(stage.mixture.values()):
            raise ConfigError(f"{where}.stages[{n}].mixture: weights must not be negative nor all 0.")
    for name, low in (("every", 0), ("count", 1), ("steps", 1), ("block", -1)):
        if getattr(run.samples, name) < low:
            raise ConfigError(f"{where}.samples.{name}: must be at least {low}, got {getattr(run.samples, name)}.")
    if run.model.probed and run.samples.block >= len(run.model.probed):
        raise ConfigError(f"{where}.samples.block: {run.samples.block}, but {len(run.model.probed)} blocks are probed.")
    if run.base.dtype not in PRECISIONS:
        raise ConfigError(f"{where}.base.dtype: expected float32, bfloat16 or float16, got {run.base.dtype!r}.")
    if run.precision not in ("auto", *PRECISIONS.values()):
        raise ConfigError(f"{where}.precision: expected auto, no, bf16 or fp16, got {run.precision!r}.")
    if run.precision == "no" and run.base.dtype != "float32":
        raise ConfigError(
            f'{where}.precision: "no" computes in float32, but base.dtype is {run.base.dtype}; write "auto", '
            f'"{PRECISIONS[run.base.dtype]}", or base.dtype = "float32".'
        )


def load_config(path: Path) -> Run:
    """Read and check a run.

    Raises:
        ConfigError: file, field, what was given and what is expected.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    run = _build(Run, table, path.name, path.parent.resolve())
    _check(run, path.name)
    return run
