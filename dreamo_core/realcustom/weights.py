"""Released RealCustom files: which keys belong to what, and the keys and values that they add to cross-attention."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint.describe import as_table
from ..checkpoint.lora.collect import listing
from ..checkpoint.safetensors import open_safetensors
from .projector import Projector

PROJECTOR_PREFIX = "encoder_hidden_states_vision_projection."
_PROJECTOR_KEY = re.compile(
    r"(min_attention2?\.(norm[12]\.(weight|bias)|to_[qkv]\.weight)|projector2?\.[0245]\.(weight|bias)"
    r"|projector_base\.(weight|bias))"
)
_VISION_KEY = re.compile(r"(.*attn2)\.(?:processor\.)?to_([kv])_vision\.weight")


@dataclass(frozen=True, eq=False)
class RealCustomFile:
    """A RealCustom file.

    Attributes:
        name: of the file.
        projector: `Projector`'s parameters.
        vision: to_k and to_v weights (c, d) by the path of their cross-attention, in diffusers' or the host's names.
        unused: keys that are neither, in the file's order.
    """

    name: str
    projector: dict[str, torch.Tensor]
    vision: dict[str, tuple[torch.Tensor, torch.Tensor]]
    unused: tuple[str, ...]

    @property
    def shallow(self) -> bool:
        return any(key.startswith("min_attention2.") for key in self.projector)

    @property
    def width(self) -> int:
        """Of the encoders' features."""
        return self.projector["projector_base.weight"].shape[1]

    @property
    def out(self) -> int:
        """Of the tokens."""
        return self.projector["projector_base.weight"].shape[0]


def is_realcustom(keys: Sequence[str]) -> bool:
    """Whether a file with these keys is a RealCustom file."""
    return any(PROJECTOR_PREFIX in key or _VISION_KEY.fullmatch(key) for key in keys)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors: safetensors, or a `.pth` through the weights-only reader, which runs no code.

    Raises:
        ValueError: unreadable, or it holds more than tensors.
    """
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return {key: file.tensor(key) for key in file.infos}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # Of any kind: torch's reader raises whatever the bytes of the file lead it to.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path.name} cannot be read as weights alone ({reason}). Take the released file, or the same tensors as "
            ".safetensors."
        ) from error
    for wrapper in ("state_dict", "module", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{path.name} is not a table of tensors by name, so it is no RealCustom file.")
    return dict(state)


def sort_keys(state: Mapping[str, torch.Tensor], name: str) -> RealCustomFile:
    """Every key of a file to its place.

    Raises:
        ValueError: projector or keys and values are missing, or of shapes that do not fit each other.
    """
    projector: dict[str, torch.Tensor] = {}
    vision: dict[str, dict[str, torch.Tensor]] = {}
    unused = []
    for key, tensor in state.items():
        before, prefix, rest = key.partition(PROJECTOR_PREFIX)
        match = _VISION_KEY.fullmatch(key)
        if prefix and before in ("", "module.") and _PROJECTOR_KEY.fullmatch(rest):
            projector[rest] = tensor
        elif match:
            vision.setdefault(match[1].removeprefix("module."), {})[match[2]] = tensor
        else:
            unused.append(key)
    halves = [path for path, pair in vision.items() if len(pair) != 2]
    if halves:
        raise ValueError(f"{name} has only one of to_k_vision and to_v_vision at {listing(halves)}; download it again.")
    if not vision or "projector_base.weight" not in projector:
        what = "projector" if vision else "to_k_vision and to_v_vision weights"
        raise ValueError(
            f"{name} has no {what}, so it is no RealCustom file; choose RealCustom_highres.pth or its shallow variant."
        )
    file = RealCustomFile(name, projector, {path: (p["k"], p["v"]) for path, p in vision.items()}, tuple(unused))
    with torch.device("meta"):
        expected = Projector(file.width, file.out, file.shallow).state_dict()
    wrong = [key for key in expected if key not in projector or projector[key].shape != expected[key].shape]
    if wrong:
        raise ValueError(f"{name}: {listing(wrong)} of the projector are missing or misshapen; download it again.")
    misfit = [path for path, (k, v) in file.vision.items() if k.shape != v.shape or k.shape[1] != file.out]
    if misfit:
        raise ValueError(f"{name}: to_k_vision and to_v_vision at {listing(misfit)} do not fit the projector's tokens.")
    return file


def describe_rows(state: Mapping[str, torch.Tensor], name: str) -> list[tuple[str, str]]:
    """What a RealCustom file is, as rows of a table.

    Raises:
        ValueError: as `sort_keys`.
    """
    file = sort_keys(state, name)
    counts = Counter(tuple(k.shape) for k, _ in file.vision.values())
    shapes = ", ".join(f"{c} × {d} ({count})" for (c, d), count in sorted(counts.items()))
    parameters = sum(k.numel() + v.numel() for k, v in file.vision.values())
    return [
        ("RealCustom", "shallow variant" if file.shallow else "high-resolution variant"),
        ("projector", f"{len(file.projector)} tensors, {file.width} to {file.out}"),
        ("to_k, to_v", f"{len(file.vision)} cross-attentions, {parameters / 1e6:,.1f} M parameters: {shapes}"),
        ("not used", f"{len(file.unused)} keys" + (": " + listing(file.unused) if file.unused else "")),
    ]


def describe_file(path: Path) -> str | None:
    """A table of what a RealCustom file is, or None if it is another kind of file.

    Raises:
        ValueError: unreadable, or a RealCustom file that lacks something.
    """
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            if not is_realcustom(list(file.infos)):
                return None
    elif path.suffix not in (".pth", ".pt"):
        return None
    state = read_state(path)
    size = ("size", f"{path.stat().st_size / 2**20:,.1f} MiB, {len(state)} tensors")
    return as_table([("file", str(path)), size, *describe_rows(state, path.name)])


class _Pair(nn.Module):
    def __init__(self, k: torch.Tensor, operations: Any, **place: Any):
        super().__init__()
        out, width = k.shape
        self.to_k = operations.Linear(width, out, bias=False, **place)
        self.to_v = operations.Linear(width, out, bias=False, **place)


class VisionAttention(nn.Module):
    """The keys and values that pictures add to each cross-attention of a model.

    Args:
        vision: to_k and to_v weights (c, d) by the name of their cross-attention.
    """

    def __init__(
        self,
        vision: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        operations: Any = nn,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.names = {name: at for at, name in enumerate(vision)}
        self.pairs = nn.ModuleList(_Pair(k, operations, **place) for k, _ in vision.values())
        for pair, (k, v) in zip(self.pairs, vision.values(), strict=True):
            pair.to_k.weight = nn.Parameter(k.to(**place), requires_grad=False)
            pair.to_v.weight = nn.Parameter(v.to(**place), requires_grad=False)

    def keys_values(self, name: str, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V (b, m, c) of tokens (b, m, d) for one cross-attention."""
        pair = self.pairs[self.names[name]]
        return pair.to_k(tokens), pair.to_v(tokens)
