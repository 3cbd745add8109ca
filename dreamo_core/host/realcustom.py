"""RealCustom++ on the host's objects: encoders and weights in patchers, subjects on a conditioning, hooks on a UNet."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.patcher_extension import WrappersMP

from ..realcustom.guidance import ModelFacts, apply_model, make_calc_cond_batch_wrapper
from ..realcustom.picture import RELEASED, features
from ..realcustom.projector import Projector
from ..realcustom.reading import AttentionPlace
from ..realcustom.settings import RealCustomSettings
from ..realcustom.subject import MAX_SUBJECTS, PlacedSubject, RealCustomConditioning, Subject
from ..realcustom.weights import RealCustomFile, VisionAttention, read_state, sort_keys
from ..routing.regions import make_region
from ..run.keys import REALCUSTOM_KEY, ROUTING_CONDITIONING_KEY, WRAPPER_KEY
from ..run.run import outer_sample_wrapper
from ..vision.files import VisionFile, read_vision
from ..vision.vit import ViT
from .clip_words import word_positions
from .flux import with_wrapper
from .text_encoder import is_encoding_of

LATENT_PIXELS = 8
"""Side of a latent pixel of SDXL and SD 1.5."""
_PLACE = re.compile(r"((input|output)_blocks\.(\d+)|middle_block)\.\d+\.transformer_blocks\.(\d+)\.attn2")
_KEPT_BYTES = "realcustom_kept_bytes"
_PICTURES_KEPT = 16
"""Tokens of so many pictures stay with a loaded file, 6 MB each: a changed setting must not encode them again."""
_ENCODING_BYTES = 1 << 30
"""What five pictures take on their way through an encoder, in float32."""


class VisionPatcher(comfy.model_patcher.ModelPatcher):
    """Weights for keys and values; what is kept of them in a run counts as theirs when the host makes room."""

    def model_size(self) -> int:
        return super().model_size() + self.model_options.get(_KEPT_BYTES, 0)


def _patcher(module: torch.nn.Module, kind: type = comfy.model_patcher.ModelPatcher) -> Any:
    module.eval().requires_grad_(False)
    return kind(module, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


def vision_encoder(file: VisionFile) -> Any:
    """A ModelPatcher around a `ViT` with a file's weights, in their own dtype."""
    dtype = file.weights["pos_embed"].dtype
    vit = ViT(file.config, comfy.ops.manual_cast, dtype=dtype, device=comfy.model_management.unet_offload_device())
    vit.load_state_dict(file.weights)
    return _patcher(vit)


@dataclass(eq=False)
class RealCustomModel:
    """What `REALCUSTOM_MODEL` carries between nodes.

    Attributes:
        file: the RealCustom file; its keys and values are put into a model of their own for each UNet they go to.
        siglip, dino, projector: ModelPatchers.
    """

    file: RealCustomFile
    siglip: Any
    dino: Any
    projector: Any
    _tokens: OrderedDict = field(default_factory=OrderedDict)
    _attention: dict = field(default_factory=dict)

    def tokens(self, picture: torch.Tensor, path: str = RELEASED) -> torch.Tensor:
        """Tokens of a picture (1, h, w, 3) on the CPU: (1, m, d) float32."""
        content = picture.contiguous().cpu().numpy().tobytes()
        key = (hashlib.sha256(content).digest(), tuple(picture.shape), path)
        if key not in self._tokens:
            self._tokens[key] = self._encoded(picture, path)
            while len(self._tokens) > _PICTURES_KEPT:
                self._tokens.popitem(last=False)
        self._tokens.move_to_end(key)
        return self._tokens[key]

    def _encoded(self, picture: torch.Tensor, path: str) -> torch.Tensor:
        deep = tuple(_deep_layer(encoder.model) for encoder in (self.siglip, self.dino))
        shallow = tuple(zip(*(_shallow_layers(encoder.model) for encoder in (self.siglip, self.dino)), strict=True))
        models = [self.siglip, self.dino, self.projector]
        comfy.model_management.load_models_gpu(models, memory_required=_ENCODING_BYTES)
        device = self.projector.load_device
        seen = features(
            picture.to(device), self.siglip.model, self.dino.model, deep, shallow if self.file.shallow else (), path
        )
        return self.projector.model(seen).float().cpu()

    def attention(self, model: Any) -> Any:
        """A VisionPatcher with the file's keys and values by the names of this UNet's cross-attentions.

        Raises:
            ValueError: the file was made for another model.
        """
        weights = fitted(self.file, model)
        names = tuple(weights)
        if names not in self._attention:
            (dtype,) = {k.dtype for k, _ in weights.values()}
            device = comfy.model_management.unet_offload_device()
            vision = VisionAttention(weights, comfy.ops.manual_cast, dtype=dtype, device=device)
            self._attention[names] = _patcher(vision, VisionPatcher)
        return self._attention[names]


def _deep_layer(vit: ViT) -> int:
    """The second to last block: 25 of SigLIP's 27, 22 of DINOv2's 24."""
    return vit.config.depth - 2


def _shallow_layers(vit: ViT) -> list[int]:
    """7, 13, 19 of SigLIP's 27 blocks, 4, 10, 16 of DINOv2's 24: every sixth below the deep one."""
    return [at for at in (_deep_layer(vit) - 18, _deep_layer(vit) - 12, _deep_layer(vit) - 6)]


def load_realcustom(path: Path, siglip: Path, dino: Path) -> tuple[RealCustomModel, dict[str, tuple[str, ...]]]:
    """Read the three files; also the keys of each that are not used, by its name.

    Raises:
        ValueError: one of them is not what it should be, or they do not fit each other.
    """
    file = sort_keys(read_state(path), path.name)
    encoders = [read_vision(read_state(one), one.name) for one in (siglip, dino)]
    return make_realcustom(file, *encoders), {one.name: one.unused for one in (file, *encoders) if one.unused}


def make_realcustom(file: RealCustomFile, siglip: VisionFile, dino: VisionFile) -> RealCustomModel:
    """As `load_realcustom`, of what has been read.

    Raises:
        ValueError: they do not fit each other.
    """
    if siglip.config.class_token or not dino.config.class_token:
        raise ValueError(
            f"{siglip.name} and {dino.name}: the first must be SigLIP (no class token) and the second DINOv2 with "
            "registers; choose them the other way round, or other files."
        )
    if dino.config.registers == 0:
        raise ValueError(f"{dino.name} is a DINOv2 without registers; RealCustom was trained with ViT-L/14 reg4.")
    width = siglip.config.width + dino.config.width
    if width != file.width:
        raise ValueError(
            f"{file.name} reads features of {file.width} channels, but {siglip.name} ({siglip.config.width}) and "
            f"{dino.name} ({dino.config.width}) make {width}; choose SigLIP so400m/14-384 and DINOv2 ViT-L/14 reg4."
        )
    least = 21 if file.shallow else 2
    for one in (siglip, dino):
        if one.config.depth < least:
            raise ValueError(f"{one.name} has {one.config.depth} blocks, this RealCustom file reads {least} or more.")
    dtype, device = file.projector["projector_base.weight"].dtype, comfy.model_management.unet_offload_device()
    projector = Projector(file.width, file.out, file.shallow, comfy.ops.manual_cast, dtype=dtype, device=device)
    projector.load_state_dict(file.projector)
    return RealCustomModel(file, vision_encoder(siglip), vision_encoder(dino), _patcher(projector))


def unet_of(model: Any) -> UNetModel:
    """The UNet of a ModelPatcher.

    Raises:
        ValueError: it has none with cross-attention to text.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel) or not attention_places(unet):
        raise ValueError(
            f"RealCustom needs an SDXL model (or an SD 1.5 with a file made for it), got {type(model.model).__name__}; "
            "load an SDXL checkpoint. For FLUX.1 use DreamO."
        )
    return unet


def attention_places(unet: UNetModel) -> tuple[AttentionPlace, ...]:
    """The transformer blocks of a UNet that have a cross-attention, with how coarse each one's tokens are."""
    factors, factor = {}, 1
    for side, blocks in (("input", unet.input_blocks), ("middle", [unet.middle_block]), ("output", unet.output_blocks)):
        for at, block in enumerate(blocks):
            # A block is as coarse as what enters it: a Downsample stands alone, an Upsample ends its block.
            factors[side, at] = factor
            factor *= 2 ** sum(isinstance(layer, Downsample) for layer in block)
            factor //= 2 ** sum(isinstance(layer, Upsample) for layer in block)
    places = []
    for name, module in unet.named_modules():
        match = _PLACE.fullmatch(name)
        if match and isinstance(module, comfy.ldm.modules.attention.CrossAttention):
            side, at = match[2] or "middle", int(match[3] or 0)
            places.append(AttentionPlace((side, at, int(match[4])), name, factors[side, at], side == "middle"))
    return tuple(places)


def fitted(file: RealCustomFile, model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The file's to_k and to_v by the names of a model's cross-attentions.

    Raises:
        ValueError: the file was made for another model.
    """
    unet = unet_of(model)
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    suffix = ".to_k.weight"
    ours = {key.removesuffix(suffix): name.removesuffix(suffix) for key, name in names.items() if key.endswith(suffix)}
    found = {ours.get(path, path): pair for path, pair in file.vision.items()}
    modules = dict(unet.named_modules())
    expected = {place.name: modules[place.name].to_k.weight.shape[0] for place in attention_places(unet)}
    wrong = [name for name, width in expected.items() if name not in found or found[name][0].shape[0] != width]
    wrong += [name for name in found if name not in expected]
    if wrong:
        raise ValueError(
            f"{file.name} has keys and values for {len(found)} cross-attentions and does not fit this "
            f"{type(model.model).__name__} with {len(expected)} of them ({wrong[0]} is missing or of another size); "
            "take the file that was made for this kind of model. The released one is for SDXL."
        )
    return {name: found[name] for name in expected}


def _attention(q, k, v, heads, extra):
    attention = comfy.ldm.modules.attention.optimized_attention
    return attention(q, k, v, heads, attn_precision=extra.get("attn_precision"), transformer_options=extra)


def _exact_attention(q, k, v, heads):
    """PyTorch's: sage attention quantizes, and an indicator column would not survive that."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads)


def _facts(model: Any) -> ModelFacts:
    """What the core needs to know of the host's BaseModel around a UNet."""
    places = attention_places(model.diffusion_model)
    return ModelFacts(places, _attention, _exact_attention, model.model_sampling.percent_to_sigma)


_calc_cond_batch = make_calc_cond_batch_wrapper(_facts)


def with_subjects(model: Any, attention: Any, kept_bytes: int) -> Any:
    """A clone of the ModelPatcher that reads subjects from its conditioning.

    Args:
        attention: the VisionPatcher; the host loads it whenever it loads the model.
        kept_bytes: of keys and values that a run keeps, for the host's estimate.
    """
    attention = attention.clone()
    attention.model_options[_KEPT_BYTES] = kept_bytes
    model = with_wrapper(model, WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, outer_sample_wrapper)
    model = with_wrapper(model, WrappersMP.CALC_COND_BATCH, WRAPPER_KEY + "_realcustom", _calc_cond_batch)
    model = with_wrapper(model, WrappersMP.APPLY_MODEL, WRAPPER_KEY + "_realcustom", apply_model)
    model.set_additional_models(WRAPPER_KEY + "_realcustom", [attention])
    return model


def understands_subjects(model: Any) -> bool:
    """Whether `with_subjects` is on a ModelPatcher."""
    return bool(model.get_wrappers(WrappersMP.CALC_COND_BATCH, WRAPPER_KEY + "_realcustom"))


def _unprojected(clip: Any, text: str, values: dict) -> dict:
    """A conditioning's values with CLIP-G's pooled output as it is before its projection."""
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")
    return {**values, "pooled_output": pooled}


def _carrying(part: list, entry: RealCustomConditioning) -> list:
    cond, values = part
    held = {**values.get("model_conds", {}), REALCUSTOM_KEY: comfy.conds.CONDConstant(entry)}
    return [cond, {**values, "model_conds": held}]


def _check(subjects: Sequence[Subject], conditioning: list) -> None:
    if len(subjects) > MAX_SUBJECTS:
        raise ValueError(f"RealCustom takes up to {MAX_SUBJECTS} subjects, got {len(subjects)}.")
    if any(REALCUSTOM_KEY in values.get("model_conds", {}) for _, values in conditioning):
        raise ValueError(
            "This conditioning already carries subjects of another RealCustom Apply; chain all RealCustom Subject "
            "nodes in front of one."
        )


def attach_subjects(
    model: Any,
    positive: list,
    negative: list,
    realcustom: RealCustomModel,
    subjects: Sequence[Subject],
    clip: Any,
    text: str,
    settings: RealCustomSettings,
    black_negative: bool = True,
    path: str = RELEASED,
    unprojected: bool = False,
    negative_text: str | None = None,
) -> tuple[Any, list, list]:
    """The model, the positive and the negative conditioning with subjects; the originals are left alone.

    Subjects of strength 0 are left out; if there are no others, everything comes back as it was.

    Args:
        clip, text: what the positive conditioning was encoded with; parts of it that were not get no subjects.
        black_negative: the negative sees a black picture wherever a subject acts.
        path: of the pictures, see `picture.PICTURE_PATHS`.
        unprojected: CLIP-G's pooled output without its projection, as the released code has it.
        negative_text: what the negative was encoded from; needed for its pooled output.

    Raises:
        ValueError: no SDXL model, a word is not in the text, or the text is not the conditioning's.
    """
    _check(subjects, positive)
    unet_of(model)
    attention = realcustom.attention(model)
    acting = [(number, subject) for number, subject in enumerate(subjects, 1) if subject.strength > 0]
    if not acting:
        return model, positive, negative
    words = {number: tuple(word_positions(clip, text, word) for word in subject.words) for number, subject in acting}
    alike = [is_encoding_of(clip, cond, values, text) for cond, values in positive]
    if not any(alike):
        raise ValueError(
            "This text is not the prompt that the conditioning was encoded from, so target words cannot be found in "
            "it; give RealCustom Apply the same text and CLIP as the text encoder, and put it right behind that."
        )
    placed = tuple(
        PlacedSubject(
            number, realcustom.tokens(subject.picture, path), words[number], subject.gamma, subject.strength,
            subject.start_percent, subject.end_percent,
        )
        for number, subject in acting
    )  # fmt: skip
    black = realcustom.tokens(torch.zeros(1, 64, 64, 3), path) if black_negative else None
    regions = tuple(
        make_region(number, subject.mask, 0, False, False) for number, subject in acting if subject.mask is not None
    )

    def entry(is_negative: bool) -> RealCustomConditioning:
        return RealCustomConditioning(placed, len(subjects), black, is_negative, regions, settings, attention.model)

    if unprojected:
        positive = [
            [cond, _unprojected(clip, text, values)] if same else [cond, values]
            for (cond, values), same in zip(positive, alike, strict=True)
        ]
        if negative_text is None or not all(is_encoding_of(clip, *part, negative_text) for part in negative):
            raise ValueError(
                "The un-projected pooled text is for positive and negative alike, and the negative was not encoded "
                "from the negative text given here; connect that text."
            )
        negative = [[cond, _unprojected(clip, negative_text, values)] for cond, values in negative]
    with_entry = [_carrying(part, entry(False)) if same else part for part, same in zip(positive, alike, strict=True)]
    _check_placed(with_entry, placed)
    if black_negative:
        negative = [_carrying(part, entry(True)) for part in negative]
    pictures = [subject.tokens for subject in placed] + ([black] if black_negative else [])
    kept = 0 if settings.low_memory else _kept_bytes(pictures, attention.model, model.model_dtype())
    return with_subjects(model, attention, kept), with_entry, negative


def _check_placed(conditioning: list, placed: Sequence[PlacedSubject]) -> None:
    """Words must lie in what the model is given: the host cuts two encoders' tokens to the shorter."""
    for cond, values in conditioning:
        named = values.get("model_conds", {}).get(ROUTING_CONDITIONING_KEY)
        if named is not None:
            named.cond.check(max(subject.number for subject in placed))
        if REALCUSTOM_KEY in values.get("model_conds", {}):
            beyond = [at for subject in placed for word in subject.words for at in word if at >= cond.shape[1]]
            if beyond:
                raise ValueError(
                    f"A target word stands at token {beyond[0]} but the conditioning has {cond.shape[1]}; move it "
                    "forward in the prompt."
                )


def _kept_bytes(pictures: Sequence[torch.Tensor], attention: VisionAttention, dtype: torch.dtype) -> int:
    """What keys and values of these pictures take, kept for a run."""
    rows = sum(pair.to_k.weight.shape[0] + pair.to_v.weight.shape[0] for pair in attention.pairs)
    return sum(picture.shape[1] for picture in pictures) * rows * comfy.model_management.dtype_size(dtype)
