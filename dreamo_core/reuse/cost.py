"""What references cost, on paper: multiply-adds of a step, and bytes of kept keys and values.

Of a transformer block per token, with hidden size h and an MLP of r·h: 4h² for queries, keys, values and output, and
2r·h² for the MLP, the same in double and single blocks. Attention takes 2h multiply-adds for each pair of a query and
a key. A gated MLP has 3r·h². Norms, embeddings and the first and last layer are left out. `docs/cost.md` checks this
against measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from .policy import CONSTANT, ReusePolicy, refresh_is_due


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Flux transformer; the defaults are FLUX.1-dev's.

    Attributes:
        mlp_layers: square layers of the MLP, each r·h²: 2, or 3 where it is gated.
    """

    hidden: int = 3072
    heads: int = 24
    mlp_ratio: float = 4.0
    blocks: int = 57
    mlp_layers: int = 2


FLUX_DEV = ModelShape()


@dataclass(frozen=True)
class Tokens:
    """Lengths of a sequence: text, noisy image, and all references together."""

    text: int
    image: int
    references: int = 0


def step_macs(shape: ModelShape, queries: int, keys: int) -> float:
    """Multiply-adds of one forward pass with that many tokens, each attending to that many keys."""
    linear = queries * (4 + shape.mlp_layers * shape.mlp_ratio) * shape.hidden**2
    attention = 2 * queries * keys * shape.hidden
    return shape.blocks * (linear + attention)


def refresh_ratio(shape: ModelShape, tokens: Tokens) -> float:
    """Cost of a step that runs the references, in plain steps."""
    plain = tokens.text + tokens.image
    whole = plain + tokens.references
    return step_macs(shape, whole, whole) / step_macs(shape, plain, plain)


def reuse_ratio(shape: ModelShape, tokens: Tokens) -> float:
    """Cost of a step that attends to kept keys and values, in plain steps."""
    plain = tokens.text + tokens.image
    return step_macs(shape, plain, plain + tokens.references) / step_macs(shape, plain, plain)


def alone_ratio(shape: ModelShape, tokens: Tokens) -> float:
    """Cost of a pass that runs the references alone, in plain steps."""
    plain = tokens.text + tokens.image
    return step_macs(shape, tokens.references, tokens.references) / step_macs(shape, plain, plain)


def refreshes(settings: ReusePolicy, sigmas: list[float]) -> int:
    """How many steps of a schedule (n + 1 falling noise levels) run the references.

    "constant" runs them in none, but once by themselves (`alone_ratio`). "drift" cannot be known before the run; it
    counts as one refresh.
    """
    steps = sigmas[:-1]
    if not settings.reuses:
        return len(steps)
    if settings.refresh == CONSTANT:
        return 0
    count, last = 1, 0
    for step in range(1, len(steps)):
        if refresh_is_due(settings, step, steps[step], last, steps[last], 0.0):
            count, last = count + 1, step
    return count


def run_ratio(shape: ModelShape, tokens: Tokens, steps: int, refreshed: int) -> float:
    """Mean cost of a step of a run, in plain steps."""
    return (refreshed * refresh_ratio(shape, tokens) + (steps - refreshed) * reuse_ratio(shape, tokens)) / steps


def store_bytes(shape: ModelShape, references: int, element_size: int, fp8: bool = False, batch: int = 1) -> int:
    """Bytes of the kept keys and values of that many reference tokens.

    Args:
        element_size: bytes of a number as computed, 2 for bf16; fp8 takes 1, and 4 for each token's head.
    """
    a_vector = shape.hidden + 4 * shape.heads if fp8 else shape.hidden * element_size
    return 2 * batch * shape.blocks * references * a_vector


def describe(shape: ModelShape, tokens: Tokens, settings: ReusePolicy, sigmas: list[float], nbytes: int) -> str:
    """What a run will cost, in words.

    Args:
        tokens: of the sequence; references as they are after pruning.
        sigmas: noise levels of the run, one more than its steps.
        nbytes: of kept keys and values on the device.
    """
    steps, refreshed = len(sigmas) - 1, refreshes(settings, sigmas)
    plain, full = tokens.text + tokens.image, refresh_ratio(shape, tokens)
    lines = [
        f"{tokens.references} reference tokens beside {plain} of picture and text.",
        f"A step that runs them: {full:.2f} × a plain step.",
    ]
    if settings.reuses:
        mean = run_ratio(shape, tokens, steps, refreshed)
        at_least = "at least " if settings.refresh == "drift" else ""
        lines += [
            f"A step that reuses them: {reuse_ratio(shape, tokens):.2f} ×.",
        ]
        if settings.refresh == CONSTANT:
            lines.append(f"Once for these pictures: {alone_ratio(shape, tokens):.2f} × a plain step.")
        lines += [
            f"Mean of {steps} steps, {at_least}{refreshed} of them with the references: {at_least}{mean:.2f} ×.",
            f"Kept keys and values: {nbytes / 2**20:.0f} MiB on the device.",
        ]
    return "\n".join(lines)
