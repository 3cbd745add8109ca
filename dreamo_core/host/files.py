"""The host's model folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

MODEL_FOLDER = "dreamo"


def register_model_folder() -> None:
    """Make `models/dreamo` known to the host; paths from extra_model_paths.yaml stay in front."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    # Only safetensors: the host's default set would offer pickles too.
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, {*extensions, ".safetensors"})


def model_files() -> list[str]:
    return folder_paths.get_filename_list(MODEL_FOLDER)


def model_path(name: str) -> Path:
    """Full path of a file that the host lists under models/dreamo.

    Raises:
        ValueError: no such file.
    """
    path = folder_paths.get_full_path(MODEL_FOLDER, name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(MODEL_FOLDER))
        raise ValueError(f"There is no {name} in {folders}; put dreamo.safetensors or embedding.safetensors there.")
    return Path(path)
