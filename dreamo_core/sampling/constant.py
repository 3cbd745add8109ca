"""The part of a model call in which keys and values of references are constants of the pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..pictures.cache import content_key
from ..reuse.constant import ConstantKeys, ConstantStore, MakeKeys
from ..reuse.policy import ReusePolicy
from ..reuse.store import Shelf
from ..run.run import Run
from ..sequence.tokens import ReferenceSequence
from .families.family import TIMESTEP_ZERO


@dataclass
class Constants:
    """What a run has of them on its device, and where it came from."""

    shelves: dict[str, Shelf] = field(default_factory=dict)
    names: dict[Hashable, list[str]] = field(default_factory=dict)
    made: int = 0
    found: int = 0

    def close(self) -> None:
        if self.shelves:
            logging.info(
                f"DreamO: keys and values of references were made {self.made} and found {self.found} time(s); they "
                f"took {sum(shelf.nbytes for shelf in self.shelves.values()) / 2**20:.0f} MiB."
            )
        for shelf in self.shelves.values():
            shelf.close()


@dataclass(frozen=True)
class ReferencePass:
    """Runs the model on references alone, at t = 0, with a token of picture and of text that nobody looks at.

    Attributes:
        executor, x, t, text, options, arguments: the model call's own.
        sequence: the call's, for positions, embeddings and kept tokens.
        latents: the references as the host is to see them, (b, c, h, w) each.
        method: how the host places them.
        patch: side of a token in latent pixels.
    """

    executor: Callable[..., torch.Tensor]
    x: torch.Tensor
    t: torch.Tensor
    text: torch.Tensor
    options: dict[str, Any]
    arguments: dict[str, Any]
    sequence: ReferenceSequence
    latents: Sequence[torch.Tensor]
    method: str
    patch: int

    def name(self, sample: int, model: str) -> str:
        """Everything that the keys and values of a sample depend on, as one name."""
        guidance = self.arguments.get("guidance")
        guidance = None if guidance is None else float(guidance.flatten()[sample % guidance.numel()])
        embeddings = self.sequence.embeddings
        name = content_key(embeddings.task, embeddings.index) if embeddings is not None else "plain"
        for latent in self.latents:
            name = content_key(latent[sample], None, name)
        places = [(r.setting.index, r.grid, r.offset, r.index, r.kept) for r in self.sequence.entering]
        settings = (name, places, self._method, self.options.get("rope_options"), guidance, str(self.x.dtype), model)
        return content_key(torch.empty(0), None, *settings)

    @property
    def _method(self) -> str:
        # The whole pass is at t = 0, so the host need not treat references apart.
        return "index" if self.method == TIMESTEP_ZERO else self.method

    def make(self, sample: int, shelf: Shelf) -> MakeKeys:
        """Fill a shelf for one sample; the hook that did it knows which blocks took part."""
        hook = MakeKeys(shelf)
        sequence = replace(self.sequence, image_tokens=1, hooks=[hook], in_sequence=True, watch=None)
        # Patches of others are for the picture and its text.
        wrappers = {
            kind: by_key for kind, by_key in self.options.get("wrappers", {}).items() if kind != "diffusion_model"
        }
        options = {k: v for k, v in self.options.items() if k not in ("patches", "patches_replace")}
        options |= {
            "wrappers": wrappers,
            "patches": {"post_input": [sequence.post_input]},
            "optimized_attention_override": sequence.attention_override,
        }
        arguments = {"ref_latents": [latent[sample : sample + 1] for latent in self.latents]}
        arguments["ref_latents_method"] = self._method
        if self.arguments.get("guidance") is not None:
            arguments["guidance"] = self.arguments["guidance"].flatten()[sample % self.arguments["guidance"].numel()][
                None
            ]
        x = torch.zeros_like(self.x[:1, :, : self.patch, : self.patch])
        text = torch.zeros_like(self.text[:1, :1])
        self.executor(x, torch.zeros_like(self.t[:1]), None, text, None, options, **arguments)
        return hook


def constant_keys(
    references: ReferencePass,
    policy: ReusePolicy,
    store: ConstantStore | None,
    run: Run,
    blocks: int,
    model: Callable[[], str],
    call: Hashable,
) -> ConstantKeys | None:
    """The call's references as constants, from this run, from the store, or made now; None if the model lets none be
    made (another node answers for its blocks).

    Args:
        store: kept between runs; None for this run only.
        run: the call's.
        blocks: of the model.
        model: names its weights.
        call: what else the names depend on within a run; None where nobody can tell, then they are made each time.
    """
    constants = run.part("constants", Constants)
    names = constants.names.get(call) if call is not None else None
    if names is None:
        names = [references.name(sample, model()) for sample in range(references.x.shape[0])]
        if call is not None:
            constants.names[call] = names
    for sample, name in enumerate(names):
        if name in constants.shelves:
            continue
        shelf = Shelf(policy.store == "fp8", policy.low_memory)
        kept = store.get(name) if store is not None else None
        if kept is not None and len(kept) == blocks:
            shelf.fill(kept, references.x.device)
            constants.found += 1
        else:
            if len(references.make(sample, shelf).written) != blocks:
                return None
            constants.made += 1
            if store is not None:
                store.put(name, shelf.copies())
        constants.shelves[name] = shelf
    return ConstantKeys([constants.shelves[name] for name in names], [r.tokens for r in references.sequence.references])
