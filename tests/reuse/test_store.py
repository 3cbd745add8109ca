"""The store by itself: what goes in comes out, in the precision it was asked for, from either memory."""

import pytest
import torch
from dreamo_routed.dreamo_core.attention.layout import Block
from dreamo_routed.dreamo_core.reuse.cache import Entry, ReferenceCache, Reuse
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy, refresh_is_due, step_of
from dreamo_routed.dreamo_core.reuse.store import Shelf, pack, unpack

BLOCKS = [Block("double", 0), Block("double", 1), Block("single", 0)]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def keys(seed, dtype=torch.float32, device="cpu", shape=(2, 3, 10, 16)):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_goes_in_comes_out(device, low_memory, dtype):
    """Bit for bit, over refreshes, in any order of reading, with other work on the device in between."""
    shelf = Shelf(fp8=False, low_memory=low_memory)
    for refresh in range(3):
        expected = {block: keys(10 * refresh + n, dtype, device) for n, block in enumerate(BLOCKS)}
        for block, (k, v) in expected.items():
            wide = torch.cat((torch.zeros_like(k), k), dim=2)
            shelf.write(block, wide[:, :, 10:], v)
            wide.fill_(float("nan"))
        for order in (BLOCKS, BLOCKS[::-1], BLOCKS[1:], BLOCKS):
            for block in order:
                k, v = shelf.read(block, expected[block][0])
                assert torch.equal(k, expected[block][0]) and torch.equal(v, expected[block][1])
                assert k.device.type == device and k.dtype == dtype
    assert shelf.nbytes == 3 * 2 * 960 * dtype.itemsize
    if low_memory:
        assert all(t.device.type == "cpu" for t in shelf.tensors())
    shelf.close()
    assert len(shelf) == 0 and shelf.nbytes == 0


def test_buffers_are_used_again():
    shelf = Shelf(fp8=False, low_memory=True)
    addresses = []
    for refresh in range(3):
        shelf.write(BLOCKS[0], *keys(refresh))
        addresses.append([t.data_ptr() for t in shelf.tensors()])
    assert addresses[0] == addresses[1] == addresses[2]


def test_the_next_pair_is_on_its_way_while_one_is_used():
    shelf = Shelf(fp8=False, low_memory=True)
    for n, block in enumerate(BLOCKS):
        shelf.write(block, *keys(n))
    shelf.read(BLOCKS[0], torch.zeros(1))
    assert list(shelf._ahead) == [BLOCKS[1]]
    shelf.read(BLOCKS[2], torch.zeros(1))
    assert list(shelf._ahead) == [BLOCKS[0]]
    # A refresh makes what is on its way worthless.
    shelf.write(BLOCKS[0], *keys(7))
    assert torch.equal(shelf.read(BLOCKS[0], torch.zeros(1))[0], keys(7)[0])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_is_within_half_a_step_of_its_format(dtype, scale):
    """e4m3 has three bits of mantissa: a relative step of 1/8, halved by rounding, and small values flush to 2⁻⁹."""
    tensor = (keys(1)[0] * scale).to(dtype)
    back = unpack(pack(tensor, fp8=True), torch.float32)
    peak = tensor.float().abs().amax(dim=-1, keepdim=True)
    bound = (tensor.float().abs() / 16).maximum(peak / 448 * 2**-10) * (1.01 if dtype == torch.float32 else 1.1)
    assert ((back - tensor.float()).abs() <= bound).all()
    assert (back - tensor.float()).norm() < 0.04 * tensor.float().norm()


def test_fp8_of_zeros_and_outliers():
    tensor = torch.zeros(1, 1, 2, 8)
    tensor[0, 0, 1, 0] = 1e6
    back = unpack(pack(tensor, fp8=True), torch.float32)
    assert torch.isfinite(back).all() and (back[0, 0, 0] == 0).all() and back[0, 0, 1, 0] == pytest.approx(1e6)


def test_fp8_has_a_scale_for_each_vector():
    """Keys of one token may be thousands of times as large as another's: one scale for all would flush these to 0."""
    sizes = torch.tensor([1.0, 1e-3, 1e-6]).view(1, 1, 3, 1)
    tensor = torch.randn(1, 2, 3, 64, generator=torch.Generator().manual_seed(1)) * sizes
    back = unpack(pack(tensor, fp8=True), torch.float32)
    assert ((back - tensor).norm(dim=-1) < 0.05 * tensor.norm(dim=-1)).all()


def test_fp8_takes_a_quarter_of_fp32_and_a_scale_a_vector():
    packed = pack(torch.randn(1, 24, 10, 128), fp8=True)
    assert packed.nbytes == 24 * 10 * (128 + 4)


def test_step_of():
    sigmas = [1.0, 0.9, 0.7, 0.4, 0.0]
    assert [step_of(s, sigmas) for s in (1.0, 0.95, 0.9, 0.7, 0.699, 0.4, 0.1, 0.0)] == [0, 0, 1, 2, 2, 3, 3, 4]
    rising = [0.1, 0.3, 0.6, 0.9]
    assert [step_of(s, rising) for s in (0.1, 0.2, 0.3, 0.6, 0.8)] == [0, 0, 1, 2, 2]
    # A noise level that went through float16 or bfloat16 arithmetic is not asked for; a float32 one may be off a bit.
    assert step_of(0.9 - 1e-6, sigmas) == 1
    assert step_of(2.0, sigmas) == 0
    # What a bit is: a hundred-thousandth of the largest noise level, itself included.
    assert [step_of(500 + off, [1000.0, 500.0, 0.0]) for off in (0.009, 0.02)] == [1, 0]
    slack = 1e-5 * 4.0
    assert 1.0 + slack - slack == 1.0 and step_of(1.0 + slack, [4.0, 1.0, 0.0]) == 1
    assert 1.0 - slack + slack == 1.0 and step_of(1.0 - slack, [0.0, 1.0, 4.0]) == 1
    # Whether it rises is told by its ends: schedules that go back once, and one that stands still, are falling.
    assert step_of(0.4, [0.8, 0.9, 0.4, 0.0]) == 2 and step_of(0.6, [0.5, 0.7, 0.6, 0.2]) == 1
    assert step_of(0.2, [0.5, 0.1, 0.3]) == 1 and step_of(0.5, [1.0, 1.0]) == 1


def test_refresh_is_due():
    due = lambda settings, **moment: refresh_is_due(  # noqa: E731
        settings, **{"step": 5, "sigma": 0.5, "last_step": 3, "last_sigma": 0.8, "drift": 0.2, **moment}
    )
    assert due(ReusePolicy()) and not due(ReusePolicy(refresh="never"))
    assert [due(ReusePolicy(refresh="every n steps", interval=n)) for n in (1, 2, 3)] == [True, True, False]
    assert [due(ReusePolicy(refresh="sigma distance", sigma_distance=d)) for d in (0.2, 0.4)] == [True, False]
    assert due(ReusePolicy(refresh="sigma distance", sigma_distance=0.2), sigma=1.0, last_sigma=0.7)
    assert [due(ReusePolicy(refresh="drift", drift=d)) for d in (0.1, 0.3)] == [True, False]
    # At the limit itself it is due.
    assert due(ReusePolicy(refresh="drift", drift=0.2))
    assert due(ReusePolicy(refresh="sigma distance", sigma_distance=0.25), sigma=0.5, last_sigma=0.75)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"refresh": "sometimes"}, "refresh must be one of always, every n steps"),
        ({"store": "int4"}, "store one of as computed, fp8"),
        ({"interval": 0}, "interval be at least 1"),
        ({"keep_ratio": 1.5}, "keep_ratio lie in 0 to 1"),
        ({"margin": -1}, "margin must be at least 0"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ValueError, match=message):
        ReusePolicy(**values)


def test_entries_are_bounded():
    """Passes whose patches differ each time cannot fill the memory."""
    cache = ReferenceCache(ReusePolicy(refresh="never"))
    for n in range(20):
        entry = cache.entry("conditioning", f"patching {n}", "signature")
        entry.shelf.write(BLOCKS[0], *keys(n))
    assert len(cache.entries()) == 2
    kept = cache.entry("conditioning", "patching 19", "signature")
    assert kept is entry and len(kept.shelf) == 1
    assert len(cache.entry("conditioning", "patching 19", "another").shelf) == 0 and len(entry.shelf) == 0


def test_an_incomplete_refresh_does_not_count():
    cache = ReferenceCache(ReusePolicy(refresh="never"))
    entry = Entry("signature", Shelf(False, False))
    from dreamo_routed.dreamo_core.attention.layout import Layout

    for blocks, complete in ((2, False), (3, True)):
        reuse = Reuse(cache, [entry], [4], True, (7, 0.5))
        for block in BLOCKS[:blocks]:
            k, v = keys(blocks)
            reuse.keys(block, Layout(2, 4, ((6, 10),)), k, k, v)
        reuse.done(3)
        assert (entry.step == 7) is complete
