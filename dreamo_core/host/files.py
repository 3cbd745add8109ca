"""The host's model folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..checkpoint.presets import ReleasedFile

MODEL_FOLDER = "dreamo"
LORA_FOLDER = "loras"


def register_model_folder() -> None:
    """Make `models/dreamo` known to the host; paths from extra_model_paths.yaml stay in front."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    # Only safetensors: the host's default set would offer pickles too.
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, {*extensions, ".safetensors"})


def model_files() -> list[str]:
    return folder_paths.get_filename_list(MODEL_FOLDER)


def lora_files() -> list[str]:
    """LoRA files of models/loras and models/dreamo; the latter, where both have a name, is found first."""
    names = {*model_files(), *(n for n in folder_paths.get_filename_list(LORA_FOLDER) if n.endswith(".safetensors"))}
    return sorted(names)


def expected_folder() -> Path:
    """Where DreamO files go."""
    return Path(folder_paths.get_folder_paths(MODEL_FOLDER)[0])


def model_path(name: str) -> Path:
    """Full path of a file that the host lists under models/dreamo.

    Raises:
        ValueError: no such file.
    """
    return _path(name, (MODEL_FOLDER,), "put dreamo.safetensors or embedding.safetensors there")


def lora_path(name: str) -> Path:
    """Full path of a file from `lora_files`.

    Raises:
        ValueError: no such file.
    """
    return _path(name, (MODEL_FOLDER, LORA_FOLDER), "put the LoRA into one of them")


def _path(name: str, kinds: tuple[str, ...], advice: str) -> Path:
    for kind in kinds:
        path = folder_paths.get_full_path(kind, name)
        if path is not None:
            return Path(path)
    folders = ", ".join(folder for kind in kinds for folder in folder_paths.get_folder_paths(kind))
    raise ValueError(f"There is no {name} in {folders}; {advice}.")


def find_released(file: ReleasedFile) -> Path | None:
    """A released file in any sub-folder of models/dreamo or models/loras, under any name it goes by."""
    for wanted in (file.name, *file.also):
        for kind in (MODEL_FOLDER, LORA_FOLDER):
            for name in folder_paths.get_filename_list(kind):
                if Path(name).name.lower() == wanted.lower():
                    return Path(folder_paths.get_full_path_or_raise(kind, name))
    return None
