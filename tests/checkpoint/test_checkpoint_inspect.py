"""`python -m dreamo_core.checkpoint inspect`: a readable table of what a file is, without ComfyUI."""

import os
import subprocess
import sys

import lora_samples
import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint import load_lora_file, write_peft_folder
from dreamo_routed.dreamo_core.checkpoint.__main__ import main
from lora_samples import Sample
from safetensors.torch import save_file
from support import REPO


def rows(text):
    return dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)


@pytest.fixture
def inspect(capsys):
    def run(path):
        code = main(["inspect", str(path)])
        out, err = capsys.readouterr()
        return code, {name: value.strip() for name, value in rows(out).items()}, err

    return run


def test_a_dreamo_file(inspect, tmp_path):
    tensors = lora_samples.xlabs(Sample(128, 4)).tensors
    for n in (1, 2, 4):
        tensors |= {key.replace("single_blocks_0", f"single_blocks_{n}"): t.clone() for key, t in tensors.items()}
    save_file({**tensors, **lora_samples.embeddings(128, 64), "stray": torch.ones(1)}, tmp_path / "dreamo.safetensors")
    code, table, _ = inspect(tmp_path / "dreamo.safetensors")
    assert code == 0
    assert table["LoRA format"] == "XLabs (24 keys)"
    assert table["rank"] == "4 (12 layers)"
    assert table["alpha"] == "none stored (scale 1)"
    assert table["dtype"] == "BF16 (27 tensors), F32 (1 tensors)"
    assert table["covers double img_attn.qkv"] == "1 blocks: 0"
    assert table["covers single linear1[qkv]"] == "4 blocks: 0-2, 4"
    assert table["task table"] == "2 × 128 BF16"
    assert table["placeholders (T5) table"] == "20 × 64 BF16; the last 10 rows are used"
    assert table["not used"] == "1 keys: stray"


def test_kohya_and_a_peft_folder(inspect, tmp_path):
    save_file(lora_samples.kohya(Sample(128, 4)).tensors, tmp_path / "kohya.safetensors")
    _, table, _ = inspect(tmp_path / "kohya.safetensors")
    assert table["LoRA format"] == "kohya (24 keys)" and table["alpha"] == "2 (8 layers)"
    assert table["index table"] == "none" and table["not used"] == "0 keys"
    write_peft_folder(tmp_path / "adapter", load_lora_file(tmp_path / "kohya.safetensors").lora.layers)
    _, table, _ = inspect(tmp_path / "adapter")
    assert table["LoRA format"].startswith("PEFT") and table["alpha"] == "from adapter_config.json beside it"


def test_a_bad_file_is_one_line_on_stderr(inspect, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04 and so on, long enough")
    code, table, err = inspect(tmp_path / "a.safetensors")
    assert code == 1 and not table
    assert err.startswith("error: a.safetensors cannot be used: it is a PyTorch pickle")


def test_it_runs_from_the_repository_without_comfyui(tmp_path):
    save_file(lora_samples.xlabs(Sample(128, 4)).tensors, tmp_path / "a.safetensors")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DREAMO_COMFYUI")}
    script = (
        "import runpy, sys; sys.argv[1:] = ['inspect', sys.argv[1]]\n"
        "try: runpy.run_module('dreamo_core.checkpoint', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('comfy', 'folder_paths', 'peft')]\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.safetensors")],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "XLabs" in result.stdout
