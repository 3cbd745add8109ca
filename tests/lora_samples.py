"""LoRA files for tests, with keys written out by hand: nothing here uses the pack's own tables of names."""

import torch

GENERATOR_SEED = 3


def matrices(rows: int, columns: int, rank: int, generator: torch.Generator, dtype=torch.bfloat16):
    """down (rank, columns) and up (rows, rank)."""
    down = torch.randn(rank, columns, generator=generator) / columns**0.5
    up = torch.randn(rows, rank, generator=generator) / rank**0.5
    return down.to(dtype), up.to(dtype)


def product(down: torch.Tensor, up: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """B · A · scale, by hand."""
    return (up.float() @ down.float()).mul_(scale)


class Sample:
    """Tensors of a file, and for each weight of the host's model the changes it must see on which rows."""

    def __init__(self, hidden: int = 3072, rank: int = 128, seed: int = GENERATOR_SEED):
        self.hidden, self.rank = hidden, rank
        self.tensors: dict[str, torch.Tensor] = {}
        self.expected: dict[str, list[tuple[int, torch.Tensor, torch.Tensor, float]]] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, layer, first_row, rows, columns, down_key, up_key, scale=1.0, alpha_key=None, rank=None):
        """One low-rank pair; sizes in multiples of the hidden size. With an alpha key, alpha = scale · rank."""
        rank = rank or self.rank
        down, up = matrices(rows * self.hidden, columns * self.hidden, rank, self.generator)
        self.tensors[down_key], self.tensors[up_key] = down, up
        if alpha_key is not None:
            self.tensors[alpha_key] = torch.tensor(scale * rank)
        self.expected.setdefault(f"diffusion_model.{layer}.weight", []).append(
            (first_row * self.hidden, down, up, scale)
        )

    def deltas(self):
        """Per weight: its changed rows, as (first row, dense change)."""
        for key, changes in self.expected.items():
            yield key, [(row, product(down, up, scale)) for row, down, up, scale in changes]


def xlabs(sample: Sample, pattern="lora_unet_{block}_processor_{name}", dotted=False) -> Sample:
    """DreamO's released layout; dotted: as XLabs itself writes it."""
    for kind, name, layer, rows, columns in (
        ("double", "qkv_lora1", "img_attn.qkv", 3, 1),
        ("double", "qkv_lora2", "txt_attn.qkv", 3, 1),
        ("double", "proj_lora1", "img_attn.proj", 1, 1),
        ("double", "proj_lora2", "txt_attn.proj", 1, 1),
        ("single", "qkv_lora", "linear1", 3, 1),
        ("single", "proj_lora", "linear2", 1, 5),
    ):
        block = f"{kind}_blocks.0" if dotted else f"{kind}_blocks_0"
        key = f"{block}.processor.{name}" if dotted else pattern.format(block=block, name=name)
        sample.add(f"{kind}_blocks.0.{layer}", 0, rows, columns, f"{key}.down.weight", f"{key}.up.weight")
    return sample


# diffusers' module, the host's layer, first row, rows and columns in multiples of the hidden size.
DIFFUSERS = (
    ("transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn.qkv", 0, 1, 1),
    ("transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn.qkv", 1, 1, 1),
    ("transformer_blocks.0.attn.to_v", "double_blocks.0.img_attn.qkv", 2, 1, 1),
    ("transformer_blocks.0.attn.add_q_proj", "double_blocks.0.txt_attn.qkv", 0, 1, 1),
    ("transformer_blocks.0.attn.add_k_proj", "double_blocks.0.txt_attn.qkv", 1, 1, 1),
    ("transformer_blocks.0.attn.add_v_proj", "double_blocks.0.txt_attn.qkv", 2, 1, 1),
    ("transformer_blocks.0.attn.to_out.0", "double_blocks.0.img_attn.proj", 0, 1, 1),
    ("transformer_blocks.0.attn.to_add_out", "double_blocks.0.txt_attn.proj", 0, 1, 1),
    ("transformer_blocks.0.ff.net.0.proj", "double_blocks.0.img_mlp.0", 0, 4, 1),
    ("transformer_blocks.0.ff.net.2", "double_blocks.0.img_mlp.2", 0, 1, 4),
    ("transformer_blocks.0.ff_context.net.0.proj", "double_blocks.0.txt_mlp.0", 0, 4, 1),
    ("transformer_blocks.0.ff_context.net.2", "double_blocks.0.txt_mlp.2", 0, 1, 4),
    ("transformer_blocks.0.norm1.linear", "double_blocks.0.img_mod.lin", 0, 6, 1),
    ("transformer_blocks.0.norm1_context.linear", "double_blocks.0.txt_mod.lin", 0, 6, 1),
    ("single_transformer_blocks.0.attn.to_q", "single_blocks.0.linear1", 0, 1, 1),
    ("single_transformer_blocks.0.attn.to_k", "single_blocks.0.linear1", 1, 1, 1),
    ("single_transformer_blocks.0.attn.to_v", "single_blocks.0.linear1", 2, 1, 1),
    ("single_transformer_blocks.0.proj_mlp", "single_blocks.0.linear1", 3, 4, 1),
    ("single_transformer_blocks.0.proj_out", "single_blocks.0.linear2", 0, 1, 5),
    ("single_transformer_blocks.0.norm.linear", "single_blocks.0.modulation.lin", 0, 3, 1),
)


ATTENTION = tuple(entry for entry in DIFFUSERS if ".attn." in entry[0] or "proj_out" in entry[0])


def diffusers(sample: Sample, prefix="transformer.", scale=1.0, modules=DIFFUSERS) -> Sample:
    for module, layer, first, rows, columns in modules:
        key = prefix + module
        sample.add(layer, first, rows, columns, f"{key}.lora_A.weight", f"{key}.lora_B.weight", scale)
    return sample


# The host's layer with rows and columns in multiples of the hidden size.
ORIGINAL = (
    ("double_blocks.0.img_attn.qkv", 3, 1),
    ("double_blocks.0.txt_attn.qkv", 3, 1),
    ("double_blocks.0.img_attn.proj", 1, 1),
    ("double_blocks.0.img_mlp.0", 4, 1),
    ("double_blocks.0.txt_mod.lin", 6, 1),
    ("single_blocks.0.linear1", 7, 1),
    ("single_blocks.0.linear2", 1, 5),
    ("single_blocks.0.modulation.lin", 3, 1),
)


ORIGINAL_ATTENTION = tuple(entry for entry in ORIGINAL if "attn" in entry[0] or "linear" in entry[0])


def original(sample: Sample, prefix="", tails=("lora_A", "lora_B"), layers=ORIGINAL) -> Sample:
    for layer, rows, columns in layers:
        key = prefix + layer
        sample.add(layer, 0, rows, columns, f"{key}.{tails[0]}.weight", f"{key}.{tails[1]}.weight")
    return sample


def comfyui_converted(sample: Sample) -> Sample:
    """ComfyUI's own layout of DreamO's files, with a name for the attention rows of linear1."""
    for layer, name, rows, columns in (
        ("double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.qkv", 3, 1),
        ("single_blocks.0.linear1", "single_blocks.0.linear1_qkv", 3, 1),
        ("single_blocks.0.linear2", "single_blocks.0.linear2", 1, 5),
    ):
        key = f"diffusion_model.{name}"
        sample.add(layer, 0, rows, columns, f"{key}.lora_down.weight", f"{key}.lora_up.weight")
    return sample


def kohya(sample: Sample, scale=0.5, layers=ORIGINAL) -> Sample:
    for layer, rows, columns in layers:
        key = "lora_unet_" + layer.replace(".", "_")
        down, up = f"{key}.lora_down.weight", f"{key}.lora_up.weight"
        sample.add(layer, 0, rows, columns, down, up, scale, alpha_key=f"{key}.alpha")
    return sample


def renamed(sample: Sample, replacements: dict[str, str], flat_prefix: str = "") -> Sample:
    """The same tensors under other spellings; with a flat prefix the module's dots become underscores."""

    def spell(key: str) -> str:
        for old, new in replacements.items():
            key = key.replace(old, new)
        if flat_prefix:
            module, tail = key.split(".lora_", 1)
            key = f"{flat_prefix}{module.replace('.', '_')}.lora_{tail}"
        return key

    sample.tensors = {spell(key): tensor for key, tensor in sample.tensors.items()}
    return sample


def embeddings(hidden: int = 3072, width: int = 4096, vocabulary: int = 20, seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"t5": (vocabulary, width), "task": (2, hidden), "idx": (10, hidden)}
    return {
        f"dreamo_{name}_embedding.weight": torch.randn(shape, generator=generator).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
