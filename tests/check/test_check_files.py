"""A user's folder of true shapes: what is in order is said to be, and every deliberate fault is found and named."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import user_folder
from safetensors.torch import load_file, save_file
from user_folder import write_sparse

from dreamo_core.check import kinds
from dreamo_core.check.__main__ import main
from dreamo_core.check.files import model_files, model_folders
from dreamo_core.check.kinds import recognize
from dreamo_core.check.tokens import compare_tokens
from dreamo_core.checkpoint.safetensors import open_safetensors

NOBODY = "http://127.0.0.1:9"
"""A port that no server has."""

HOST = Path(os.environ["DREAMO_COMFYUI"])


@pytest.fixture
def comfyui(tmp_path):
    return user_folder.write_whole_folder(tmp_path / "home" / "ComfyUI")


def check(comfyui, out, *more):
    """The report of a check without a server, and what the command gave back."""
    code = main([str(comfyui), "--out", str(out), "--server", NOBODY, "--graphs", "--small-only", *more])
    return json.loads((out / "report.json").read_text()), code


def of_files(report):
    """Faults that are about files: all but those of the server, which is not there."""
    return [fault for fault in report["faults"] if not fault.startswith(("Server: ", "dreamo_"))]


def test_a_folder_in_order_has_no_fault_and_every_key_is_accounted_for(comfyui, tmp_path):
    report, code = check(comfyui, tmp_path / "out", "--no-hash")
    assert of_files(report) == [] and code == 1 and "There is no answer from" in report["faults"][0]
    dreamo = report["steps"]["file dreamo/dreamo.safetensors"]["facts"]
    assert dreamo["kind"] == kinds.DREAMO and dreamo["usable"] and dreamo["unused"] == 0
    assert (dreamo["ranks"], dreamo["layers"], dreamo["formats"]) == ([128], 152, ["XLabs"])
    assert dreamo["keys"] == len(user_folder.xlabs()) + 3 and dreamo["t5_rows"] == [10, 4096]
    present = report["steps"]["survey"]["facts"]["present"]
    assert set(present) == {"flux", "t5", "clip_l", "vae", "dreamo", "cfg_distill", "sft", "dpo", "turbo"}
    assert present["flux"] == ["diffusion_models/FLUX/flux1-dev.safetensors"]
    assert "rank 128" in (tmp_path / "out" / "report.html").read_text()


def rewrite(path, shapes, dtype="BF16"):
    path.unlink()
    write_sparse(path, shapes, dtype)


def half(path):
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(size // 2)


def changed(path, content):
    path.unlink()
    path.write_bytes(content)


def nan_in_tables(path):
    path.unlink()
    small = path.with_name("small.safetensors")
    write_sparse(small, {**user_folder.xlabs(rank=2, double=1, single=1, h=8), **user_folder.tables(12, 8, 8)}, "F32")
    tensors = load_file(small)
    tensors["dreamo_idx_embedding.weight"][3, 2] = float("nan")
    small.unlink()
    save_file(tensors, path)


DREAMO, LORAS = "models/dreamo/dreamo.safetensors", "models/loras/dreamo_v1.1"
FLUX, T5 = "models/diffusion_models/FLUX/flux1-dev.safetensors", "models/text_encoders/t5xxl_fp16.safetensors"

FAULTS = {
    "missing": (f"{LORAS}/dreamo_dpo_lora.safetensors", Path.unlink, r"dpo is missing .*needed for preset v1.1"),
    "truncated": (
        "models/dreamo/dreamo_cfg_distill.safetensors", half,
        r"dreamo_cfg_distill.safetensors cannot be used: it is truncated: \d+ bytes",
    ),
    "a web page": ("models/vae/ae.safetensors", lambda p: changed(p, b"<html>login"), r"ae.safetensors.*a web page"),
    "a pickle": (DREAMO, lambda p: changed(p, b"PK\x03\x04\0\0\x08\x08" + b"\0" * 64), r"dreamo.safetensors.*pickle"),
    "a pointer": (
        f"{LORAS}/dreamo_sft_lora.safetensors", lambda p: changed(p, b"version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS pointer",
    ),
    "another model's LoRA": (
        f"{LORAS}/dreamo_sft_lora.safetensors", lambda p: rewrite(p, user_folder.sdxl_lora()),
        r"dreamo_sft_lora.safetensors: it holds another kind of file .*expected FLUX.1 LoRA: a wrong or renamed file",
    ),
    "a companion under another's name": (
        f"{LORAS}/dreamo_sft_lora.safetensors", lambda p: rewrite(p, user_folder.xlabs(rank=2)),
        r"dreamo_sft_lora.safetensors: it holds FLUX.1 LoRA with XLabs keys",
    ),
    "the main file under another name": (
        DREAMO, lambda p: p.rename(p.with_name("my_dreamo_final.safetensors")),
        r"dreamo is missing.*dreamo/my_dreamo_final.safetensors holds the same kind.*rename it to dreamo.safetensors",
    ),
    "a block is missing": (
        DREAMO, lambda p: rewrite(p, {**user_folder.xlabs(rank=128, double=2, single=1), **user_folder.tables()}),
        "it covers 2 double and 1 single blocks, released 19 and 38",
    ),
    "another rank": (
        DREAMO, lambda p: rewrite(p, {**user_folder.xlabs(rank=2), **user_folder.tables()}), "rank 2, released 128"
    ),
    "T5 rows of another width": (
        DREAMO, lambda p: rewrite(p, {**user_folder.xlabs(rank=2), **user_folder.tables(width=2048)}),
        "the T5 rows are .32110, 2048.",
    ),
    "keys that nothing reads": (
        f"{LORAS}/dreamo_dpo_lora.safetensors",
        lambda p: rewrite(p, {**user_folder.diffusers(rank=2, double=1, single=1), "something.else.weight": (2, 2)}),
        r"1 key not used: 1 of no known kind .something.else.weight.",
    ),
    "a lone half of a pair": (
        f"{LORAS}/dreamo_dpo_lora.safetensors",
        lambda p: rewrite(p, dict(list(user_folder.diffusers(rank=2, double=1, single=1).items())[:-1])),
        "1 LoRA keys have no partner",
    ),
    "NaN": (DREAMO, nan_in_tables, "dreamo_idx_embedding.weight holds NaN"),
    "schnell": (FLUX, lambda p: rewrite(p, user_folder.flux(guidance=False)), "no guidance embedding: FLUX.1-schnell"),
    "fill": (FLUX, lambda p: rewrite(p, user_folder.flux(channels=384)), "img_in takes 384 channels: FLUX.1 Fill"),
    "a part of FLUX": (FLUX, lambda p: rewrite(p, user_folder.flux(single=37)), "19 double and 37 single blocks"),
    "T5 base": (T5, lambda p: rewrite(p, user_folder.t5(12, 768, 2048)), "width 768 and 12 blocks; T5-XXL has 4096"),
    "CLIP-G": (
        "models/text_encoders/clip_l.safetensors", lambda p: rewrite(p, user_folder.clip_l(1280, 32)), "another CLIP"
    ),
    "another model's VAE": (
        "models/vae/ae.safetensors", lambda p: rewrite(p, user_folder.vae(4)), "4 latent channels: the VAE of another"
    ),
    "a wrong folder": (
        "models/loras/flux-turbo.safetensors",
        lambda p: (p.parent.parent / "checkpoints").mkdir() or p.rename(p.parent.parent / "checkpoints" / p.name),
        "checkpoints/flux-turbo.safetensors lies where it is not looked for; move it to models/dreamo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_and_named(name, comfyui, tmp_path):
    place, spoil, said = FAULTS[name]
    # The other large file costs time and says nothing here.
    for path in (comfyui / DREAMO,):
        if place != DREAMO:
            rewrite(path, {**user_folder.xlabs(rank=128, double=1, single=1), **user_folder.tables(rows=12)})
    spoil(comfyui / place)
    report, code = check(comfyui, tmp_path / "out", "--no-hash")
    faults = "\n".join(report["faults"])
    assert code == 1 and re.search(said, faults), faults
    # What is missing or broken costs nothing else: the other files are read all the same.
    assert len(report["steps"]["survey"]["facts"]["present"]) >= 7


def test_all_faults_at_once_are_all_named(comfyui, tmp_path):
    together = ("missing", "truncated", "a web page", "another model's LoRA", "T5 base", "schnell", "another rank")
    for name in together:
        FAULTS[name][1](comfyui / FAULTS[name][0])
    report, _ = check(comfyui, tmp_path / "out", "--no-hash")
    faults = "\n".join(report["faults"])
    for name in together:
        assert re.search(FAULTS[name][2], faults), (name, faults)


def test_one_file_under_two_names_is_found_by_its_hash(comfyui, tmp_path):
    for large in (FLUX, T5, DREAMO):
        (comfyui / large).unlink()
    loras = comfyui / LORAS
    (loras / "dreamo_dpo_lora.safetensors").unlink()
    shutil.copy(loras / "dreamo_sft_lora.safetensors", loras / "dreamo_dpo_lora.safetensors")
    (comfyui / "models" / "loras" / "flux-turbo.safetensors").unlink()
    report, _ = check(comfyui, tmp_path / "out")
    (fault,) = [fault for fault in report["faults"] if "the same file" in fault]
    assert "dreamo_dpo_lora" in fault and "dreamo_sft_lora" in fault
    import hashlib

    digest = hashlib.sha256((loras / "dreamo_sft_lora.safetensors").read_bytes()).hexdigest()
    place = "loras/dreamo_v1.1/dreamo_sft_lora.safetensors"
    assert report["steps"][f"hash {place}"]["facts"]["sha256"] == digest


def test_the_report_has_no_path_of_this_computer(comfyui, tmp_path):
    (comfyui / "models" / "vae" / "ae.safetensors").write_bytes(b"<html>")
    check(comfyui, tmp_path / "out", "--no-hash")
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert str(tmp_path) not in text and str(Path.home()) + "/" not in text, file


def test_a_second_run_reads_what_is_done_and_sees_what_changed(comfyui, tmp_path):
    rewrite(comfyui / DREAMO, {**user_folder.xlabs(rank=128, double=1, single=1), **user_folder.tables(rows=12)})
    out = tmp_path / "out"
    check(comfyui, out, "--no-hash")
    steps = {path.name: path.stat().st_mtime_ns for path in (out / "steps").glob("file_*.json")}
    (comfyui / "models" / "vae" / "ae.safetensors").write_bytes(b"<html>")
    report, _ = check(comfyui, out, "--no-hash")
    again = {path.name: path.stat().st_mtime_ns for path in (out / "steps").glob("file_*.json")}
    assert {name for name in steps if again[name] != steps[name]} == {"file_vae_ae.safetensors.json"}
    assert any("a web page" in fault for fault in report["faults"])


def test_folders_of_extra_model_paths_are_searched_and_loops_end(comfyui, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_sparse(elsewhere / "flux_loras" / "dreamo_quality_lora_pos.safetensors", user_folder.xlabs(2, 1, 1))
    (comfyui / "extra_model_paths.yaml").write_text(
        f"mine:\n  base_path: {elsewhere}\n  is_default: true\n  loras: |\n    flux_loras\n    nothing_here\n"
    )
    (comfyui / "models" / "loras" / "loop").symlink_to(comfyui / "models")
    folders = model_folders(comfyui, [])
    names = [path.name for path in model_files(folders)]
    assert "dreamo_quality_lora_pos.safetensors" in names and len(names) == len(set(names)) == 10
    (comfyui / "extra_model_paths.yaml").write_text("mine: [")
    with pytest.raises(ValueError, match="extra_model_paths.yaml cannot be read"):
        model_folders(comfyui, [])


def test_a_folder_that_is_no_comfyui_is_one_clear_error(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has no folder models" in capsys.readouterr().err


def test_checkpoints_with_prefixes_are_recognized(tmp_path):
    inside = {f"model.diffusion_model.{name}": shape for name, shape in user_folder.flux().items()}
    path = write_sparse(tmp_path / "flux1-dev-fp8.safetensors", inside, "F8_E4M3")
    with open_safetensors(path) as file:
        assert recognize(file.infos).name == kinds.FLUX and not recognize(file.infos).problems
    with open_safetensors(write_sparse(tmp_path / "other.safetensors", {"x.weight": (2, 2)})) as file:
        assert recognize(file.infos).notes == ("its first tensors are x.weight",)
    with open_safetensors(write_sparse(tmp_path / "e.safetensors", user_folder.embedding())) as file:
        assert recognize(file.infos) == kinds.Kind(kinds.TABLES)


def test_token_ids_are_those_of_the_release_and_a_difference_is_shown(tmp_path, monkeypatch):
    result = compare_tokens(HOST)
    assert result.facts["different"] == 0 and result.findings[0][1].startswith("All 9 prompts")
    recorded = tmp_path / "ids.json"
    recorded.write_text(json.dumps({"prompts": [{"prompt": "a dog", "ids": [3, 9, 1782, 2, 1]}]}))
    monkeypatch.setattr("dreamo_core.check.tokens.OFFICIAL", recorded)
    other = compare_tokens(HOST)
    assert other.facts["different"] == 1 and other.tables[""][0]["here"] == "[3, 9, 1782, 1]"
