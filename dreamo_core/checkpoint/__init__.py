"""DreamO files: reading, writing, describing and fetching them. Safetensors only."""

from .read import DreamOModel, LoraFile, load_dreamo_model, load_lora_file
from .write import write_dreamo, write_peft_folder

__all__ = ["DreamOModel", "LoraFile", "load_dreamo_model", "load_lora_file", "write_dreamo", "write_peft_folder"]
