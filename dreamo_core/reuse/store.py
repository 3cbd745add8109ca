"""Keys and values kept between steps: packed, on the device or in the computer's memory, with a known size."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ..attention.layout import Block

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass
class Packed:
    """A tensor (…, d) as it is stored: its values, and for fp8 one scale for each of its vectors (…, 1)."""

    values: torch.Tensor
    scale: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> list[torch.Tensor]:
        return [self.values] if self.scale is None else [self.values, self.scale]


Pairs = dict[Block, tuple[Packed, Packed]]
"""Keys and values by block."""


def supports_fp8(device: torch.device) -> bool:
    """Whether a device converts to and from fp8; Apple's does not."""
    return device.type in ("cpu", "cuda", "xpu")


def pack(tensor: torch.Tensor, fp8: bool) -> Packed:
    """A tensor of its own that holds `tensor` (…, d), in fp8 with one scale a vector if asked for."""
    if not fp8:
        return Packed(tensor.clone(memory_format=torch.contiguous_format))
    scale = tensor.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return Packed((tensor.float() / scale).to(FP8), scale)


def unpack(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
    """The stored tensor again, to fp8's precision if it was packed so."""
    if packed.scale is None:
        return packed.values.to(dtype)
    return (packed.values.float() * packed.scale).to(dtype)


class Mover:
    """Moves packed tensors between a device and the computer's memory, beside the computation where that is possible.

    On CUDA all copies go through one side stream and pinned memory: a copy away waits for what makes the tensor, and
    a copy back is waited for where it is used. Elsewhere they are plain copies.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        """Room for a tensor in the computer's memory; pinned where a side stream copies and the system allows it."""
        if self._stream is not None:
            try:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError as error:
                # The system limits how much may be pinned; copies then wait, and are as right.
                logging.warning(f"DreamO: no pinned memory for kept keys and values ({error}); copies will be slower.")
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    def _away(self, tensor: torch.Tensor, buffer: torch.Tensor | None) -> torch.Tensor:
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._buffer(tensor)
        if self._stream is None:
            return buffer.copy_(tensor)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(tensor, non_blocking=True)
        # The allocator must not hand this memory out before the copy has read it.
        tensor.record_stream(self._stream)
        return buffer

    def away(self, packed: Packed, into: Packed | None) -> Packed:
        """Copy to the computer's memory, into the buffers of `into` where they fit."""
        scale = None if packed.scale is None else self._away(packed.scale, into.scale if into else None)
        return Packed(self._away(packed.values, into.values if into else None), scale)

    def start_back(self, pair: tuple[Packed, Packed]) -> tuple[tuple[Packed, Packed], torch.cuda.Event | None]:
        """Begin to copy keys and values back to the device; `finish_back` waits for it."""
        if self._stream is None:
            return tuple(Packed(*(t.to(self.device, copy=True) for t in packed.tensors())) for packed in pair), None
        with torch.cuda.stream(self._stream):
            moved = tuple(Packed(*(t.to(self.device, non_blocking=True) for t in packed.tensors())) for packed in pair)
            event = torch.cuda.Event()
            event.record(self._stream)
        return moved, event

    def finish_back(self, moved: tuple[Packed, Packed], event: torch.cuda.Event | None) -> tuple[Packed, Packed]:
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for packed in moved:
                for tensor in packed.tensors():
                    tensor.record_stream(current)
        return moved

    def close(self) -> None:
        """Wait for copies under way: their pinned buffers are about to be freed."""
        if self._stream is not None:
            self._stream.synchronize()


class Shelf:
    """The keys and values of all references of one conditioning, block by block.

    Args:
        fp8: whether they are stored in fp8.
        low_memory: whether they are stored in the computer's memory. At reading, the pair of the next block is
            already on its way while this block computes.
    """

    def __init__(self, fp8: bool, low_memory: bool):
        self.fp8, self.low_memory = fp8, low_memory
        self._pairs: Pairs = {}
        self._ahead: dict[Block, tuple[tuple[Packed, Packed], torch.cuda.Event | None]] = {}
        self._mover: Mover | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, block: Block) -> bool:
        return block in self._pairs

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for pair in self._pairs.values() for packed in pair)

    def tensors(self) -> list[torch.Tensor]:
        """Everything that is stored, for whoever wants to watch it go."""
        return [tensor for pair in self._pairs.values() for packed in pair for tensor in packed.tensors()]

    def write(self, block: Block, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep k, v: (b, heads, references, d) of that block in place of what was kept."""
        fp8 = self.fp8 and supports_fp8(k.device)
        self._ahead.clear()
        old = self._pairs.pop(block, None)
        if not self.low_memory:
            # The old pair goes first, so that there are never two of one block.
            del old
            self._pairs[block] = pack(k, fp8), pack(v, fp8)
            return
        if self._mover is None or self._mover.device != k.device:
            self._mover = Mover(k.device)
        into = old or (None, None)
        self._pairs[block] = tuple(
            self._mover.away(pack(t, fp8), buffer) for t, buffer in zip((k, v), into, strict=True)
        )

    def read(self, block: Block, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `write` kept for that block, in the dtype and on the device of `like`; KeyError if nothing."""
        if self._mover is None:
            pair = self._pairs[block]
        else:
            moved = self._ahead.pop(block, None) or self._mover.start_back(self._pairs[block])
            order = list(self._pairs)
            following = order[(order.index(block) + 1) % len(order)]
            if following not in self._ahead:
                self._ahead = {following: self._mover.start_back(self._pairs[following])}
            pair = self._mover.finish_back(*moved)
        k, v = (unpack(packed, like.dtype).to(like.device) for packed in pair)
        return k, v

    def copies(self) -> Pairs:
        """Everything that is stored, copied to the computer's memory."""
        if self._mover is not None:
            self._mover.close()
        copy = lambda packed: Packed(*(t.to("cpu", copy=True) for t in packed.tensors()))  # noqa: E731
        return {block: (copy(k), copy(v)) for block, (k, v) in self._pairs.items()}

    def fill(self, pairs: Pairs, device: torch.device) -> None:
        """Keep what `copies` gave, for a model on that device."""
        if self.low_memory:
            self._mover = Mover(device)
            self._pairs = {block: tuple(self._mover.away(p, None) for p in pair) for block, pair in pairs.items()}
        else:
            there = lambda packed: Packed(*(t.to(device, copy=True) for t in packed.tensors()))  # noqa: E731
            self._pairs = {block: (there(k), there(v)) for block, (k, v) in pairs.items()}

    def close(self) -> None:
        if self._mover is not None:
            self._mover.close()
        self._ahead.clear()
        self._pairs.clear()
