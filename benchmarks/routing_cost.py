"""What routing costs: ratios of times measured in turn, in one run.

    python3 scripts/host.py exec benchmarks/routing_cost.py [--rounds N] [--whole]

On the CPU: one double and one single block of FLUX.1's true width (3072) in fp32, on 1024 image, 3 × 256 reference and
256 text tokens, as the host runs them. What routing adds is a few parts in a hundred, which a busy machine hides; so
the step, the attention in each form, and the reading of maps are timed by themselves, on one thread in CPU seconds
(time given to others does not count), and compared. `--whole` times whole steps with and without routing instead.

With CUDA also the whole 19 + 38 blocks in bf16 at 1024² with three 512² references, whole steps in wall time.

All weights are random. Every variant runs once in every round, in an order that turns from round to round; the medians
over the rounds are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from boot import boot

TRUE_SIZE = {
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "axes_dim": [16, 56, 56],
}


def medians(variants: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each variant by that clock, measured in turn; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for n in range(rounds + 1):
        turn = n % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            variants[name]()
            if n:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def model_variants(device: torch.device, dtype: torch.dtype, depths: tuple[int, int], latent: int, reference: int):
    """Model calls of one step with three references: plain, reading maps, biased in both forms, and all of it."""
    from dreamo_routed.dreamo_core.host.flux import attention_for_bias
    from dreamo_routed.dreamo_core.routing.regions import RoutingConditioning, make_region
    from dreamo_routed.dreamo_core.routing.router import make_router
    from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
    from dreamo_routed.dreamo_core.run.keys import ROUTING_KEY, RUN_KEY
    from dreamo_routed.dreamo_core.run.run import Run
    from dreamo_routed.dreamo_core.sampling.apply_model import patched_options
    from dreamo_routed.dreamo_core.sequence.placed import PlacedReference
    from dreamo_routed.dreamo_core.sequence.positions import diagonal_offsets
    from dreamo_routed.dreamo_core.sequence.reference import ReferenceSetting
    from dreamo_routed.dreamo_core.sequence.tokens import ReferenceSequence
    from dreamo_routed.minidreamo.host.small_models import small_flux

    with torch.device(device):
        patcher = small_flux(dtype=dtype, depth=depths[0], depth_single_blocks=depths[1], **TRUE_SIZE)
    flux = patcher.model.diffusion_model.to(device, dtype)
    draw = lambda *shape: torch.randn(*shape, device=device, dtype=dtype)  # noqa: E731
    x, context, y = draw(1, 16, latent, latent), draw(1, 256, 4096), draw(1, 768)
    latents = [draw(1, 16, reference, reference) for _ in range(3)]
    image, one = (latent // 2, latent // 2), (reference // 2, reference // 2)
    placed = [
        PlacedReference(ReferenceSetting(i), one, offset)
        for i, offset in enumerate(diagonal_offsets(image, [one] * 3), start=1)
    ]
    third = torch.zeros(3, 1, 3, 3)
    third[range(3), 0, :, range(3)] = 1
    regions = RoutingConditioning(tuple(make_region(i, third[i - 1], 0, False, False) for i in (1, 2, 3)))

    def call(settings: RoutingSettings | None, entry: RoutingConditioning) -> None:
        options = {RUN_KEY: Run(), "patches": {}} | ({ROUTING_KEY: settings} if settings else {})
        references = [place.setting for place in placed]
        routing = make_router(options, references, entry, depths, image, 1, context.shape[1], device)
        sequence = ReferenceSequence(
            image[0] * image[1], placed, None, [routing] if routing else [], None, attention_for_bias,
            settings.form if settings else "auto",
        )  # fmt: skip
        flux(
            x, torch.full((1,), 0.7, device=device, dtype=dtype), context, y, torch.full((1,), 3.5, device=device),
            ref_latents=latents, ref_latents_method="uxo", transformer_options=patched_options(options, sequence),
        )  # fmt: skip
        if routing is not None:
            routing.finished()

    still = {"stop": 0.0}
    return {
        "plain": lambda: call(None, RoutingConditioning()),
        "maps read": lambda: call(RoutingSettings(), RoutingConditioning()),
        "low-rank bias": lambda: call(RoutingSettings(form="low-rank", **still), regions),
        "dense bias": lambda: call(RoutingSettings(form="dense", **still), regions),
        # Regions of two by hand, the third is looked for: maps are read and the bias acts in one call.
        "both": lambda: call(RoutingSettings(form="low-rank"), RoutingConditioning(regions.regions[:2])),
    }


def cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def part_variants() -> dict[str, Callable[[], None]]:
    """Joint attention in each form and the reading of one block's maps, at the sizes of the step on the CPU."""
    from dreamo_routed.dreamo_core.attention.bias import dense_attention, key_columns, low_rank_attention
    from dreamo_routed.dreamo_core.attention.response import response_maps
    from dreamo_routed.dreamo_core.routing.maps import similarity
    from dreamo_routed.dreamo_core.routing.masks import min_max, regions_from_maps, smooth

    text, image, grid = 256, 1024, (32, 32)
    spans = [(text + image + 256 * i, text + image + 256 * (i + 1)) for i in range(3)]
    # As the host has them: heads are a view into one projection's output.
    q, k, v = torch.randn(3, 1, 2048, 24, 128).transpose(2, 3)
    bias = torch.rand(1, 2048, 3).log()

    def attention(q, k, v, mask=None):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    def finish() -> None:
        maps = torch.rand(1, 3, 1024)
        regions_from_maps(smooth(maps, similarity(q, k, (text, text + image), grid), grid, 0.3), 0.2, 0.0, True)

    return {
        "attention": lambda: attention(q, k, v),
        "low-rank attention": lambda: low_rank_attention(attention, q, k, v, bias, key_columns(2048, spans, k)),
        "dense attention": lambda: dense_attention(attention, q, k, v, bias, key_columns(2048, spans, k)),
        "maps of one block": lambda: min_max(response_maps(q, k, (text, text + image), spans)),
        "regions of one step": finish,
    }


def report_parts(step: float, parts: dict[str, float]) -> None:
    print("\nCPU, fp32, one thread, CPU seconds: one block of each kind, 1024 + 3 × 256 + 256 tokens")
    print(f"  {'plain step':22s} {step * 1000:9.1f} ms")
    for name, seconds in parts.items():
        print(f"  {name:22s} {seconds * 1000:9.1f} ms")
    blocks = 2
    added = {
        "maps read": blocks * parts["maps of one block"],
        "maps read, and regions": blocks * parts["maps of one block"] + parts["regions of one step"],
        "low-rank bias": blocks * (parts["low-rank attention"] - parts["attention"]),
        "dense bias": blocks * (parts["dense attention"] - parts["attention"]),
    }
    for name, seconds in added.items():
        print(f"  {name:22s} adds {seconds / step * 100:+.2f} % of a plain step")


def report(title: str, times: dict[str, float]) -> None:
    print(f"\n{title}")
    for name, seconds in times.items():
        extra = (seconds / times["plain"] - 1) * 100
        print(f"  {name:14s} {seconds * 1000:9.1f} ms   {seconds / times['plain']:.4f} of plain   {extra:+.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--whole", action="store_true", help="whole steps on the CPU too; takes many minutes")
    args = parser.parse_args()
    boot(cpu=not torch.cuda.is_available(), use_pytorch_cross_attention=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
    with torch.no_grad():
        variants = model_variants(torch.device("cpu"), torch.float32, (1, 1), 64, 32)
        if args.whole:
            times = medians(variants, args.rounds, time.process_time)
            report("CPU, fp32, one block of each kind, 1024 + 3 × 256 + 256 tokens, CPU seconds", times)
        else:
            # A step takes as long as a hundred of the parts: two are enough to divide by.
            step = medians({"plain": variants["plain"]}, 2, time.process_time)["plain"]
            report_parts(step, medians(part_variants(), args.rounds, time.process_time))
        del variants
        if torch.cuda.is_available():
            variants = model_variants(torch.device("cuda"), torch.bfloat16, (19, 38), 128, 64)
            report(
                f"{torch.cuda.get_device_name()}, bf16, 19 + 38 blocks, 4096 + 3 × 1024 + 256 tokens",
                medians(variants, args.rounds, cuda_clock),
            )
        else:
            print("\nNo CUDA device: the whole model in bf16 was not measured.")


if __name__ == "__main__":
    main()
