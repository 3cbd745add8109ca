"""The reference implementation's way: transformers' T5, its tokenizer extended and its table resized.

The tokenizer is the published file, run as it is: transformers 5 makes another one of it.
"""

from pathlib import Path

import comfy.text_encoders.flux
import torch
from tokenizers import Tokenizer
from transformers import T5Config, T5EncoderModel

PAD, END = 0, 1
TOKENS = [f"[ref#{i}]" for i in range(1, 10)] + ["[res]"]


class TransformersT5:
    """T5EncoderModel with the weights of the host's small T5 and ten more tokens.

    Args:
        host_t5: the host's `T5` module.
        rows: (10, d) input embeddings of the new tokens.
    """

    def __init__(self, host_t5, rows):
        folder = Path(comfy.text_encoders.flux.__file__).parent / "t5_tokenizer"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = T5Config(
            vocab_size=32128,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            layer_norm_epsilon=1e-6,
        )
        self.model = T5EncoderModel(config).eval()
        keys = self.model.load_state_dict(host_t5.state_dict(), strict=False)
        # The input table under its second name.
        assert set(keys.missing_keys) <= {"encoder.embed_tokens.weight"} and not keys.unexpected_keys
        self.tokenizer.add_tokens(TOKENS)
        size = self.tokenizer.get_vocab_size()
        self.model.resize_token_embeddings(size)
        self.model.get_input_embeddings().weight.data[-len(TOKENS) :] = rows
        self.first_new = size - len(TOKENS)

    def ids(self, prompt, minimum=256):
        """Token ids, padded as the host does: at least 256, nothing cut off."""
        ids = self.tokenizer.encode(prompt).ids
        return ids + [PAD] * (minimum - len(ids))

    def positions(self, ids):
        """Position of every new token in order: pairs of its name and its index."""
        return [(TOKENS[i - self.first_new], at) for at, i in enumerate(ids) if i >= self.first_new]

    def hidden_states(self, ids):
        """(1, l, d); without an attention mask, as FLUX pipelines call it."""
        return self.model(torch.tensor([ids])).last_hidden_state

    def hidden_states_of(self, embeds):
        """The same from input embeddings (1, l, d)."""
        return self.model(inputs_embeds=embeds).last_hidden_state

    def weighted(self, segments):
        """Hidden states of (text, weight) segments by the host's definition of a weight, one token at a time."""
        ids, weights = [], []
        for text, weight in segments:
            own = self.tokenizer.encode(text).ids[:-1]
            ids, weights = ids + own, weights + [weight] * len(own)
        ids = ids + [END]
        ids += [PAD] * (256 - len(ids))
        empty = [END] + [PAD] * (len(ids) - 1)
        states, base = self.hidden_states(ids), self.hidden_states(empty)
        for at, weight in enumerate(weights):
            states[0, at] = base[0, at] + weight * (states[0, at] - base[0, at])
        return states
