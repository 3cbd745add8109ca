"""DreamO's forward pass, slowly and obviously: token by token, over the host's own layers.

Written from the paper and the released pipeline's facts alone; shares no code with the pack.
"""

import torch


def patches_of(latent):
    """(b, 16, h, w) to a list of tokens, each (b, 64), with (row, column) of each; odd edges wrap around."""
    b, c, h, w = latent.shape
    tokens, places = [], []
    for row in range((h + 1) // 2):
        for column in range((w + 1) // 2):
            patch = torch.stack(
                [latent[:, :, (2 * row + i) % h, (2 * column + j) % w] for i in range(2) for j in range(2)], dim=-1
            )
            tokens.append(patch.reshape(b, c * 4))
            places.append((row, column))
    return tokens, places


def slow_sequence(x, latents):
    """All tokens of image and references, their position ids, and per token 0 (noise) or i (reference i)."""
    tokens, places = patches_of(x)
    owners = [0] * len(tokens)
    row_start, column_start = 1 + max(r for r, _ in places), 1 + max(c for _, c in places)
    for i, latent in enumerate(latents, start=1):
        more, at = patches_of(latent)
        tokens += more
        places += [(r + row_start, c + column_start) for r, c in at]
        owners += [i] * len(more)
        row_start += 1 + max(r for r, _ in at)
        column_start += 1 + max(c for _, c in at)
    ids = torch.tensor([(0.0, float(r), float(c)) for r, c in places])
    return torch.stack(tokens, dim=1), ids, owners


def condition_vectors(owners, task, index):
    """task[1] for noise tokens, task[0] + index[i] for tokens of reference i: (l, c)."""
    return torch.stack([task[1] if i == 0 else task[0] + index[i] for i in owners])


def unpatch(tokens, height, width):
    b, _, c = tokens.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    out = torch.zeros(b, c // 4, rows * 2, columns * 2, dtype=tokens.dtype)
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        out[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = tokens[:, n].reshape(b, c // 4, 2, 2)
    return out[:, :, :height, :width]


def slow_style_tokens(projector, hidden_states):
    """USO's style tokens, from the words of the paper: SigLIP layers from fine to coarse, mixed over places.

    Args:
        projector: the host's module, whose weights alone are used.
        hidden_states: (b, layers, 729, c) of the image encoder, the last layer's last.
    """
    found = []
    for level, layer in (("high", -2), ("mid", -11), ("low", -20)):
        weights = {name: p.float() for name, p in projector.named_parameters() if name.startswith(level)}
        part = lambda name, of=weights, level=level: of[f"{level}_{name}"]  # noqa: E731
        x = hidden_states[:, layer].float()
        mixed = torch.einsum("st,btc->bsc", part("embedding_linear.0.weight"), x)
        mixed = torch.nn.functional.silu(mixed + part("embedding_linear.0.bias")[:, None])
        mean, spread = mixed.mean(-1, keepdim=True), mixed.var(-1, unbiased=False, keepdim=True)
        normed = (mixed - mean) / (spread + 1e-5).sqrt()
        normed = normed * part("layer_norm.weight") + part("layer_norm.bias")
        found.append(normed @ part("projection.weight").T + part("projection.bias"))
    return torch.cat(found, dim=1)


def slow_flux(flux, x, timestep, context, y, guidance, latents=(), task=None, index=None, style=None, kept=None):
    """The host's layers, called one after the other on an explicit sequence.

    Args:
        flux: the host's Flux module.
        latents: reference latents as the model sees them (scaled), each (b, 16, h, w).
        task, index: the two embedding tables, or None for none.
        style: (b, s, c) tokens in front of the text, after `txt_in`.
        kept: for each reference, which of its tokens are in the sequence; None for all.
    """
    from comfy.ldm.flux.layers import timestep_embedding

    sequence, ids, owners = slow_sequence(x, latents)
    image_tokens = owners.count(0)
    if kept is not None:
        stay = list(range(image_tokens))
        for i, numbers in enumerate(kept, start=1):
            stay += [owners.index(i) + n for n in sorted(numbers)]
        sequence, ids, owners = sequence[:, stay], ids[stay], [owners[n] for n in stay]
    img = flux.img_in(sequence)
    if task is not None:
        img = img + condition_vectors(owners, task, index).to(img.dtype)
    vec = flux.time_in(timestep_embedding(timestep, 256).to(img.dtype))
    vec = vec + flux.guidance_in(timestep_embedding(guidance, 256).to(img.dtype))
    vec = vec + flux.vector_in(y)
    txt = flux.txt_in(context)
    if style is not None:
        txt = torch.cat((style, txt), dim=1)
    all_ids = torch.cat((torch.zeros(txt.shape[1], 3), ids))[None].repeat(x.shape[0], 1, 1)
    pe = flux.pe_embedder(all_ids)
    for block in flux.double_blocks:
        img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
    joint = torch.cat((txt, img), 1)
    for block in flux.single_blocks:
        joint = block(joint, vec=vec, pe=pe)
    out = flux.final_layer(joint[:, txt.shape[1] :], vec)[:, :image_tokens]
    return unpatch(out, x.shape[2], x.shape[3])
