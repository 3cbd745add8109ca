import pytest
import torch
from comfy_extras.nodes_rope import ScaleROPE
from dreamo_routed.dreamo_core.sequence.positions import (
    ImagePositions,
    diagonal_offsets,
    grid_ids,
    token_grid,
)
from support import apply_dreamo, make_chain, make_conditioning, sample, small_flux


def test_odd_edges_count_as_a_whole_patch():
    assert token_grid(9, 8) == (5, 4)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_references_continue_the_diagonal_and_never_overlap(count):
    image, grids = (7, 11), [(2 + i, 9 - i) for i in range(count)]
    used = {(row, column) for row in range(image[0]) for column in range(image[1])}
    rows, columns = set(range(image[0])), set(range(image[1]))
    for grid, offset in zip(grids, diagonal_offsets(image, grids), strict=True):
        ids = grid_ids(grid, offset)
        assert ids.shape == (grid[0] * grid[1], 3)
        assert torch.equal(ids[:, 0], torch.zeros(len(ids)))
        own = [(int(r), int(c)) for _, r, c in ids]
        assert len(set(own)) == len(own)
        assert not rows & {r for r, _ in own} and not columns & {c for _, c in own}
        rows |= {r for r, _ in own}
        columns |= {c for _, c in own}
        used |= set(own)
    # No gap either: rows and columns are used up one after the other.
    assert rows == set(range(len(rows))) and columns == set(range(len(columns)))


@pytest.mark.parametrize("scale, shift", [(2.0, 0.0), (0.5, 0.0), (1.5, 7.5), (3.0, -4.0)])
@pytest.mark.parametrize("ours_first", [True, False])
def test_references_begin_where_a_stretched_image_ends(scale, shift, ours_first):
    """The host's Scale RoPE moves the image's positions; references still continue the diagonal behind it."""
    stretch = lambda model: ScaleROPE.execute(model, scale, shift, scale, shift, 1.0, 3.0).result[0]  # noqa: E731
    flux = small_flux(depth=1, depth_single_blocks=0)
    patched, positive = apply_dreamo(flux if ours_first else stretch(flux), make_conditioning(), make_chain(2))
    seen = []
    hook = flux.model.diffusion_model.pe_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sample(stretch(patched) if ours_first else patched, positive, steps=1)
    hook.remove()
    ids = seen[0][0, 7:]
    image, references = ids[:96], ids[96:]
    end = image.amax(0)[1:]
    assert torch.equal(image.amin(0)[1:], torch.tensor([shift, shift]))
    # The first reference is the next row and column, the second one follows it; their own spacing is as trained.
    assert torch.allclose(references[0, 1:], end + 1) and torch.allclose(references[16, 1:], end + 5)
    assert torch.allclose(references[1] - references[0], torch.tensor([0.0, 0.0, 1.0]))
    # All are moved along the index axis alike.
    assert (ids[:, 0] == 3.0).all()


def test_positions_as_trained_are_whole_numbers():
    assert ImagePositions().end((7, 11)) == (7, 11)
