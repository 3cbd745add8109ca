"""The token sequence of one model call: where each reference's tokens are, and what is added to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .attention import key_columns, low_rank_attention
from .conditioning import ReferenceSetting
from .embeddings import Embeddings
from .participants import Block, Layout, Participant
from .positions import Grid, reference_ids


@dataclass(frozen=True)
class PlacedReference:
    """A reference that takes part in this call, and where on the diagonal it sits."""

    setting: ReferenceSetting
    grid: Grid
    offset: Grid

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass
class ReferenceSequence:
    """One call of the model: `[text, image, reference, reference…]`; lives as long as that call.

    The host appends the reference tokens to the image tokens itself. `post_input` then corrects and completes
    them, and `attention_override` lets the participants act. The text length is never assumed: others may
    prepend text.

    Attributes:
        image_tokens: number of tokens of the noisy image.
        references: the active references, in order.
        embeddings: task and index tables, or None for plain references.
        participants: who takes part in the joint attention.
        previous_override: someone else's `optimized_attention_override`, called in place of attention.
        choose_attention: maps the host's attention function to one that takes widened heads.
    """

    image_tokens: int
    references: Sequence[PlacedReference]
    embeddings: Embeddings | None
    participants: Sequence[Participant] = ()
    previous_override: Callable[..., torch.Tensor] | None = None
    choose_attention: Callable[[Callable], Callable] = lambda attention: attention
    _image_length: int = field(default=0, init=False)

    def needs_attention(self) -> bool:
        return any(participant.needed() for participant in self.participants)

    def spans(self) -> list[tuple[int, int]]:
        """First and one-past-last token of each reference, counted from the first image token."""
        spans, start = [], self.image_tokens
        for reference in self.references:
            spans.append((start, start + reference.tokens))
            start += reference.tokens
        return spans

    def post_input(self, args: dict[str, Any]) -> dict[str, Any]:
        """A `post_input` patch: add the condition embeddings and set the diagonal positions.

        Args:
            args: the host's dict with `img` (b, l, c), `img_ids` (b, l, axes), `txt` and `txt_ids`.
        """
        img, img_ids = args["img"], args["img_ids"]
        end = self.spans()[-1][1]
        if img.shape[1] < end:
            raise ValueError(
                f"The model has {img.shape[1]} image tokens where DreamO needs {end} (image and references); "
                "another node has removed some."
            )
        self._image_length = img.shape[1]
        out = dict(args)
        if self.embeddings is not None:
            lengths = [(r.setting.index, r.tokens) for r in self.references]
            # The noise row says "there are references"; it must fade with the strongest of them, or strength
            # would jump at 0.
            noise_scale = min(1.0, max(r.setting.strength for r in self.references))
            rows = self.embeddings.rows_for(self.image_tokens, lengths, img, noise_scale)
            # A new tensor: the caller may still hold the one it passed.
            out["img"] = torch.cat((img[:, :end] + rows, img[:, end:]), dim=1) if end < img.shape[1] else img + rows
        if img_ids is not None:
            ids = [reference_ids(r.grid, r.offset, img_ids.shape[-1], img_ids.device) for r in self.references]
            out["img_ids"] = img_ids.clone()
            out["img_ids"][:, self.image_tokens : end] = torch.cat(ids).to(img_ids)
        return out

    def attention_override(self, attention: Callable[..., torch.Tensor], q, k, v, heads, *args, **kwargs):
        """An `optimized_attention_override`: the joint attention, with everything the participants add to it."""

        def call(q, k, v):
            if self.previous_override is not None:
                return self.previous_override(attention, q, k, v, heads, *args, **kwargs)
            return attention(q, k, v, heads, *args, **kwargs)

        text = q.shape[2] - self._image_length
        options = kwargs.get("transformer_options") or {}
        if not kwargs.get("skip_reshape") or text < 0 or "block_type" not in options:
            # Not the transformer's own joint attention.
            return call(q, k, v)
        block = Block(options["block_type"], options["block_index"])
        layout = Layout(text, self.image_tokens, tuple((start + text, end + text) for start, end in self.spans()))
        participants = [p for p in self.participants if p.needed()]
        for participant in participants:
            layout, k, v = participant.keys(block, layout, q, k, v)
        biases = [p.query_bias(block, layout, q, k) for p in participants]
        biases = [bias for bias in biases if bias is not None]
        if not biases:
            return call(q, k, v)
        attention = self.choose_attention(attention)
        return low_rank_attention(call, q, k, v, sum(biases), key_columns(k.shape[2], layout.references, k))
