"""Train the mini world on, from art to published weights; the same command again goes on where it stopped.

    nice -n 15 python3 scripts/host.py exec -m minidreamo.train_all [STATE] [--minutes 600] [--publish]

STATE (~/.cache/minidreamo-state) holds everything: a new machine that has the folder, or what `travel` packed of it,
goes on from there, and without one the training goes on from the published weights. Stages, in this order:

1. art: the drawings, from npm.
2. data: pictures, masks and a manifest; features are cached on the first use.
3. decoder: of the autoencoder, on disturbed latents. The encoder stays, so nothing else depends on it.
4. base: the transformer and CLIP-L, by name alone. Its minutes may be raised later; 0, the default, leaves the base.
5. rounds of DreamO (configs/round.toml), each from the last one's weights, as many as there is time for. After each
   the scores on held-out subjects go to STATE/curve.jsonl: `python -m minidreamo.curve` draws what more would gain.

6. where --rounds is reached: --guided-steps in which the last round's weights are taught what they draw with guidance.

`--publish` puts the last whole round, the decoder and the base into minidreamo/weights.
`--minutes` is of this call; a stage that it cuts off goes on next time. kill −9 costs at most the last 100 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dreamo_core.training.config import Run, load_config
from dreamo_core.training.engine import MakeObjective, paper_objective, train
from dreamo_core.training.resume import progress

from . import art, build_data, classifier, train_autoencoder, train_base
from .attention import explicit_attention
from .distill import guided
from .sampling import load_artist
from .score import over_seeds, score, score_styles
from .store import save_half

HERE = Path(__file__).resolve().parent
STATE = Path.home() / ".cache" / "minidreamo-state"
WEIGHTS = ("autoencoder", "t5", "clip", "flux", "dreamo")
GUIDED_SEED = 1000
PICTURES, SEEDS = 40, 1
"""Of the scores after a round: 40 pictures with one reference and 40 with two take half a minute."""


@dataclass(frozen=True)
class World:
    """Where everything is.

    Attributes:
        state: the folder.
        drawings: cache of the art.
        until: when this call ends (seconds since the epoch).
    """

    state: Path
    drawings: Path
    until: float
    device: str = "cpu"

    def weights(self, name: str) -> Path:
        return self.state / "weights" / f"{name}.safetensors"

    def round(self, number: int) -> Path:
        """Folder of a round, from 1; 0 is what the rounds begin with."""
        return self.state / "rounds" / f"{number:03d}"

    def guided(self, number: int) -> Path:
        """Folder of what a round's weights were taught with guidance."""
        return self.state / "guided" / f"{number:03d}"

    def dreamo(self, number: int) -> Path:
        return self.round(number) / "dreamo.safetensors" if number else self.weights("dreamo")

    @property
    def manifest(self) -> Path:
        return self.state / "data" / "train.jsonl"

    @property
    def curve(self) -> Path:
        return self.state / "curve.jsonl"

    @property
    def over(self) -> bool:
        return time.time() >= self.until


def begin(world: World, published: Path = HERE / "weights") -> None:
    """Take the published weights where the state has none."""
    world.weights("").parent.mkdir(parents=True, exist_ok=True)
    for name in WEIGHTS:
        if not world.weights(name).exists():
            scratch = world.weights(name).with_suffix(".part")
            # With its time: cached features are known by it.
            shutil.copy2(published / f"{name}.safetensors", scratch)
            os.replace(scratch, world.weights(name))


def of_state(run: Run, world: World, seed: int = 0) -> Run:
    """A config with the state's weights and data in the place of its own."""
    base = replace(
        run.base, transformer=world.weights("flux"), autoencoder=world.weights("autoencoder"),
        t5=world.weights("t5"), clip=world.weights("clip"),
    )  # fmt: skip
    return replace(run, base=base, seed=seed, stages=tuple(replace(s, manifest=world.manifest) for s in run.stages))


def finished(world: World, run: Run) -> int:
    """Number of the last whole round, 0 without any. Earlier ones need not be at hand."""
    folders = (world.state / "rounds").glob("[0-9][0-9][0-9]")
    whole = (int(folder.name) for folder in folders if progress(folder)[0] >= len(run.stages))
    return max(whole, default=0)


def train_decoder(world: World, steps: int) -> None:
    """The published decoder on; the new one takes its place only when it is whole."""
    path = world.state / "decoder" / "autoencoder.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        shutil.copy2(world.weights("autoencoder"), path)
    train_autoencoder.train(world.drawings, path, steps, seed=1, begin=True, until=world.until)


def train_from(world: World, run: Run, number: int, output: Path, objective: MakeObjective = paper_objective) -> bool:
    """Train on from a round's weights; whether it came to its end."""
    run = replace(run, output=output, model=replace(run.model, begin=world.dreamo(number)))
    # The fused kernels of a GPU are the quicker ones there.
    with explicit_attention() if world.device == "cpu" else nullcontext():
        train(run, world.until, objective=objective)
    return progress(output)[0] >= len(run.stages)


def train_round(world: World, run: Run, number: int) -> bool:
    """Whether the round is whole now."""
    return train_from(world, of_state(run, world, seed=number), number - 1, world.round(number))


def train_guided(world: World, run: Run, number: int, scale: float, steps: int) -> bool:
    """Teach a round's weights what they draw with guidance (`distill`); whether it is whole now."""
    run = of_state(run, world, seed=GUIDED_SEED + number)
    run = replace(run, stages=tuple(replace(stage, steps=steps) for stage in run.stages))
    return train_from(world, run, number, world.guided(number), guided(scale))


def measure(world: World, run: Run, number: int, say=print) -> None:
    """Append the scores of a round to the curve, unless they are there."""
    rows = [json.loads(line) for line in world.curve.read_text().splitlines()] if world.curve.exists() else []
    if number in [row["round"] for row in rows]:
        return
    drawings = art.load(world.drawings)
    artist = load_artist(of_state(run, world), world.dreamo(number))
    numbers, _ = score(artist, drawings, classifier.load(drawings), PICTURES, SEEDS)
    numbers |= over_seeds(score_styles(artist, drawings, PICTURES, SEEDS, told=("style",)))
    samples = number * sum(stage.steps * stage.batch for stage in run.stages)
    row = {"round": number, "samples": samples, "scores": {name: sum(v) / len(v) for name, v in numbers.items()}}
    with world.curve.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    say(f"round {number}: " + ", ".join(f"{name} {row['scores'][name]:.3f}" for name in (
        "subject (1)", "named (1)", "subject (2)", "named (2)", "swapped (2)", "style")))  # fmt: skip


def publish(world: World, run: Run, folder: Path = HERE / "weights") -> None:
    """Put the last whole round's DreamO, taught with guidance if it was, decoder and base into `folder`."""
    number = finished(world, run)
    samples = number * sum(stage.steps * stage.batch for stage in run.stages)
    about = {"rounds": str(number), "samples": str(samples), "seeds": f"1 to {number}"}
    taught = progress(world.guided(number))[0] >= len(run.stages)
    if taught:
        about |= {"guided": f"seed {GUIDED_SEED + number}"}
    dreamo = world.guided(number) / "dreamo.safetensors" if taught else world.dreamo(number)
    save_half(load_file(dreamo), folder / "dreamo.safetensors", about)
    decoder = world.state / "decoder" / "autoencoder.safetensors"
    for name, source in (("autoencoder", decoder), ("flux", world.weights("flux")), ("clip", world.weights("clip"))):
        if source.exists():
            (folder / f"{name}.safetensors").write_bytes(source.read_bytes())
    print(f"{folder} has what {number} rounds gave{', taught with guidance' if taught else ''}")


def train_all(world: World, run: Run, wanted: argparse.Namespace) -> None:
    """Everything there is time for; `wanted` are the arguments of the command."""
    begin(world)
    if not (world.drawings / "art.safetensors").exists():
        art.build(world.drawings)
    if not world.manifest.exists():
        build_data.build(world.drawings, world.manifest.parent, wanted.samples, wanted.data_seed)
    train_decoder(world, wanted.decoder_steps)
    if train_base.minutes_spent(world.state / "base") < wanted.base_minutes and not world.over:
        train_base.train(
            world.drawings, world.weights("").parent, world.state / "base", run.base.t5_tokenizer.parents[1],
            wanted.base_minutes, seed=0, size=wanted.base_batch, device=world.device, begin=True, until=world.until,
        )  # fmt: skip
    while not world.over and finished(world, run) < wanted.rounds and train_round(world, run, finished(world, run) + 1):
        for number in range(finished(world, run) + 1):
            if world.dreamo(number).exists():
                measure(world, run, number)
    number = finished(world, run)
    print(f"{number} rounds are whole; the same command goes on", flush=True)
    if wanted.guided_steps and number >= wanted.rounds and not world.over:
        train_guided(world, run, number, wanted.guidance, wanted.guided_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, nargs="?", default=STATE)
    parser.add_argument("--config", type=Path, default=HERE / "configs" / "round.toml")
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--minutes", type=float, default=600, help="of this call")
    parser.add_argument("--samples", type=int, default=40_000, help="of the data")
    parser.add_argument("--data-seed", type=int, default=1, help="another one on every machine that makes its own data")
    parser.add_argument("--decoder-steps", type=int, default=3000)
    parser.add_argument("--base-minutes", type=float, default=0, help="of training the base on, in all calls together")
    parser.add_argument("--base-batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1000, help="stop after so many in all")
    parser.add_argument("--guidance", type=float, default=3.0, help="scale between without and with references")
    parser.add_argument("--guided-steps", type=int, default=0, help="after the last of the rounds; 0 for none")
    parser.add_argument("--device", default="cpu", help="of the base; the rounds take a GPU where there is one")
    parser.add_argument("--publish", action="store_true", help="afterwards, put it into minidreamo/weights")
    arguments = parser.parse_args()
    run = load_config(arguments.config)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    world = World(arguments.state, arguments.art, time.time() + 60 * arguments.minutes, arguments.device)
    train_all(world, run, arguments)
    if arguments.publish:
        publish(world, run)


if __name__ == "__main__":
    main()
