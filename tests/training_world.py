"""A world small enough to train in a test: random encoders, a random FLUX.1, pictures of coloured squares."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from dreamo_routed.dreamo_core.training import weight_map
from dreamo_routed.minidreamo.autoencoder import BlockAutoencoder
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

COMFY = Path(os.environ["DREAMO_COMFYUI"]) / "comfy"
FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 16, "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
T5 = {"vocab_size": 32128, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1,
      "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}  # fmt: skip
CLIP = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
        "eos_token_id": 49407, "pad_token_id": 49407}  # fmt: skip


def save_picture(path, size, seed, masked=False):
    rng = np.random.default_rng(seed)
    picture = np.full((size, size, 3), rng.integers(0, 255, 3), np.uint8)
    picture[8:24, 8:24] = rng.integers(0, 255, 3)
    if masked:
        picture = np.zeros((size, size, 3), np.uint8)
        picture[:16, : 16 * int(rng.integers(1, 3))] = 255
    Image.fromarray(picture).save(path)


def write_data(folder: Path, count: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for n in range(count):
        save_picture(folder / f"{n}.png", 32, n)
        references = []
        for r in range(1 + n % 2):
            save_picture(folder / f"{n}-{r}.png", 16, 100 * n + r)
            save_picture(folder / f"{n}-{r}m.png", 32, 100 * n + r, masked=True)
            # Some places are not known.
            references.append({"image": f"{n}-{r}.png", "mask": f"{n}-{r}m.png" if n % 3 else None})
        prompt = "a square from [ref#1]" + (" above a box from [ref#2]" if n % 2 else "")
        task = "pair" if n % 2 else "subject"
        lines.append(json.dumps({"target": f"{n}.png", "task": task, "prompt": prompt, "references": references}))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_flux(path: Path, config: dict, dtype: torch.dtype = torch.float32) -> None:
    """A random FLUX.1 in the host's layout."""
    with torch.no_grad():
        flux = FluxTransformer2DModel(**config).to(dtype)
    save_file(weight_map.to_host(flux.state_dict()), path, {"config": json.dumps(config)})


def write_base(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    write_flux(folder / "flux.safetensors", FLUX)
    t5, clip = T5EncoderModel(T5Config(**T5)), CLIPTextModel(CLIPTextConfig(**CLIP))
    state = {key: value for key, value in t5.state_dict().items() if "embed_tokens" not in key}
    save_file(state, folder / "t5.safetensors", {"config": json.dumps(T5)})
    save_file(clip.state_dict(), folder / "clip.safetensors", {"config": json.dumps(CLIP)})
    autoencoder = BlockAutoencoder()
    autoencoder.fit_linear(torch.rand(16, 3, 32, 32) * 2 - 1)
    save_file(autoencoder.state_dict(), folder / "autoencoder.safetensors")


STAGES = """
[[stages]]
name = "warm-up"
manifest = "data/train.jsonl"
steps = 4
batch = 4
learning_rate = 1e-3
mixture = { subject = 1 }
[[stages]]
name = "all"
manifest = "data/train.jsonl"
steps = 6
batch = 4
learning_rate = 1e-3
decay = 0.5
mixture = { subject = 1, pair = 2 }
reference_token_drop = 0.5
"""


def write_config(folder: Path, output: str, extra: str = "", stages: str = STAGES) -> Path:
    """A config in `folder`, which has `base/` and `data/`."""
    path = folder / f"{output}.toml"
    path.write_text(
        f"""
output = "{output}"
threads = 1
save_every = 2
log_every = 1
{extra}
[base]
transformer = "base/flux.safetensors"
autoencoder = "base/autoencoder.safetensors"
autoencoder_class = "minidreamo.autoencoder.BlockAutoencoder"
t5 = "base/t5.safetensors"
clip = "base/clip.safetensors"
t5_tokenizer = "{COMFY}/text_encoders/t5_tokenizer"
clip_tokenizer = "{COMFY}/sd1_tokenizer"
text_tokens = 24
dtype = "float32"
[model]
rank = 4
{stages}
"""
    )
    return path
