"""A ComfyUI folder as a user has it: model files of the released names, keys and shapes, sparse, so nearly free."""

import json
import math
from pathlib import Path

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1}

Shapes = dict[str, tuple[int, ...]]


def write_sparse(path: Path, shapes: Shapes, dtype="BF16", metadata=None) -> Path:
    """A complete safetensors file of zeros that takes a few kilobytes of the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def flux(double=19, single=38, hidden=3072, guidance=True, channels=64) -> Shapes:
    """FLUX.1-dev by its original names."""
    h, linear = hidden, {}
    for name in ("time_in", "vector_in", *(["guidance_in"] if guidance else [])):
        linear |= {f"{name}.in_layer": (h, 768 if name == "vector_in" else 256), f"{name}.out_layer": (h, h)}
    linear |= {"img_in": (h, channels), "txt_in": (h, 4096), "final_layer.linear": (64, h)}
    linear["final_layer.adaLN_modulation.1"] = (2 * h, h)
    shapes: Shapes = {}
    for n in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{n}.{stream}"
            linear |= {f"{block}_mod.lin": (6 * h, h), f"{block}_attn.qkv": (3 * h, h), f"{block}_attn.proj": (h, h)}
            linear |= {f"{block}_mlp.0": (4 * h, h), f"{block}_mlp.2": (h, 4 * h)}
            shapes |= {f"{block}_attn.norm.{part}_norm.scale": (128,) for part in ("query", "key")}
    for n in range(single):
        block = f"single_blocks.{n}"
        linear |= {
            f"{block}.linear1": (7 * h, h),
            f"{block}.linear2": (h, 5 * h),
            f"{block}.modulation.lin": (3 * h, h),
        }
        shapes |= {f"{block}.norm.{part}_norm.scale": (128,) for part in ("query", "key")}
    for name, (rows, columns) in linear.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return shapes


def t5(blocks=24, width=4096, inner=10240) -> Shapes:
    shapes: Shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    for n in range(blocks):
        attention, dense = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{part}.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{dense}.DenseReluDense.wi_{m}.weight": (inner, width) for m in (0, 1)}
        shapes |= {f"{dense}.DenseReluDense.wo.weight": (width, inner)}
        shapes |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, dense)}
    return shapes


def clip_l(width=768, layers=12) -> Shapes:
    shapes: Shapes = {"text_model.embeddings.token_embedding.weight": (49408, width)}
    for n in range(layers):
        layer = f"text_model.encoder.layers.{n}"
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (width, width) for part in ("q", "k", "v", "out")}
        shapes |= {f"{layer}.mlp.fc1.weight": (4 * width, width), f"{layer}.mlp.fc2.weight": (width, 4 * width)}
    return shapes


def vae(channels=16) -> Shapes:
    return {
        "encoder.conv_in.weight": (128, 3, 3, 3), "encoder.conv_out.weight": (2 * channels, 512, 3, 3),
        "decoder.conv_in.weight": (512, channels, 3, 3), "decoder.conv_out.weight": (3, 128, 3, 3),
    }  # fmt: skip


def pair(name: str, rows: int, columns: int, rank: int, tails=("down", "up")) -> Shapes:
    return {f"{name}.{tails[0]}.weight": (rank, columns), f"{name}.{tails[1]}.weight": (rows, rank)}


def xlabs(rank=128, double=19, single=38, h=3072) -> Shapes:
    """The layout of dreamo.safetensors and its first companions."""
    shapes: Shapes = {}
    for n in range(double):
        block = f"lora_unet_double_blocks_{n}_processor"
        for stream in (1, 2):
            shapes |= pair(f"{block}_qkv_lora{stream}", 3 * h, h, rank) | pair(f"{block}_proj_lora{stream}", h, h, rank)
    for n in range(single):
        block = f"lora_unet_single_blocks_{n}_processor"
        shapes |= pair(f"{block}_qkv_lora", 3 * h, h, rank) | pair(f"{block}_proj_lora", h, 5 * h, rank)
    return shapes


def diffusers(rank=16, double=19, single=38, h=3072) -> Shapes:
    """The layout of the companions of v1.1 and of the turbo LoRA."""
    shapes, tails = {}, ("lora_A", "lora_B")
    for n in range(double):
        for part in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            shapes |= pair(f"transformer.transformer_blocks.{n}.attn.{part}", h, h, rank, tails)
    for n in range(single):
        for part in ("to_q", "to_k", "to_v"):
            shapes |= pair(f"transformer.single_transformer_blocks.{n}.attn.{part}", h, h, rank, tails)
    return shapes


def tables(rows=32110, width=4096, h=3072) -> Shapes:
    return {
        "dreamo_t5_embedding.weight": (rows, width),
        "dreamo_task_embedding.weight": (2, h),
        "dreamo_idx_embedding.weight": (10, h),
    }


def embedding() -> Shapes:
    return {name: shape for name, shape in tables().items() if "t5" not in name}


def sdxl_lora() -> Shapes:
    return pair("lora_unet_down_blocks_1_attentions_0_proj_in", 640, 640, 8, ("lora_down", "lora_up"))


def write_whole_folder(comfyui: Path) -> Path:
    """Everything that preset v1.1 with turbo needs, in sub-folders as people have them."""
    models = comfyui / "models"
    write_sparse(models / "diffusion_models" / "FLUX" / "flux1-dev.safetensors", flux())
    write_sparse(models / "text_encoders" / "t5xxl_fp16.safetensors", t5(), "F16")
    write_sparse(models / "text_encoders" / "clip_l.safetensors", clip_l(), "F16")
    write_sparse(models / "vae" / "ae.safetensors", vae(), "F32")
    write_sparse(models / "dreamo" / "dreamo.safetensors", {**xlabs(), **tables()}, metadata={"format": "pt"})
    write_sparse(models / "dreamo" / "dreamo_cfg_distill.safetensors", xlabs(rank=4))
    write_sparse(models / "loras" / "dreamo_v1.1" / "dreamo_sft_lora.safetensors", diffusers())
    write_sparse(models / "loras" / "dreamo_v1.1" / "dreamo_dpo_lora.safetensors", diffusers(rank=8))
    write_sparse(models / "loras" / "flux-turbo.safetensors", diffusers(rank=4), metadata={"format": "pt"})
    return comfyui
