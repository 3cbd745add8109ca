"""The run: stages one after another, on one process or several, from wherever it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizerFast, T5EncoderModel

from . import flow, parallel
from .batches import Batch, Batches
from .config import Run, Stage
from .encoders import T5Prompts, load_clip, load_t5, t5_inputs
from .export import export, load_released
from .features import Encoders, FeatureStore, file_identity, load_autoencoder
from .losses import routing_errors, weighted_sum
from .manifest import read_manifest
from .model import DreamOTransformer, Prediction, load_transformer
from .preview import Samples
from .resume import Place, load_checkpoint, restore_optimizer, save_checkpoint, trained


class Objective(nn.Module):
    """Model, text encoder and losses as one module, so that every gradient passes through one forward.

    The T5 is frozen; only the placeholder rows among its inputs learn.
    """

    def __init__(self, model: DreamOTransformer, t5: T5EncoderModel, run: Run):
        super().__init__()
        self.model = model
        self.t5 = t5.requires_grad_(False)
        self.run = run

    def text(self, batch: Batch) -> torch.Tensor:
        """(b, t, c): cached features, and T5's own for the prompts with placeholders."""
        if not self.run.losses.placeholders:
            return batch.t5
        # At least one row, marked or not: all processes must go through the same modules and have the same gradients.
        rows = batch.marked.nonzero().flatten() if batch.marked.any() else batch.marked.new_zeros(1).long()
        inputs = t5_inputs(self.t5.shared.weight, self.model.placeholders, batch.t5_ids[rows])
        features = self.t5(inputs_embeds=inputs).last_hidden_state.to(batch.t5.dtype)
        features = torch.where(batch.marked[rows, None, None], features, batch.t5[rows])
        return batch.t5.index_copy(0, rows, features)

    def _predict(self, batch: Batch, noisy: torch.Tensor, times: torch.Tensor, guidance: float, probe: bool):
        return self.model(
            noisy, times, self.text(batch), batch.pooled, torch.full_like(times, guidance), batch.references,
            batch.kept, batch.positions if probe else None,
        )  # fmt: skip

    def look(self, batch: Batch, noisy: torch.Tensor, times: torch.Tensor, guidance: float) -> Prediction:
        """Velocity and response maps at any point of the way from noise to picture."""
        return self._predict(batch, noisy, times, guidance, probe=True)

    def wanted(self, batch: Batch, noisy: torch.Tensor) -> torch.Tensor:
        """(b, 16, h, w): the velocity to learn at `noisy`, that of Eq. 1."""
        return flow.velocity(batch.target, batch.noise)

    def forward(self, batch: Batch, share: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 5 and its parts.

        Args:
            share: number of processes; parts are scaled so that the mean over processes is the mean over the batch.
        """
        weights = self.run.losses
        noisy = flow.interpolate(batch.target, batch.noise, batch.times)
        predicted = self._predict(
            batch, noisy, batch.times, self.run.times.guidance, probe=bool(weights.routing or weights.placeholder)
        )
        errors = predicted.velocity.float() - self.wanted(batch, noisy)
        parts = {"flow": errors.square().mean()}
        if predicted.maps is not None:
            known = batch.masks.isfinite().all(-1)
            wrong = routing_errors(predicted.maps.float(), batch.masks.nan_to_num()).mean(0)
            parts["routing"] = (wrong * known).sum() * share / max(batch.routed, 1)
            parts["placeholder"] = predicted.mistakes.float().mean(0).sum() * share / max(batch.placed, 1)
        return weighted_sum(parts, vars(weights)), {name: part.detach() for name, part in parts.items()}


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then constant, then linear to zero over the last `decay` of the stage."""
    rate = min(1.0, (step + 1) / stage.warm_up) if stage.warm_up else 1.0
    if stage.decay:
        rate *= min(1.0, (stage.steps - step) / (stage.decay * stage.steps))
    return stage.learning_rate * rate


def load_encoders(run: Run) -> Encoders:
    base = run.base
    t5 = load_t5(base.t5, getattr(torch, base.dtype))
    prompts = T5Prompts(base.t5_tokenizer, t5.config.vocab_size, base.text_tokens)
    identity = "".join(map(file_identity, (base.autoencoder, base.t5, base.clip))) + str(base.text_tokens)
    return Encoders(
        load_autoencoder(base.autoencoder, base.autoencoder_class), t5, prompts, load_clip(base.clip),
        CLIPTokenizerFast.from_pretrained(base.clip_tokenizer), identity,
    )  # fmt: skip


def build_model(run: Run, t5_width: int) -> DreamOTransformer:
    torch.manual_seed(run.seed)
    transformer = load_transformer(run.base.transformer, getattr(torch, run.base.dtype), fused=True)
    if run.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    settings = run.model
    return DreamOTransformer(
        transformer, settings.rank, settings.probed or None, t5_width, settings.condition_embedding
    )


def features_folder(manifest: Path) -> Path:
    """Beside the manifest, so that runs on the same data share it."""
    return manifest.parent / f"{manifest.stem}-features"


def move(batch: Batch, device: torch.device) -> Batch:
    def to(value):
        if isinstance(value, tuple):
            return tuple(map(to, value))
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return Batch(**{name: to(value) for name, value in vars(batch).items()})


class Log:
    """Losses as JSON lines, pictures as PNG files; both in TensorBoard too where that is installed."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "log.jsonl").open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(folder / "tensorboard")

    def write(self, step: int, stage: str, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, "stage": stage, **values}) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """(h, w, 3) bytes."""
        path = self.folder / "samples" / f"{step:06d}-{name.replace(' ', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
        if self.board:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _features(run: Run, encoders: Encoders, accelerator, say: Callable[[str], None]) -> dict[Path, FeatureStore]:
    """What the encoders say of every manifest that the run needs; each process makes its share, all read all."""
    manifests = [stage.manifest for stage in run.stages] + ([_shown(run)] if run.samples.every else [])
    stores = {}
    for manifest in dict.fromkeys(manifests):
        samples = read_manifest(manifest)
        stores[manifest] = FeatureStore(
            samples, encoders, features_folder(manifest), say,
            accelerator.device, accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip
    return stores


def _shown(run: Run) -> Path:
    """The manifest that samples are drawn from."""
    return run.samples.manifest or run.stages[0].manifest


MakeObjective = Callable[[DreamOTransformer, Encoders, Run], Objective]


def paper_objective(model: DreamOTransformer, encoders: Encoders, run: Run) -> Objective:
    return Objective(model, encoders.t5, run)


class Trainer:
    """Everything that lives as long as the run: model, optimizer, log, and the processes that share them.

    Args:
        place: where an earlier run stopped; the model already holds its parameters.
    """

    def __init__(self, run: Run, accelerator, model: DreamOTransformer, encoders: Encoders, place: Place,
                 stores: dict[Path, FeatureStore], objective: MakeObjective, say: Callable[[str], None]):  # fmt: skip
        self.run, self.accelerator, self.model, self.stores = run, accelerator, model, stores
        self.inner = self.objective = objective(model, encoders, run)
        settings = parallel.sharding()
        if settings:
            say(parallel.shard(self.objective, settings, accelerator.device, ["look"]))
        else:
            self.objective = accelerator.prepare(self.objective)
        self.learned = list(trained(model).values())
        self.optimizer = torch.optim.Adam(self.learned, lr=0.0)
        restore_optimizer(self.optimizer, place)
        self.stepping = self.optimizer if settings else accelerator.prepare(self.optimizer)
        self.samples = Samples(run, stores[_shown(run)], encoders.autoencoder) if run.samples.every else None
        self.log = Log(run.output) if accelerator.is_main_process else None

    def step(self, batch: Batch, rate: float, clip: float) -> dict[str, torch.Tensor]:
        """One step of the optimizer; the losses that led to it, the whole one first."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.stepping.zero_grad()
        with self.accelerator.autocast():
            loss, parts = self.objective(move(batch, self.accelerator.device), self.accelerator.num_processes)
        self.accelerator.backward(loss)
        if clip:
            self.accelerator.clip_grad_norm_(self.learned, clip)
        self.stepping.step()
        return {"loss": loss.detach(), **parts}

    def write(self, step: int, stage: str, losses: dict[str, torch.Tensor], others: dict[str, float]) -> float:
        """Log the losses, averaged over processes; the whole one."""
        values = self.accelerator.reduce(torch.stack(list(losses.values())), "mean").tolist()
        if self.log:
            self.log.write(step, stage, dict(zip(losses, values, strict=True)) | others)
        return values[0]

    def draw(self, step: int) -> None:
        """Samples and response maps; every process draws, since a sharded model needs them all."""
        device = self.accelerator.device
        with self.accelerator.autocast():
            pictures = self.samples.draw(lambda batch, *args: self.inner.look(move(batch, device), *args))
        for name, picture in pictures.items() if self.log else ():
            self.log.picture(step, name, picture)

    def stage(self, number: int, begin: int, done: int, until: float | None) -> int | None:
        """Run a stage from step `begin`; the step it was stopped after, None if it came to its end.

        Args:
            done: steps of all stages before it.
        """
        run, stage, main = self.run, self.run.stages[number], self.accelerator.is_main_process
        batches = Batches(
            self.stores[stage.manifest], stage, run.losses, run.times, (run.seed, number),
            self.accelerator.process_index, self.accelerator.num_processes,
        )  # fmt: skip
        progress = tqdm(range(begin, stage.steps), desc=stage.name, disable=not main, mininterval=10, initial=begin,
                        total=stage.steps)  # fmt: skip
        for step in progress:
            began, rate = time.perf_counter(), learning_rate(stage, step)
            losses = self.step(batches[step], rate, stage.clip)
            if (step + 1) % run.log_every == 0:
                others = {"learning_rate": rate, "seconds": time.perf_counter() - began}
                progress.set_postfix(loss=self.write(done + step + 1, stage.name, losses, others))
            if self.samples and (done + step + 1) % run.samples.every == 0:
                self.draw(done + step + 1)
            stopped = until is not None and parallel.agreed(self.accelerator, time.time() > until)
            last = step + 1 == stage.steps
            if (step + 1) % run.save_every == 0 or last or stopped:
                save_checkpoint(
                    run.output, self.model, self.optimizer, number + last, 0 if last else step + 1, write=main
                )
            if stopped:
                return step + 1
        return None


def train(
    run: Run, until: float | None = None, say: Callable[[str], None] = print,
    objective: MakeObjective = paper_objective,
) -> Path:  # fmt: skip
    """Run all stages, going on from the last checkpoint; returns the written `dreamo.safetensors`.

    Args:
        until: stop with a checkpoint at this time (seconds since the epoch), None for never.
        say: told one line now and then.
        objective: makes the module with the losses.

    Raises:
        ValueError: data, weights or checkpoint do not fit the config.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    accelerator = parallel.accelerator_for(run.computed_in)
    if parallel.sharding() and run.computed_in == "fp16":
        raise ValueError('fp16 has no loss scaling with FSDP; use precision = "bf16" or base.dtype = "float32".')
    main = accelerator.is_main_process
    say = say if main else _silent
    encoders = load_encoders(run)
    stores = _features(run, encoders, accelerator, say)
    model = build_model(run, encoders.t5.config.d_model)
    if run.model.begin:
        load_released(model, run.model.begin)
    # Before the processes are joined: all of them then hold the restored parameters.
    place = load_checkpoint(run.output, model)
    if place.stage or place.step:
        say(f"going on at stage {run.stages[min(place.stage, len(run.stages) - 1)].name!r}, step {place.step}")
    trainer = Trainer(run, accelerator, model, encoders, place, stores, objective, say)
    for number in range(place.stage, len(run.stages)):
        done = sum(stage.steps for stage in run.stages[:number])
        stopped = trainer.stage(number, place.step if number == place.stage else 0, done, until)
        if stopped is not None:
            name = run.stages[number].name
            say(f"stopped in stage {name!r} after step {stopped}; the same command goes on from there")
            break
    path = export(model, run.output, write=main)
    if trainer.log:
        trainer.log.close()
    accelerator.wait_for_everyone()
    return path


def _silent(_: str) -> None:
    pass
