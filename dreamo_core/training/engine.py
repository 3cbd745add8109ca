"""The run: stages one after another, on one process or several, from wherever it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizerFast, T5EncoderModel

from . import flow
from .batches import Batch, Batches
from .checkpoint import load_checkpoint, save_checkpoint, trained
from .config import Run, Stage
from .export import export
from .features import Encoders, FeatureStore, file_identity, load_autoencoder
from .losses import routing_errors, weighted_sum
from .manifest import read_manifest
from .model import DreamOTransformer, load_transformer
from .text import T5Prompts, load_clip, load_t5, t5_inputs


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
        rows = batch.marked.nonzero().flatten()
        if not len(rows):
            return batch.t5
        inputs = t5_inputs(self.t5.shared.weight, self.model.placeholders, batch.t5_ids[rows])
        features = self.t5(inputs_embeds=inputs).last_hidden_state.to(batch.t5.dtype)
        return batch.t5.index_copy(0, rows, features)

    def forward(self, batch: Batch, share: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 5 and its parts.

        Args:
            share: number of processes; parts are scaled so that the mean over processes is the mean over the batch.
        """
        weights = self.run.losses
        predicted = self.model(
            flow.interpolate(batch.target, batch.noise, batch.times),
            batch.times,
            self.text(batch),
            batch.pooled,
            torch.full_like(batch.times, self.run.times.guidance),
            batch.references,
            batch.kept,
            batch.positions if weights.routing or weights.placeholder else None,
        )
        errors = predicted.velocity.float() - flow.velocity(batch.target, batch.noise)
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
    t5 = load_t5(base.t5)
    prompts = T5Prompts(base.t5_tokenizer, t5.config.vocab_size, base.text_tokens)
    identity = "".join(map(file_identity, (base.autoencoder, base.t5, base.clip))) + str(base.text_tokens)
    return Encoders(
        load_autoencoder(base.autoencoder), t5, prompts, load_clip(base.clip),
        CLIPTokenizerFast.from_pretrained(base.clip_tokenizer), identity,
    )  # fmt: skip


def build_model(run: Run, t5_width: int) -> DreamOTransformer:
    torch.manual_seed(run.seed)
    transformer = load_transformer(run.base.transformer, getattr(torch, run.base.dtype))
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
    """Losses as JSON lines, and as TensorBoard scalars where tensorboard is installed."""

    def __init__(self, folder: Path):
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

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def train(run: Run, until: float | None = None, say: Callable[[str], None] = print) -> Path:
    """Run all stages, going on from the last checkpoint; returns the written `dreamo.safetensors`.

    Args:
        until: stop with a checkpoint at this time (seconds since the epoch), None for never.
        say: told one line now and then.

    Raises:
        ValueError: data, weights or checkpoint do not fit the config.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    accelerator = Accelerator(
        mixed_precision=run.precision, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    main, world = accelerator.is_main_process, accelerator.num_processes
    encoders = load_encoders(run)
    stores: dict[Path, FeatureStore] = {}
    for manifest in dict.fromkeys(stage.manifest for stage in run.stages):
        samples = read_manifest(manifest)
        with accelerator.main_process_first():
            stores[manifest] = FeatureStore(samples, encoders, features_folder(manifest), say if main else _silent)
    model = build_model(run, encoders.t5.config.d_model)
    learned = list(trained(model).values())
    optimizer = torch.optim.Adam(learned, lr=0.0)
    # Before `prepare`: DDP then sends the restored parameters to every process.
    first_stage, first_step = load_checkpoint(run.output, model, optimizer)
    if first_stage or first_step:
        say(f"going on at stage {run.stages[min(first_stage, len(run.stages) - 1)].name!r}, step {first_step}")
    objective, optimizer = accelerator.prepare(Objective(model, encoders.t5, run), optimizer)
    log = Log(run.output) if main else None
    done = sum(stage.steps for stage in run.stages[:first_stage])
    stopped = False
    for number in range(first_stage, len(run.stages)):
        stage = run.stages[number]
        batches = Batches(
            stores[stage.manifest], stage, run.losses, run.times, (run.seed, number), accelerator.process_index, world
        )
        begin = first_step if number == first_stage else 0
        progress = tqdm(range(begin, stage.steps), desc=stage.name, disable=not main, mininterval=10, initial=begin,
                        total=stage.steps)  # fmt: skip
        for step in progress:
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(stage, step)
            optimizer.zero_grad()
            with accelerator.autocast():
                loss, parts = objective(move(batches[step], accelerator.device), world)
            accelerator.backward(loss)
            if stage.clip:
                accelerator.clip_grad_norm_(learned, stage.clip)
            optimizer.step()
            if (step + 1) % run.log_every == 0:
                values = accelerator.reduce(torch.stack([loss.detach(), *parts.values()]), "mean").tolist()
                if log:
                    names = ["loss", *parts]
                    rate = {"learning_rate": learning_rate(stage, step), "seconds": time.perf_counter() - began}
                    log.write(done + step + 1, stage.name, dict(zip(names, values, strict=True)) | rate)
                    progress.set_postfix(loss=values[0])
            stopped = until is not None and time.time() > until
            last = step + 1 == stage.steps
            if main and ((step + 1) % run.save_every == 0 or last or stopped):
                save_checkpoint(run.output, model, optimizer.optimizer, number + last, 0 if last else step + 1)
            if stopped:
                break
        if stopped:
            say(f"stopped in stage {stage.name!r} after step {step + 1}; the same command goes on from there")
            break
        done += stage.steps
    path = run.output / "dreamo.safetensors"
    if main:
        export(model, run.output)
        log.close()
    accelerator.wait_for_everyone()
    return path


def _silent(_: str) -> None:
    pass
