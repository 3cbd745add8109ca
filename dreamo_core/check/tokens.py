"""Token ids of prompts with placeholders, by this ComfyUI's tokenizer, against those of the released pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import transformers

from ..text.tokens import add_placeholders
from .steps import Result, Skip

OFFICIAL = Path(__file__).with_name("official_token_ids.json")
TOKENIZER = Path("comfy") / "text_encoders" / "t5_tokenizer"
"""Below a ComfyUI folder."""


def compare_tokens(comfyui: Path) -> Result:
    """Every recorded prompt through transformers as installed here.

    Raises:
        Skip: the folder has no tokenizer.
    """
    folder = comfyui / TOKENIZER
    if not folder.is_dir():
        raise Skip(f"There is no {TOKENIZER.as_posix()} in the ComfyUI folder: it holds models only.")
    tokenizer = transformers.T5TokenizerFast.from_pretrained(folder, local_files_only=True)
    add_placeholders(tokenizer)
    result, prompts = Result(), json.loads(OFFICIAL.read_text(encoding="utf-8"))["prompts"]
    wrong = []
    for entry in prompts:
        ids = tokenizer(entry["prompt"])["input_ids"]
        if ids != entry["ids"]:
            wrong.append({"prompt": entry["prompt"], "released": str(entry["ids"]), "here": str(ids)})
    version = transformers.__version__
    result.facts = {"prompts": len(prompts), "different": len(wrong), "transformers": version}
    if wrong:
        result.fault(f"{len(wrong)} of {len(prompts)} prompts have other token ids (transformers {version}).")
        result.tables = {"": wrong}
    else:
        result.good(f"All {len(prompts)} prompts have the released token ids (transformers {version}).")
    return result
