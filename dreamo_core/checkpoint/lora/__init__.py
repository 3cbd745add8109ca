"""LoRA files of every layout, read into one form.

The host's own loader is not used for reading: of the nineteen spellings that the tests know it reads ten on
ComfyUI 0.3.75 and eleven on 0.33.0, DreamO's released one not among them, and drops the rest with a line in the log.
Where both read a file they give the same bits (tests/checkpoint/test_uno_uso_lora.py). Applying is the host's: see
`host.lora`.
"""
