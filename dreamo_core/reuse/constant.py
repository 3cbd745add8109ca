"""Keys and values of references as constants of the pictures: made once, then found by content.

The rule is that of FLUX.2-klein-9b-kv: tokens of references attend to tokens of references only, and are modulated as
at t = 0. Then nothing of the prompt, the noise or the step enters them, and what one run made serves every other.
Kept in the computer's memory and on disk, both bounded; the least recently used go first.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..attention.hook import AttentionHook
from ..attention.layout import Block
from ..files import drop_oldest, save_whole
from .cache import beside_kept
from .store import Packed, Pairs, Shelf

SUFFIX = ".safetensors"


class MakeKeys(AttentionHook):
    """In the pass that makes keys and values: references attend to references alone, everything else to nothing."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self.written: set[Block] = set()

    def attend(self, call, block, layout, q, k, v):
        first, last = layout.references[0][0], layout.references[-1][1]
        q_own, k_own, v_own = (t[:, :, first:last] for t in (q, k, v))
        self.shelf.write(block, k_own, v_own)
        self.written.add(block)
        return torch.nn.functional.pad(call(q_own, k_own, v_own), (0, 0, first, q.shape[2] - last))


class ConstantKeys(AttentionHook):
    """In a call without reference tokens: what was made stands in for them.

    Args:
        shelves: one for each sample of the batch, each with one sample; the same may stand there several times.
        references: number of keys of each active reference.
    """

    def __init__(self, shelves: Sequence[Shelf], references: Sequence[int]):
        self.shelves, self.references = tuple(shelves), tuple(references)

    def keys(self, block, layout, q, k, v):
        pairs = {shelf: shelf.read(block, k) for shelf in dict.fromkeys(self.shelves)}
        if len(pairs) == 1:
            old_k, old_v = (t.expand(k.shape[0], -1, -1, -1) for t in pairs[self.shelves[0]])
        else:
            old_k, old_v = (torch.cat(parts) for parts in zip(*(pairs[s] for s in self.shelves), strict=True))
        return beside_kept(layout, k, v, old_k, old_v, self.references)


class ConstantStore:
    """Keys and values by content, in the computer's memory and in a folder.

    Args:
        folder: for files; None for memory only.
        limit_bytes: of the memory, and of the folder; one set that is larger is kept in neither.
    """

    def __init__(self, folder: Path | None, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._held: OrderedDict[str, Pairs] = OrderedDict()

    def __deepcopy__(self, memo: dict) -> ConstantStore:
        # The host copies a model's options with every clone; all of them share what is kept.
        return self

    @property
    def nbytes(self) -> int:
        return sum(size_of(pairs) for pairs in self._held.values())

    def get(self, key: str) -> Pairs | None:
        """What was kept under that name, or None. A damaged file is as none, and a line in the log."""
        pairs = self._held.get(key)
        if pairs is None and self.folder is not None:
            pairs = _read(self.folder / (key + SUFFIX))
            if pairs is not None:
                self._hold(key, pairs)
        if pairs is not None and key in self._held:
            self._held.move_to_end(key)
        return pairs

    def put(self, key: str, pairs: Pairs) -> None:
        """Keep keys and values, all in the computer's memory, under that name."""
        if size_of(pairs) > self.limit_bytes:
            return
        self._hold(key, pairs)
        if self.folder is not None:
            try:
                _write(self.folder / (key + SUFFIX), pairs)
                drop_oldest(self.folder, SUFFIX, self.limit_bytes)
            except OSError as error:
                logging.warning(f"DreamO: keys and values of references could not be written to disk ({error}).")

    def _hold(self, key: str, pairs: Pairs) -> None:
        self._held[key] = pairs
        while self.nbytes > self.limit_bytes:
            self._held.popitem(last=False)


def size_of(pairs: Pairs) -> int:
    return sum(packed.nbytes for pair in pairs.values() for packed in pair)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().data, total)
    return str(total)


def _write(path: Path, pairs: Pairs) -> None:
    tensors = {}
    for block, pair in pairs.items():
        for what, packed in zip(("k", "v"), pair, strict=True):
            for part, tensor in zip(("values", "scale"), packed.tensors(), strict=False):
                tensors[f"{block.kind}.{block.index}.{what}.{part}"] = tensor
    save_whole(tensors, path, {"checksum": _checksum(tensors)})


def _read(path: Path) -> Pairs | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = (file.metadata() or {}).get("checksum")
        if said != _checksum(tensors):
            raise ValueError("its contents are not what was written")
        pairs = {}
        for name in tensors:
            kind, index, _, _ = name.split(".")
            packed = lambda what, at=f"{kind}.{index}.": Packed(  # noqa: E731
                tensors[f"{at}{what}.values"], tensors.get(f"{at}{what}.scale")
            )
            pairs.setdefault(Block(kind, int(index)), (packed("k"), packed("v")))
        os.utime(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        logging.warning(f"DreamO: {path.name} with keys and values of references is ignored and made anew ({error}).")
        return None
    return pairs
