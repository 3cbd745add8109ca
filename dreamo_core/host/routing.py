"""Routing on the host's objects: settings on a model, regions and words on a conditioning, and the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.utils
import latent_preview
import nodes
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image

from ..routing.drawing import overlay
from ..routing.record import Recorder, RoutingMaps
from ..routing.regions import Region, RoutingConditioning
from ..routing.settings import RoutingSettings, chosen_blocks
from ..run.keys import PLACEHOLDERS_KEY, RECORDER_KEY, ROUTING_CONDITIONING_KEY, ROUTING_KEY, WRAPPER_KEY
from ..text.words import TextPiece, words_for_references
from .clip_words import as_spelled, clip_pieces
from .flux import check_family, with_references, with_wrapper
from .messages import logger
from .realcustom import LATENT_PIXELS, understands_subjects
from .text_encoder import is_encoding_of, prompt_sections

_PREVIEW_SIDE = 512


class CONDRouting(comfy.conds.CONDConstant):
    """A `RoutingConditioning` that learns which part of the image its conditioning is given."""

    def process_cond(self, batch_size, area=None, **kwargs):
        return self._copy_with(self.cond.in_area(area))


def with_routing(model: Any, settings: RoutingSettings) -> Any:
    """A clone of the ModelPatcher that routes references; it understands references on its conditioning too.

    Raises:
        ValueError: of no family that references work on, or the settings name blocks that it does not have.
    """
    model = with_references(model)
    chosen_blocks(settings.blocks, *check_family(model).depths(model.get_model_object("diffusion_model")))
    model.model_options["transformer_options"][ROUTING_KEY] = settings
    return model


def settings_on(model: Any) -> RoutingSettings | None:
    return model.model_options["transformer_options"].get(ROUTING_KEY)


def _extended(conditioning: list, change) -> list:
    """A copy of the conditioning whose every part has `change(entry)` as its routing entry."""
    result = []
    for cond, values in conditioning:
        model_conds = values.get("model_conds", {})
        held = model_conds.get(ROUTING_CONDITIONING_KEY)
        entry = change(held.cond if held is not None else RoutingConditioning())
        if values.get("reference_latents"):
            entry.check(len(values["reference_latents"]))
        result.append([cond, {**values, "model_conds": {**model_conds, ROUTING_CONDITIONING_KEY: CONDRouting(entry)}}])
    return result


def add_region(conditioning: list, region: Region) -> list:
    """A copy of the conditioning with one more region; the original is left alone.

    Raises:
        ValueError: it carries references already, and not as many as the region's number.
    """
    return _extended(conditioning, lambda entry: replace(entry, regions=(*entry.regions, region)))


def set_words(conditioning: list, words: tuple[tuple[int, ...], ...]) -> list:
    """A copy of the conditioning that knows which text tokens name which reference.

    Raises:
        ValueError: it carries references already, and fewer than there are words.
    """
    length = conditioning[0][0].shape[1]
    return _extended(conditioning, lambda entry: replace(entry, words=words, text=length))


def name_words(conditioning: list, clip: Any, text: str, lines: str) -> list:
    """A copy of the conditioning that knows which text tokens name which reference, in the parts encoded from `text`.

    Args:
        clip: that encoded the prompt; it need not know placeholders, even if the prompt has some.
        lines: one word or phrase for each reference, as in `words_for_references`.

    Raises:
        ValueError: a word is not in the text, or no part of the conditioning was encoded from it.
    """
    spelled = lines if _has_t5(clip) else "\n".join(as_spelled(clip, line) for line in lines.split("\n"))
    named = []
    for cond, values in conditioning:
        placeholders = PLACEHOLDERS_KEY in values
        words = words_for_references(text_pieces(clip, text, placeholders), spelled)
        alike = is_encoding_of(clip, cond, values, text)
        named.append(set_words([[cond, values]], words)[0] if alike else [cond, values])
    if all(part is values for (_, part), (_, values) in zip(named, conditioning, strict=True)):
        raise ValueError(
            "This text is not the prompt that the conditioning was encoded from, so its words cannot be found in it; "
            "give DreamO Routing Words the same text and CLIP as the text encoder, and put it right behind that."
        )
    return named


def _has_t5(clip: Any) -> bool:
    return getattr(clip.tokenizer, "t5xxl", None) is not None


def text_pieces(clip: Any, text: str, placeholders: bool = False) -> list[TextPiece]:
    """The prompt as T5's tokens, or CLIP's where there is no T5 (SDXL), in the order they enter the model.

    Padding and end mark are included.

    Args:
        placeholders: whether `[ref#1]` is one token, as it is where the prompt was encoded with placeholders.

    Raises:
        ValueError: neither T5 nor CLIP.
    """
    if not _has_t5(clip):
        of_clip = list(clip_pieces(clip, text).values())
        if of_clip:
            # Both of SDXL's have the same vocabulary.
            return of_clip[0]
        raise ValueError(
            f"Words are looked up among T5's tokens and this CLIP ({type(clip.cond_stage_model).__name__}) has no T5. "
            "FLUX.1: load clip_l and t5xxl with DualCLIPLoader, type flux. FLUX.2: this node is not for its text "
            "encoders; leave it out, and DreamO Routing's source at references."
        )
    t5, pieces = clip.tokenizer.t5xxl, []
    for section in prompt_sections(clip, text, placeholders)[0]:
        for token, *_ in section:
            if torch.is_tensor(token):
                # An embedding in place of a token: as many positions as it has rows, and no spelling.
                pieces += [TextPiece(None)] * (token.numel() // token.shape[-1])
            else:
                pieces.append(TextPiece(t5.inv_vocab.get(int(token))))
    return pieces


def _preview_picture(maps: RoutingMaps, latent_picture: Image.Image | None) -> Image.Image:
    """What the sampler shows while it runs: the first sample with its regions."""
    scale = min(1.0, _PREVIEW_SIDE / max(maps.size))
    height, width = (max(1, round(side * scale)) for side in maps.size)
    base = torch.zeros(height, width, 3)
    if latent_picture is not None:
        resized = latent_picture.convert("RGB").resize((width, height))
        base = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(height, width, 3) / 255
    _, regions = maps.last()
    shown = overlay(base, regions[:, 0], 0.7)
    return Image.fromarray((shown * 255).round().to(torch.uint8).numpy())


def _live_callback(model: Any, recorder: Recorder, size: tuple[int, int]):
    """A sampler callback as the host's `latent_preview` makes it, with the maps on the picture."""
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    bar: list[comfy.utils.ProgressBar] = []

    def callback(step, x0, x, total_steps):
        if not bar:
            bar.append(comfy.utils.ProgressBar(total_steps))
        preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer is not None else None
        maps = recorder.maps(size)
        if maps.prompts:
            picture = _preview_picture(maps, preview[1] if preview is not None else None)
            preview = ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION)
        bar[0].update_absolute(step + 1, total_steps, preview)

    return callback


def sample_routed(
    model: Any, positive: list, negative: list, latent: dict, live_maps: bool, **settings: Any
) -> tuple[dict, RoutingMaps]:
    """What the host's KSampler does, on a clone that routes and is watched.

    Args:
        model: with `with_references` on it; routed with default settings if it has none.
        live_maps: show the regions in the sampler's preview.
        settings: seed, steps, cfg, sampler_name, scheduler, denoise of the host's `common_ksampler`.

    Returns:
        the latent, and what routing saw.

    Raises:
        ValueError: no reference took part in any step.
    """
    recorder = Recorder()
    # Subjects of RealCustom ride on another kind of model and find their masks themselves.
    own = understands_subjects(model)
    pixels = LATENT_PIXELS if own else check_family(model).latent_pixels
    size = tuple(side * pixels for side in latent["samples"].shape[-2:])
    model = model.clone() if own else with_routing(model, settings_on(model) or RoutingSettings())
    model.model_options["transformer_options"][RECORDER_KEY] = recorder
    if live_maps:
        shown = _live_callback(model, recorder, size)

        def sampler_sample(executor, guider, sigmas, extra_args, callback, *args, **kwargs):
            return executor(guider, sigmas, extra_args, shown, *args, **kwargs)

        model = with_wrapper(model, WrappersMP.SAMPLER_SAMPLE, WRAPPER_KEY + "_live_maps", sampler_sample)
        # Cloning copies what is in the options, and it is this recorder that is watched.
        model.model_options["transformer_options"][RECORDER_KEY] = recorder
    (result,) = nodes.common_ksampler(model, positive=positive, negative=negative, latent=latent, **settings)
    maps = recorder.maps(size)
    if recorder.only_parts:
        logger.warning(
            "DreamO Routed Sampler: references took part in areas or tiles of the image only, so its maps are empty."
        )
    if not maps.prompts:
        raise ValueError(
            "No reference took part in sampling; give this node references, or a positive conditioning from "
            "DreamO Apply or RealCustom Apply whose references have a strength above 0 and a range that covers a step."
        )
    return result, maps
