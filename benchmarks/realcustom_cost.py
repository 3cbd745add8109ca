"""What RealCustom costs on SDXL: ratios of steps measured in turn, in one run.

    python3 scripts/host.py exec benchmarks/realcustom_cost.py [--rounds N] [--latent N] [--depths N N]

SDXL's true widths (320, 640, 1280 channels, heads of 64, text and picture tokens of 2048, 729 of these a picture) with
random weights and fewer transformer blocks than its 2 and 10, as the host runs them, at cfg 7.5. Steps are CPU seconds
of one thread (wall time with CUDA); a run's first step, which also makes keys and values, only warms up. Every variant
runs once in every round; the medians over the rounds are compared.

With painted masks there is no guidance branch: that is a step after the stop.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from boot import boot

STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latent", type=int, default=48, help="side of the latent; 128 is 1024²")
    parser.add_argument("--depths", type=int, nargs=2, default=(1, 2), help="2 10 is SDXL")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    boot(cpu=not cuda)
    torch.set_num_threads(1)
    with torch.no_grad():
        report(args.rounds, args.latent, tuple(args.depths), time.perf_counter if cuda else time.process_time)


def subjects_on(model, count: int, painted: bool, context: int):
    """Model, positive and negative with random tokens for so many subjects."""
    import comfy.conds
    import comfy.ops
    from dreamo_routed.dreamo_core.host.realcustom import attention_places, with_subjects
    from dreamo_routed.dreamo_core.realcustom.settings import RealCustomSettings
    from dreamo_routed.dreamo_core.realcustom.subject import PlacedSubject, RealCustomConditioning
    from dreamo_routed.dreamo_core.realcustom.weights import VisionAttention
    from dreamo_routed.dreamo_core.routing.regions import make_region
    from dreamo_routed.dreamo_core.run.keys import REALCUSTOM_KEY

    conditioning = [[torch.randn(1, 77, context), {"pooled_output": torch.randn(1, 1280)}] for _ in range(2)]
    if not count:
        return model, [conditioning[0]], [conditioning[1]]
    modules = dict(model.get_model_object("diffusion_model").named_modules())
    vision = {}
    for place in attention_places(model.get_model_object("diffusion_model")):
        weight = modules[place.name].to_k.weight
        vision[place.name] = (torch.randn_like(weight) * 0.02, torch.randn_like(weight) * 0.02)
    attention = VisionAttention(vision, comfy.ops.manual_cast, dtype=torch.float32)
    tokens = lambda: torch.randn(1, 729, context)  # noqa: E731
    placed = tuple(PlacedSubject(n, tokens(), ((n, n + 1),), 0.2, 1.0) for n in range(1, count + 1))
    masks = [torch.zeros(1, 10, 10) for _ in placed]
    for n, mask in enumerate(masks):
        mask[:, :, 2 * n : 2 * n + 2] = 1
    regions = tuple(make_region(n, mask, 0, False, False) for n, mask in enumerate(masks, 1)) if painted else ()
    black, settings = tokens(), RealCustomSettings(stop=1.0)
    sides = []
    for (cond, values), negative in zip(conditioning, (False, True), strict=True):
        entry = RealCustomConditioning(placed, count, black, negative, regions, settings, attention)
        sides.append([[cond, {**values, "model_conds": {REALCUSTOM_KEY: comfy.conds.CONDConstant(entry)}}]])
    import comfy.model_patcher

    patcher = comfy.model_patcher.ModelPatcher(attention, model.load_device, model.offload_device)
    return with_subjects(model, patcher, 0), *sides


def step_seconds(model, positive, negative, side: int, clock) -> float:
    """Seconds of a run's later steps, the mean."""
    import comfy.sample

    times = [clock()]
    latent = torch.zeros(1, 4, side, side)

    def callback(*_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock())

    comfy.sample.sample(
        model, torch.randn_like(latent), STEPS, 7.5, "euler", "normal", positive, negative, latent,
        disable_pbar=True, callback=callback, seed=0,
    )  # fmt: skip
    return (times[-1] - times[1]) / (STEPS - 1)


def report(rounds: int, side: int, depths: tuple[int, int], clock) -> None:
    from dreamo_routed.minidreamo.host import small_sdxl

    few, many = depths
    model = small_sdxl.small_sdxl(
        model_channels=320, num_head_channels=64, context_dim=2048, adm_in_channels=2816,
        transformer_depth=[0, 0, few, few, many, many], transformer_depth_middle=many,
        transformer_depth_output=[0, 0, 0, few, few, few, many, many, many],
    )  # fmt: skip
    variants = {
        "plain step": subjects_on(model, 0, False, 2048),
        "after the stop, 1 subject": subjects_on(model, 1, True, 2048),
        "after the stop, 2 subjects": subjects_on(model, 2, True, 2048),
        "before the stop, 1 subject": subjects_on(model, 1, False, 2048),
        "before the stop, 2 subjects": subjects_on(model, 2, False, 2048),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for n in range(rounds):
        turn = n % len(variants)
        for name in (*list(variants)[turn:], *list(variants)[:turn]):
            times[name].append(step_seconds(*variants[name], side, clock))
    middle = {name: statistics.median(values) for name, values in times.items()}
    plain = middle["plain step"]
    print(f"{side} × {side} latent, transformer depths {few} and {many}, {rounds} rounds")
    for name, seconds in middle.items():
        spread = f"{min(times[name]) / plain:.2f} to {max(times[name]) / plain:.2f}"
        print(f"{name:<28} {seconds:8.2f} s  {seconds / plain:.3f} × a plain CFG step ({spread})")
    one, two = middle["after the stop, 1 subject"], middle["after the stop, 2 subjects"]
    print(f"a second subject's attention: {(two - one) / plain:+.1%} of a plain step")


if __name__ == "__main__":
    main()
