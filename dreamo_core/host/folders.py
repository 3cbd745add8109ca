"""The host's model folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ..checkpoint.presets import ReleasedFile
from ..pictures.load import pictures_in

MODEL_FOLDER = "dreamo"
LORA_FOLDER = "loras"
_LONGEST_NAME = 200
"""Longer ones a message does not repeat in full."""

REALCUSTOM_FOLDER, VISION_FOLDER = "realcustom", "clip_vision"
FACEXLIB_FOLDER = "facexlib"
"""Where other packs keep facexlib's weights too."""


def register_model_folder() -> None:
    """Make the folders that our files are in known; paths from extra_model_paths.yaml stay in front."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    # Only safetensors: the host's default set would offer pickles too.
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, {*extensions, ".safetensors"})
    folder_paths.add_model_folder_path(REALCUSTOM_FOLDER, str(Path(folder_paths.models_dir) / REALCUSTOM_FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[REALCUSTOM_FOLDER]
    # The released files are .pth; they are read as weights alone.
    folder_paths.folder_names_and_paths[REALCUSTOM_FOLDER] = (paths, {*extensions, ".safetensors", ".pth"})
    folder_paths.add_model_folder_path(FACEXLIB_FOLDER, str(Path(folder_paths.models_dir) / FACEXLIB_FOLDER))


def facexlib_folders() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths(FACEXLIB_FOLDER)]


def picture_cache_folder() -> Path:
    """Where prepared pictures are kept for the session: the host empties its temp folder when it starts and ends."""
    return Path(folder_paths.get_temp_directory()) / "dreamo_pictures"


def constant_store_folder() -> Path:
    """Where keys and values of references are kept, also when the server starts anew."""
    return Path(folder_paths.get_user_directory()) / "dreamo_keys_and_values"


def input_pictures() -> list[str]:
    """Names of the pictures directly in ComfyUI's input folder."""
    return [path.name for path in pictures_in(Path(folder_paths.get_input_directory()))]


def input_picture(name: str) -> Path:
    """Full path of a picture as the host's upload widget names it: "file.png", "folder/file.png [input]".

    Raises:
        ValueError: no such file, or one outside the host's folders.
    """
    if not isinstance(name, str):
        raise ValueError(f"A picture is given by its file's name, got {name!r}.")
    file, folder = folder_paths.annotated_filepath(name)
    folder = folder or folder_paths.get_input_directory()
    return _inside(folder, file, "picture", os.path.isfile)


def input_folder(name: str) -> Path:
    """A folder inside ComfyUI's input folder.

    Raises:
        ValueError: no such folder, or one outside.
    """
    return _inside(folder_paths.get_input_directory(), name, "folder", os.path.isdir)


def _inside(folder: str, name: str, kind: str, exists: Callable[[str], bool]) -> Path:
    root = os.path.abspath(folder)
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:40]}… ({len(name)} characters)"
    # As the host does it: a link that the user put into the folder may lead anywhere, a name may not.
    path = os.path.abspath(os.path.join(root, name))
    # Of the folder its own name alone: where it is on the server is nobody's business who sends a graph.
    where = f"ComfyUI's {os.path.basename(root)} folder"
    if os.path.splitdrive(path)[0] != os.path.splitdrive(root)[0] or os.path.commonpath([root, path]) != root:
        raise ValueError(f"{shown!r} lies outside {where}; give the name of a {kind} inside it.")
    if not exists(path):
        raise ValueError(f"There is no {kind} {shown!r} in {where}; put it there or correct the name.")
    return Path(path)


def model_files() -> list[str]:
    return folder_paths.get_filename_list(MODEL_FOLDER)


def lora_files() -> list[str]:
    """LoRA files of models/loras and models/dreamo; the latter, where both have a name, is found first."""
    names = {*model_files(), *(n for n in folder_paths.get_filename_list(LORA_FOLDER) if n.endswith(".safetensors"))}
    return sorted(names)


def expected_folder() -> Path:
    """Where DreamO files go, as users know it; it may be elsewhere by extra_model_paths.yaml."""
    return Path("models") / MODEL_FOLDER


def model_path(name: str) -> Path:
    """Full path of a file that the host lists under models/dreamo.

    Raises:
        ValueError: no such file.
    """
    return _path(name, (MODEL_FOLDER,), "put dreamo.safetensors or embedding.safetensors there")


def realcustom_files() -> list[str]:
    return folder_paths.get_filename_list(REALCUSTOM_FOLDER)


def vision_files() -> list[str]:
    """Encoders in models/clip_vision; other than safetensors none is read."""
    return [name for name in folder_paths.get_filename_list(VISION_FOLDER) if name.endswith(".safetensors")]


def realcustom_path(name: str) -> Path:
    """Full path of a file that the host lists under models/realcustom.

    Raises:
        ValueError: no such file.
    """
    return _path(name, (REALCUSTOM_FOLDER,), "put RealCustom_highres.pth there")


def vision_path(name: str) -> Path:
    """Full path of a file that the host lists under models/clip_vision.

    Raises:
        ValueError: no such file.
    """
    return _path(name, (VISION_FOLDER,), "put the encoder there")


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
    folders = " or ".join(f"models/{kind}" for kind in kinds)
    raise ValueError(f"There is no {name} in {folders}; {advice}.")


def find_released(file: ReleasedFile) -> Path | None:
    """A released file in any sub-folder of models/dreamo or models/loras, under any name it goes by."""
    for wanted in (file.name, *file.also):
        for kind in (MODEL_FOLDER, LORA_FOLDER):
            for name in folder_paths.get_filename_list(kind):
                if Path(name).name.lower() == wanted.lower():
                    return Path(folder_paths.get_full_path_or_raise(kind, name))
    return None
