"""The token sequence of one model call: where each reference's tokens are, and what is added to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..attention.bias import chosen_form, dense_attention, key_columns, low_rank_attention, widened_mask
from ..attention.hook import AttentionHook
from ..attention.layout import Block, Layout
from ..run.memo import Memo
from .embeddings import Embeddings
from .placed import PlacedReference
from .positions import grid_ids


@dataclass
class ReferenceSequence:
    """One call of the model: `[text, image, reference, reference…]`; lives as long as that call.

    The host appends the reference tokens to the image tokens itself. `post_input` then corrects and completes
    them, drops tokens that are not kept, and `attention_override` lets the hooks act. The text length is
    never assumed: others may prepend text.

    Attributes:
        image_tokens: number of tokens of the noisy image.
        entering: all references that the host makes tokens of, in order; those of which none are kept only keep the
            places of the others.
        embeddings: task and index tables, or None for plain references.
        hooks: who takes part in the joint attention.
        previous_override: someone else's `optimized_attention_override`, called in place of attention.
        choose_attention: maps the host's attention function and the form of the bias to a function that takes it.
        in_sequence: whether the host was given the references. If not, keys and values of an earlier step stand in
            for them, and only the noise task row is added.
        memo: where what does not change between steps is kept.
        watch: called with the reference tokens (b, l, c) as they enter the first block.
        form: of the bias, one of `attention.FORMS`.
        announce: told the form that is used, at every use.
        noise_row: whether the noise task row is added whole, whatever the references' strengths.
    """

    image_tokens: int
    entering: Sequence[PlacedReference]
    embeddings: Embeddings | None
    hooks: Sequence[AttentionHook] = ()
    previous_override: Callable[..., torch.Tensor] | None = None
    choose_attention: Callable[[Callable, str], Callable] = lambda attention, form: attention
    in_sequence: bool = True
    memo: Memo = field(default_factory=Memo)
    watch: Callable[[torch.Tensor], None] | None = None
    form: str = "auto"
    announce: Callable[[str], None] = lambda form: None
    noise_row: bool = False
    entered: bool = field(default=False, init=False)
    _image_length: int = field(default=0, init=False)

    @property
    def references(self) -> tuple[PlacedReference, ...]:
        """The active references, in order."""
        return tuple(reference for reference in self.entering if reference.tokens)

    def needs_attention(self) -> bool:
        return any(hook.needed() for hook in self.hooks)

    def needs_entering(self) -> bool:
        """Whether anything is missing from the call if the model never asks `post_input` (`entered` says if it did).

        Plain references at strength 1 need nothing: the host has put them where they belong.
        """
        pruned = any(r.kept is not None for r in self.entering)
        return self.embeddings is not None or pruned or self.watch is not None or self.needs_attention()

    def spans(self) -> list[tuple[int, int]]:
        """First and one-past-last token of each reference in the sequence, counted from the first image token."""
        spans, start = [], self.image_tokens
        for reference in self.references if self.in_sequence else ():
            spans.append((start, start + reference.tokens))
            start += reference.tokens
        return spans

    @torch.compiler.disable
    def post_input(self, args: dict[str, Any]) -> dict[str, Any]:
        """A `post_input` patch: drop tokens, add the condition embeddings and set positions on the diagonal.

        Args:
            args: the host's dict with `img` (b, l, c), `img_ids` (b, l, axes), `txt` and `txt_ids`.
        """
        self.entered = True
        img, img_ids = args["img"], args["img_ids"]
        present = tuple(self.entering) if self.in_sequence else ()
        first, whole = self.image_tokens, self.image_tokens + sum(r.whole for r in present)
        if img.shape[1] < whole:
            raise ValueError(
                f"The model has {img.shape[1]} image tokens where DreamO needs {whole} (image and references): "
                "another node has removed some. If it is Flux KV Cache, bypass it and take DreamO Speed, which keeps "
                "keys and values of these references."
            )
        out = dict(args)
        index = None
        if any(r.kept is not None for r in present):
            key = ("kept", present, img.shape[1], img.device)
            index = self.memo.get(key, lambda: self._kept_index(img.shape[1], img.device))
            img = img.index_select(1, index)
            self._correct_host_count(args, present)
        end = first + sum(r.tokens for r in present)
        if self.embeddings is not None:
            rows = self._embedding_rows(present, img)
            # A new tensor: the caller may still hold the one it passed.
            img = torch.cat((img[:, :end] + rows, img[:, end:]), dim=1) if end < img.shape[1] else img + rows
        if img_ids is not None and present:
            out["img_ids"] = self._positions(present, img_ids, whole, index)
        if self.watch is not None and present:
            self.watch(img[:, first:end])
        out["img"] = img
        self._image_length = img.shape[1]
        return out

    def _positions(
        self, present: tuple[PlacedReference, ...], img_ids: torch.Tensor, whole: int, index: torch.Tensor | None
    ) -> torch.Tensor:
        """Position ids of what stays: (b, l, axes); on the diagonal, or as the host made them.

        Args:
            whole: number of the host's tokens of image and references.
            index: those of its tokens that stay, None for all.
        """
        if present[0].offset is None:
            return img_ids if index is None else img_ids.index_select(1, index)
        key = ("ids", present, img_ids.shape[-1], img_ids.device, img_ids.dtype)
        ids = self.memo.get(key, lambda: torch.cat([self._ids(r, img_ids) for r in present]))
        ids = ids.expand(img_ids.shape[0], -1, -1)
        return torch.cat((img_ids[:, : self.image_tokens], ids, img_ids[:, whole:]), dim=1)

    def _kept_index(self, length: int, device: torch.device) -> torch.Tensor:
        """Which of the host's image tokens stay: the image, the kept of each reference, whatever follows them."""
        parts, start = [torch.arange(self.image_tokens)], self.image_tokens
        for reference in self.entering:
            kept = range(reference.whole) if reference.kept is None else reference.kept
            parts.append(torch.tensor(kept, dtype=torch.int64) + start)
            start += reference.whole
        return torch.cat((*parts, torch.arange(start, length))).to(device)

    @staticmethod
    def _correct_host_count(args: dict[str, Any], present: Sequence[PlacedReference]) -> None:
        """Newer hosts tell attention patches how many tokens each reference has; others' come after ours."""
        options = args.get("transformer_options") or {}
        counts = options.get("reference_image_num_tokens")
        if counts:
            options["reference_image_num_tokens"] = [r.tokens for r in present] + list(counts[len(present) :])

    def _embedding_rows(self, present: tuple[PlacedReference, ...], img: torch.Tensor) -> torch.Tensor:
        """What is added to image and reference tokens: (l, c)."""
        lengths = tuple((r.setting.index, r.tokens) for r in present)
        # The noise row says "there are references"; it must fade with the strongest of them, or strength
        # would jump at 0.
        noise_scale = 1.0 if self.noise_row else min(1.0, max(r.setting.strength for r in self.references))
        key = ("rows", self.embeddings, self.image_tokens, lengths, noise_scale, img.dtype, img.device)
        return self.memo.get(key, lambda: self.embeddings.rows_for(self.image_tokens, lengths, img, noise_scale))

    @staticmethod
    def _ids(reference: PlacedReference, like: torch.Tensor) -> torch.Tensor:
        ids = grid_ids(reference.grid, reference.offset, like.shape[-1], like.device, reference.index).to(like)
        return ids if reference.kept is None else ids[list(reference.kept)]

    @torch.compiler.disable
    def attention_override(self, attention: Callable[..., torch.Tensor], q, k, v, heads, *args, **kwargs):
        """An `optimized_attention_override`: the joint attention, with everything the hooks add to it."""

        mask = kwargs.get("mask")

        def call(q, k, v, mask=mask):
            more = kwargs if mask is None else {**kwargs, "mask": mask}
            if self.previous_override is not None:
                return self.previous_override(attention, q, k, v, heads, *args, **more)
            return attention(q, k, v, heads, *args, **more)

        text = q.shape[2] - self._image_length
        options = kwargs.get("transformer_options") or {}
        if not self.entered or not kwargs.get("skip_reshape") or text < 0 or "block_type" not in options:
            # Not the transformer's own joint attention.
            return call(q, k, v)
        block = Block(options["block_type"], options["block_index"])
        layout = Layout(text, self.image_tokens, tuple((start + text, end + text) for start, end in self.spans()))
        hooks = [p for p in self.hooks if p.needed()]
        for hook in hooks:
            layout, k, v = hook.keys(block, layout, q, k, v)
        for hook in hooks:
            answer = hook.attend(call, block, layout, q, k, v)
            if answer is not None:
                return answer
        if mask is not None:
            mask = widened_mask(mask, q.shape[2], k.shape[2])
        biases = [p.query_bias(block, layout, q, k) for p in hooks]
        biases = [bias for bias in biases if bias is not None]
        if not biases:
            return call(q, k, v, mask)
        bias = sum(biases)
        key = ("columns", k.shape[2], layout.references, k.dtype, k.device)
        columns = self.memo.get(key, lambda: key_columns(k.shape[2], layout.references, k))
        form = chosen_form(self.form, q.shape[-1], bias.shape[-1])
        self.announce(form)
        attention = self.choose_attention(attention, form)
        if form == "dense":
            return dense_attention(call, q, k, v, bias, columns, mask)
        return low_rank_attention(functools.partial(call, mask=mask), q, k, v, bias, columns)
