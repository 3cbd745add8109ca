"""Peak memory of loading a full-size DreamO file (19 + 38 blocks, rank 128, bf16), beside safetensors' plain load_file.

    python3 scripts/host.py exec benchmarks/lora_memory.py

Each way runs in a process of its own; the peak counts pages of the mapped file too (VmHWM on Linux), above what the
process holds after its imports. The bound of the loader is the file's size plus 10 %.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent
HIDDEN, RANK, DOUBLE, SINGLE, T5_WIDTH = 3072, 128, 19, 38, 4096
WHOLE_VOCABULARY = 32138


def write_full_size(path: Path, t5_rows: int) -> None:
    """The released layout at full size with random values."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def add(key: str, rows: int, columns: int) -> None:
        tensors[f"{key}.down.weight"] = torch.randn(RANK, columns, generator=generator).bfloat16()
        tensors[f"{key}.up.weight"] = torch.randn(rows, RANK, generator=generator).bfloat16()

    for n in range(DOUBLE):
        for stream in (1, 2):
            add(f"lora_unet_double_blocks_{n}_processor_qkv_lora{stream}", 3 * HIDDEN, HIDDEN)
            add(f"lora_unet_double_blocks_{n}_processor_proj_lora{stream}", HIDDEN, HIDDEN)
    for n in range(SINGLE):
        add(f"lora_unet_single_blocks_{n}_processor_qkv_lora", 3 * HIDDEN, HIDDEN)
        add(f"lora_unet_single_blocks_{n}_processor_proj_lora", HIDDEN, 5 * HIDDEN)
    for name, shape in (("t5", (t5_rows, T5_WIDTH)), ("task", (2, HIDDEN)), ("idx", (10, HIDDEN))):
        tensors[f"dreamo_{name}_embedding.weight"] = torch.randn(shape, generator=generator).bfloat16()
    save_file(tensors, path)


def status(field: str) -> int:
    """A size of this process in bytes, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status; this benchmark needs Linux")


def measure(way: str, path: Path) -> None:
    """Load in this process and print peak above the start, and seconds."""
    sys.path.insert(0, str(REPO))
    if way == "load_file":
        from safetensors.torch import load_file as load
    else:
        from dreamo_core.checkpoint import load_dreamo_model as load
    start, began = status("VmRSS"), time.perf_counter()
    loaded = load(path)
    seconds = time.perf_counter() - began
    values = (
        loaded.values()
        if isinstance(loaded, dict)
        else [t for x in loaded.lora.layers.values() for t in (x.down, x.up)]
    )
    # Whoever patches reads every value once; a mapped file shows its cost only then.
    for value in values:
        value.view(torch.int16).max()
    print(status("VmHWM") - start, seconds)


def main() -> None:
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for label, rows in (("placeholder rows alone", 10), ("whole T5 vocabulary", WHOLE_VOCABULARY)):
            path = Path(folder) / "dreamo.safetensors"
            write_full_size(path, rows)
            size = path.stat().st_size
            print(f"{label}: file {size / 2**20:.0f} MiB")
            peaks = {}
            for way in ("load_file", "load_dreamo_model"):
                out = subprocess.run(
                    [sys.executable, __file__, way, str(path)], capture_output=True, text=True, check=True
                )
                peak, seconds = out.stdout.split()
                peaks[way] = int(peak)
                relative = f"{int(peak) / 2**20:6.0f} MiB = {int(peak) / size:.3f} × file"
                print(f"  {way:<18} peak {relative}, {float(seconds):.1f} s")
            ratio = peaks["load_dreamo_model"] / peaks["load_file"]
            held = peaks["load_dreamo_model"] <= 1.1 * size
            print(f"  ours / load_file: {ratio:.3f}; at most 1.10 × file: {'yes' if held else 'NO'}")


if __name__ == "__main__":
    main()
