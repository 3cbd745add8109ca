"""The ten placeholders as tokens of T5's tokenizer, cut as the released DreamO had them cut."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from .placeholders import PLACEHOLDERS
from .words import SPACE


def _cut_as_released(backend: Any) -> None:
    """Give a `tokenizers.Tokenizer` the two steps in front of T5's vocabulary that its published file names.

    transformers 4 runs that file as it is. transformers 5 makes steps of its own, which cut plain text the same way
    but treat what stands around an added token as the begin and end of a text: the "▁" between "from" and
    "[ref#1]" is lost, and "'s" behind one gains it.
    """
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        return
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), SPACE)]
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*own, *steps])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first")


def add_placeholders(tokenizer: Any) -> dict[str, int]:
    """Teach a fast T5 tokenizer of transformers the placeholders; their ids by name.

    The ids of a prompt are then those of the released pipeline (transformers 4) with every version of transformers.
    The tokenizer itself is changed: give a copy where others use it.
    """
    _cut_as_released(tokenizer.backend_tokenizer)
    tokenizer.add_tokens(list(PLACEHOLDERS), special_tokens=False)
    return dict(zip(PLACEHOLDERS, tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS)), strict=True))
