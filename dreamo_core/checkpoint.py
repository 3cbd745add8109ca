"""Reading DreamO files: safetensors only, and nothing beyond what is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .embeddings import INDEX_KEY, PLACEHOLDER_KEY, TASK_KEY, Embeddings, read_embeddings


@dataclass(frozen=True, eq=False)
class DreamOModel:
    """What `DREAMO_MODEL` carries between nodes.

    Attributes:
        path: the file it was read from.
        embeddings: task, index and, where the file has them, placeholder tables.
    """

    path: Path
    embeddings: Embeddings


def load_dreamo_model(path: Path) -> DreamOModel:
    """Read the embeddings of `dreamo.safetensors` or `embedding.safetensors`.

    Raises:
        ValueError: not a readable safetensors file, or its embeddings are missing or malformed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            wanted = [key for key in (TASK_KEY, INDEX_KEY, PLACEHOLDER_KEY) if key in present]
            tensors = {key: file.get_tensor(key) for key in wanted}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as safetensors ({error}); download it again.") from error
    return DreamOModel(path, read_embeddings(tensors, path.name))
