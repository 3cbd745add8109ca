"""Finding the model files of a ComfyUI folder, and saying what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from ..checkpoint.describe import description, unused_message
from ..checkpoint.download import sha256_of
from ..checkpoint.presets import FILES, PRESETS, TURBO
from ..checkpoint.read import load_dreamo_model, load_lora_file
from ..checkpoint.safetensors import open_safetensors
from . import kinds
from .kinds import Kind, recognize
from .steps import Result, Results, Skip

SUFFIXES = (".safetensors", ".sft")
OTHER_SUFFIXES = (".gguf", ".pth", ".pt", ".bin", ".ckpt")
"""Listed by name if they look like one of ours; not opened."""


@dataclass(frozen=True)
class Role:
    """A file that is needed, or worth checking if it is there.

    Attributes:
        id: short name.
        names: under which it is looked for, the released one first.
        kinds: what it may hold.
        folders: of models where it is found by loaders.
        needed: for what, in words; empty if it is optional.
    """

    id: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    folders: tuple[str, ...]
    needed: str = ""


_LORAS = ("dreamo", "loras")
_BASE = (
    Role("flux", ("flux1-dev.safetensors", "flux1-dev.sft", "flux1-dev-fp8.safetensors"), (kinds.FLUX,),
         ("diffusion_models", "unet"), "everything"),
    Role("clip_l", ("clip_l.safetensors",), (kinds.CLIP_L,), ("text_encoders", "clip"), "everything"),
    Role("t5", ("t5xxl_fp16.safetensors", "t5xxl_fp8_e4m3fn.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors"),
         (kinds.T5,), ("text_encoders", "clip"), "everything"),
    Role("vae", ("ae.safetensors", "ae.sft"), (kinds.VAE,), ("vae",), "everything"),
)  # fmt: skip
_KINDS = {
    "dreamo": (kinds.DREAMO, kinds.XLABS_LORA, kinds.OTHER_LORA),
    "cfg_distill": (kinds.XLABS_LORA, kinds.OTHER_LORA),
    "quality_pos": (kinds.XLABS_LORA, kinds.OTHER_LORA),
    "quality_neg": (kinds.XLABS_LORA, kinds.OTHER_LORA),
    "sft": (kinds.OTHER_LORA,),
    "dpo": (kinds.OTHER_LORA,),
    TURBO: (kinds.OTHER_LORA,),
    "embedding": (kinds.TABLES,),
}
_NEEDED = {"sft": "preset v1.1", "dpo": "preset v1.1", TURBO: "12 steps; without it 25 or more"}
ROLES = (
    *_BASE,
    *(
        Role(
            id_, (file.name, *file.also), _KINDS[id_], _LORAS,
            _NEEDED.get(id_, "every preset" if id_ in PRESETS["v1.1"] else ""),
        )
        for id_, file in FILES.items()
    ),
    Role("uso", ("uso-flux1-dit-lora-v1.safetensors",), (kinds.XLABS_LORA,), _LORAS),
    Role("uno", ("dit_lora.safetensors",), (kinds.XLABS_LORA,), _LORAS),
)  # fmt: skip


def _extra_folders(comfyui: Path) -> list[Path]:
    """Folders that the user's extra_model_paths.yaml names."""
    path = comfyui / "extra_model_paths.yaml"
    if not path.is_file():
        return []
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"extra_model_paths.yaml cannot be read: {error}") from error
    found = []
    for section in listed.values():
        base = Path(os.path.expandvars(os.path.expanduser(section.get("base_path") or "")))
        for key, value in section.items():
            if key != "base_path" and isinstance(value, str):
                found += [comfyui / base / line.strip() for line in value.splitlines() if line.strip()]
    return found


def model_folders(comfyui: Path, more: Iterable[Path]) -> list[Path]:
    """Folders with models, without those that lie inside another one of them.

    Raises:
        ValueError: this is no ComfyUI folder.
    """
    if not (comfyui / "models").is_dir():
        raise ValueError(f"{comfyui} has no folder models; give the folder that ComfyUI's main.py and models lie in.")
    found: list[Path] = []
    for folder in (comfyui / "models", *_extra_folders(comfyui), *more):
        folder = folder.resolve()
        if folder.is_dir() and not any(folder.is_relative_to(other) for other in found):
            found.append(folder)
    return found


def model_files(folders: Iterable[Path]) -> list[Path]:
    """Files of these folders that may be models; links are followed, each folder once."""
    found, seen = [], set()
    for top in folders:
        for folder, below, names in os.walk(top, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            found += [Path(folder) / n for n in names if Path(n).suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES)]
    return sorted(found)


def shown(path: Path, folders: Sequence[Path]) -> str:
    """A file below its folder of models: `loras/flux/x.safetensors`."""
    for folder in folders:
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name


def stamp(path: Path) -> list[int]:
    """Changes when the file does."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def find_role(name: str) -> Role | None:
    """The role of a file by its name, as the loaders find it: whatever the case of its letters."""
    return next((role for role in ROLES if name.lower() in (known.lower() for known in role.names)), None)


def inspect_file(path: Path, place: str) -> Result:
    """Header, keys and kind of one file; with DreamO's files and LoRAs, every key through our own loaders."""
    result, role = Result(), find_role(path.name)
    result.facts = {"place": place, "role": role.id if role else None, "bytes": path.stat().st_size, "usable": False}
    with open_safetensors(path) as file:
        kind, keys, metadata = recognize(file.infos), len(file.infos), dict(file.metadata)
    result.facts |= {"kind": kind.name, "keys": keys, "metadata": sorted(metadata)}
    rows = [*description(path)] if kind.name in (kinds.DREAMO, kinds.TABLES, kinds.XLABS_LORA, kinds.OTHER_LORA) else []
    rows += [("metadata", ", ".join(sorted(metadata)) or "none")]
    result.details = f"{place}: {kind.name}\n" + "\n".join(f"  {name}: {value}" for name, value in rows)
    problems = list(kind.problems)
    if role is not None and kind.name not in role.kinds:
        problems.append(f"it holds {_what(kind)}, expected {' or '.join(role.kinds)}: a wrong or renamed file")
    if kind.name in (kinds.DREAMO, kinds.TABLES, kinds.XLABS_LORA, kinds.OTHER_LORA):
        problems += _loaded(path, kind, result)
    for problem in problems:
        # A file that nothing here looks for may be whatever its owner likes.
        (result.note if role is None else result.fault)(f"{problem}.")
    result.facts["usable"] = not problems
    if not problems:
        result.good(f"{kind.name}, {keys} tensors" + "".join(f"; {note}" for note in kind.notes))
    return result


def _what(kind: Kind) -> str:
    return f"{kind.name} ({'; '.join(kind.notes)})" if kind.notes else kind.name


def _loaded(path: Path, kind: Kind, result: Result) -> list[str]:
    """Read by our own loader: every key must be used or be DreamO's tables."""
    if kind.name in (kinds.DREAMO, kinds.TABLES):
        model = load_dreamo_model(path)
        lora, unused = model.lora, model.unused
        rows = model.embeddings.placeholders
        result.facts["t5_rows"] = None if rows is None else list(rows.shape)
    else:
        file = load_lora_file(path)
        lora, unused = file.lora, file.unused
    if lora is not None:
        result.facts |= {"layers": len(lora.layers), "ranks": sorted(lora.ranks), "formats": sorted(lora.formats)}
    result.facts["unused"] = len(unused)
    return [unused_message(path.name, unused).removesuffix(".")] if unused else []


def hash_file(path: Path, place: str) -> Result:
    """SHA-256 and size, compared with the manifest where that knows them."""
    result = Result()
    with tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"hash {path.name}"[:40], leave=False) as bar:
        digest = sha256_of(path, bar.update)
    result.facts = {"place": place, "sha256": digest, "bytes": path.stat().st_size}
    role = find_role(path.name)
    known = FILES.get(role.id) if role else None
    if known is not None and known.sha256 is not None:
        if digest == known.sha256:
            result.good("the released file, by its SHA-256.")
        else:
            result.fault(f"SHA-256 {digest} is not that of the released file, {known.sha256}.")
    return result


def _facts_of(path: Path, place: str, results: Results) -> dict[str, Any]:
    """What was found of a file; of one that could not be read, what its name says."""
    role = find_role(path.name)
    unread = {"place": place, "role": role.id if role else None, "bytes": path.stat().st_size}
    return {**unread, "kind": "unreadable", "usable": False, **results[f"file {place}"].facts}


def survey(paths: Sequence[Path], folders: Sequence[Path], results: Results) -> Result:
    """All files together: what is missing, renamed, doubled, or lies where no loader looks."""
    result = Result()
    facts = {path: _facts_of(path, shown(path, folders), results) for path in paths if path.suffix.lower() in SUFFIXES}
    present: dict[str, list[str]] = {}
    for path in paths:
        role = find_role(path.name)
        if role is not None and path in facts and facts[path]["usable"]:
            place = shown(path, folders)
            present.setdefault(role.id, []).append(place)
            if folders and path.is_relative_to(folders[0]) and not set(role.folders) & set(Path(place).parts[:-1]):
                result.fault(f"{place} lies where it is not looked for; move it to models/{role.folders[0]}.")
    _missing(result, present, facts, folders)
    _doubled(result, results)
    for path in paths:
        ours = any(word in path.name.lower() for word in ("flux", "dreamo", "t5"))
        if ours and path.suffix.lower() in OTHER_SUFFIXES:
            result.note(f"{shown(path, folders)} is not safetensors and was not opened.")
    result.facts = {"present": present}
    rows = [
        {
            "file": fact["place"], "role": fact["role"] or "", "holds": fact["kind"],
            "size": f"{fact['bytes'] / 2**20:,.1f} MiB", "usable": "yes" if fact["usable"] else "no",
        }
        for fact in facts.values()
    ]  # fmt: skip
    result.tables = {"": rows} if rows else {}
    return result


def hash_table(results: Results) -> Result:
    """All hashes, as the manifest of released files has them."""
    found = [kept.facts for name, kept in results.items() if name.startswith("hash ") and "sha256" in kept.facts]
    rows = [{"file": fact["place"], "bytes": fact["bytes"], "SHA-256": fact["sha256"]} for fact in found]
    return Result(facts={"hashes": rows}, tables={"": rows})


def _missing(result: Result, present: dict[str, list[str]], facts: dict[Path, dict], folders: Sequence[Path]) -> None:
    unnamed = [(path, fact) for path, fact in facts.items() if fact["usable"] and fact["role"] is None]
    for role in ROLES:
        if role.id in present:
            result.good(f"{role.id}: {', '.join(present[role.id])}")
            continue
        if not role.needed:
            continue
        alike = [shown(path, folders) for path, fact in unnamed if fact["kind"] == role.kinds[0]]
        spoiled = [fact["place"] for fact in facts.values() if fact["role"] == role.id]
        said = f"{role.id} is missing ({role.names[0]}, needed for {role.needed})"
        if spoiled:
            said += f"; {', '.join(spoiled)} cannot be used"
        if alike:
            said += f"; {', '.join(alike)} holds the same kind: if that is it, rename it to {role.names[0]}"
        result.fault(f"{said}.")


def _doubled(result: Result, results: Results) -> None:
    by_hash: dict[str, list[str]] = {}
    for name, found in results.items():
        if name.startswith("hash ") and "sha256" in found.facts:
            by_hash.setdefault(found.facts["sha256"], []).append(found.facts["place"])
    for places in by_hash.values():
        roles = {role.id for place in places if (role := find_role(Path(place).name))}
        if len(roles) > 1:
            result.fault(f"{' and '.join(places)} are the same file: one of them has a wrong name.")


def usable_name(results: Results, role: str) -> str:
    """File name of a role that was found in order.

    Raises:
        Skip: there is none.
    """
    present = results["survey"].facts["present"].get(role)
    if not present:
        raise Skip(f"There is no usable file for {role}; see Files.")
    return Path(present[0]).name
