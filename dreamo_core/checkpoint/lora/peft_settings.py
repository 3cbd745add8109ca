"""What PEFT's settings add to a LoRA's tensors: alpha per layer, rank-stabilised scale, DoRA."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .collect import AlphaRule

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers puts the settings of a LoRA into the file's own header."""

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga")


def _peft():
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            "This LoRA comes with PEFT settings, and reading those needs the peft package: pip install 'peft>=0.17'."
        ) from error
    return peft


def read_config(path: Path) -> Any:
    """PEFT's own config object of an adapter_config.json.

    Raises:
        ValueError: unreadable, not a LoRA, or a LoRA that tensors alone cannot reproduce.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} beside the adapter cannot be read as JSON ({error}); save it again.") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path.name} beside the adapter is not a JSON object of settings; save it again.")
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"{path.name} describes a PEFT adapter of type {kind}; only LORA (with DoRA, rsLoRA) is read.")
    return _make_config(raw, path.name)


def read_metadata(text: str, source: str) -> Any | None:
    """PEFT's own config object of the settings that diffusers stores in a file's header; None if it has none for the
    transformer.

    Raises:
        ValueError: as `read_config`.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: {METADATA_KEY} in its header is not JSON ({error}); save it again.") from error
    prefix = "transformer."
    settings = {k.removeprefix(prefix): v for k, v in raw.items() if k.startswith(prefix)}
    return _make_config(settings, source) if settings else None


def _make_config(raw: dict[str, Any], source: str) -> Any:
    peft = _peft()
    try:
        # PEFT drops what its version does not know, with a warning, and refuses settings of the wrong kind.
        config = peft.LoraConfig.from_peft_type(**{**raw, "peft_type": "LORA"})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{source}: PEFT {peft.__version__} does not accept these settings: {error}") from error
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(_CHANGED_BASE):
        raise ValueError(
            f"{source}: this adapter was trained with init_lora_weights={start!r}, which changes the base weights too; "
            "convert it with PEFT's path_initial_model_for_weight_conversion first."
        )
    for option in ("use_qalora", "layer_replication", "target_parameters", "use_bdlora", "kasa_config"):
        if getattr(config, option, None):
            raise ValueError(f"{source}: {option} of PEFT is not supported; only LoRA, rsLoRA and DoRA are.")
    return config


def _by_pattern(pattern: dict[str, int], module: str, default: int) -> int:
    """The value PEFT itself would take for a module."""
    from peft.utils.other import get_pattern_key

    return pattern.get(get_pattern_key(pattern.keys(), module), default)


def alpha_rule(config: Any, source: str) -> AlphaRule:
    """How PEFT scales: α/r, or α/√r if rank-stabilised (arXiv 2312.03732), with rank and alpha patterns.

    Raises:
        ValueError: by the rule, where a tensor's rank is not the one in the settings.
    """

    def alpha(module: str, rank: int) -> float:
        name = module.removeprefix("base_model.model.").removeprefix("transformer.")
        expected = _by_pattern(config.rank_pattern, name, config.r)
        if rank != expected:
            raise ValueError(
                f"{source}: {module} has rank {rank} but the PEFT settings say {expected}; "
                "the weights and the settings are of two adapters."
            )
        value = _by_pattern(config.alpha_pattern, name, config.lora_alpha)
        return value * math.sqrt(rank) if config.use_rslora else float(value)

    return alpha
