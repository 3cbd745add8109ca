"""DreamO, section 3.3: placeholders, words of the prompt, the style sentence."""
