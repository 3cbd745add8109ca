import pytest
import torch
from dreamo_routed.dreamo_core.sequence.positions import diagonal_offsets, grid_ids, token_grid


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
