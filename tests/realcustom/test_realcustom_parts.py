"""Projector, picture path, masks and files of RealCustom, each against something slower or something else."""

import math

import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint.__main__ import main
from dreamo_routed.dreamo_core.realcustom import masks
from dreamo_routed.dreamo_core.realcustom.picture import PAPER, RELEASED, eight_bit, features, parts, squashed, whole
from dreamo_routed.dreamo_core.realcustom.projector import Features, Projector
from dreamo_routed.dreamo_core.realcustom.weights import describe_rows, read_state, sort_keys
from dreamo_routed.minidreamo.host import small_sdxl
from dreamo_routed.minidreamo.host.small_models import randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

WIDTH, OUT = 128, 24


def layer_norm(x, state, key):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * state[f"{key}.weight"] + state[f"{key}.bias"]


def slow_attention(state, key, queries, others):
    x, y = layer_norm(queries, state, f"{key}.norm1"), layer_norm(others, state, f"{key}.norm2")
    q, k, v = x @ state[f"{key}.to_q.weight"].T, y @ state[f"{key}.to_k.weight"].T, y @ state[f"{key}.to_v.weight"].T
    heads = []
    for at in range(0, WIDTH, 64):
        part = slice(at, at + 64)
        heads.append((q[..., part] @ k[..., part].transpose(1, 2) / 8).softmax(-1) @ v[..., part])
    return torch.cat(heads, -1)


def slow_mlp(state, key, x):
    for n in (0, 2, 4):
        x = x @ state[f"{key}.{n}.weight"].T + state[f"{key}.{n}.bias"]
        x = x * (1 + torch.erf(x / math.sqrt(2))) / 2 if n < 4 else x
    return layer_norm(x, state, f"{key}.5")


@pytest.mark.parametrize("shallow", [False, True])
def test_the_projector_is_eq_9(shallow):
    projector = Projector(WIDTH, OUT, shallow).eval()
    randomize(projector, 3)
    draw = lambda *shape: torch.randn(2, *shape, WIDTH)  # noqa: E731
    seen = Features(draw(9), draw(36), tuple(draw(9) for _ in range(3)))
    state = {key: tensor.double() for key, tensor in projector.state_dict().items()}
    deep = seen.deep.double()
    base = deep @ state["projector_base.weight"].T + state["projector_base.bias"]
    if shallow:
        lower = torch.cat(seen.shallow, 1).double()
        expected = torch.cat(
            (base, slow_mlp(state, "projector2", slow_attention(state, "min_attention2", deep, lower))), 1
        )
    else:
        fused = slow_attention(state, "min_attention", deep, seen.local.double())
        expected = base + slow_mlp(state, "projector", fused)
    found = projector(seen)
    assert found.shape == (2, 18 if shallow else 9, OUT)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_released_parts_are_every_second_pixel_and_the_papers_are_tiles():
    large = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    released, paper = parts(large, RELEASED), parts(large, PAPER)
    for b in range(2):
        for n, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            assert torch.equal(released[4 * b + n], large[b, :, i::2, j::2])
            assert torch.equal(paper[4 * b + n], large[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4])


def test_the_picture_path_step_by_step():
    picture = torch.rand(1, 30, 50, 4)
    large = squashed(picture)
    assert large.shape == (1, 3, 768, 768)
    assert whole(large).shape == (1, 3, 384, 384)
    corner = whole(large)[..., 0, 0]
    assert torch.equal(corner, large[..., 0, 0])
    levels = torch.rand(1, 3, 4, 4)
    in_a_file = Image.fromarray((levels[0].movedim(0, -1) * 255).byte().numpy())
    assert (eight_bit(levels)[0].movedim(0, -1) * 255).round().byte().flatten().tolist() == list(in_a_file.tobytes())


def test_features_ask_the_encoders_for_what_they_should():
    asked = []

    def encoder(width):
        def run(pixels, layers):
            asked.append((tuple(pixels.shape), tuple(layers)))
            return [torch.full((len(pixels), 3, width), float(layer)) for layer in layers]

        return run

    seen = features(torch.rand(1, 40, 40, 3), encoder(5), encoder(7), (25, 22), ((7, 4), (13, 10), (19, 16)))
    assert asked == [
        ((1, 3, 384, 384), (7, 13, 19, 25)), ((4, 3, 384, 384), (25,)),
        ((1, 3, 384, 384), (4, 10, 16, 22)), ((4, 3, 384, 384), (22,)),
    ]  # fmt: skip
    assert seen.deep.shape == (1, 3, 12) and seen.local.shape == (1, 12, 12) and len(seen.shallow) == 3
    assert seen.deep[0, 0].tolist() == [25.0] * 5 + [22.0] * 7
    assert seen.shallow[1][0, 0].tolist() == [13.0] * 5 + [10.0] * 7


def plain_attention(q, k, v, heads):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_word_maps_are_the_summed_probabilities_also_of_more_words_than_a_head_is_wide():
    q, k = torch.randn(2, 12, 16, dtype=torch.float64), torch.randn(2, 9, 16, dtype=torch.float64)
    words = [(1,), (2, 3), (4,), (5, 8), (0,), (1, 2, 3)]
    found = masks.word_probabilities(q, k, 4, words, plain_attention)
    heads = [(q[..., i : i + 4] @ k[..., i : i + 4].mT / 2).softmax(-1) for i in range(0, 16, 4)]
    mean = torch.stack(heads).mean(0)
    expected = torch.stack([mean[..., list(word)].sum(-1) for word in words], 1)
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_eq_14_is_the_self_attention_map_times_the_words_map():
    q, k, m = torch.randn(1, 12, 8), torch.randn(1, 12, 8), torch.rand(1, 2, 12)
    found = masks.self_refined(m, (3, 4), q, k, 2, (3, 4), plain_attention)
    maps = [(q[..., i : i + 4] @ k[..., i : i + 4].mT / 2).softmax(-1) for i in (0, 4)]
    expected = (torch.stack(maps).mean(0) @ m.mT).mT
    assert torch.allclose(found, expected, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.floats(0.01, 1.0), st.integers(0, 10**6))
def test_eq_15_keeps_so_many_and_reaches_1(n, gamma, seed):
    maps = torch.rand(2, 1, n, generator=torch.Generator().manual_seed(seed)) + 0.01
    found = masks.masks_from_maps(maps, [gamma], soft=True, norm=True)
    count = max(1, math.floor(gamma * n + 1e-6))
    assert (found > 0).sum(-1).tolist() == [[count]] * 2
    for sample in range(2):
        kept = sorted(maps[sample, 0].tolist())[-count:]
        assert sorted(found[sample, 0][found[sample, 0] > 0].tolist()) == pytest.approx([v / kept[-1] for v in kept])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(4, 40), st.integers(0, 10**6))
def test_algorithm_1_gives_equal_room_without_overlap(r, n, seed):
    maps = torch.rand(1, r, n, generator=torch.Generator().manual_seed(seed)) + 0.01
    found = masks.assign(maps, [1 / r] * r) > 0
    assert found.sum(1).max() == 1
    assert found.sum(-1).unique().tolist() == [max(1, math.floor(n / r + 1e-6))]
    # The first has its own largest, whatever the others want.
    assert found[0, 0, maps[0, 0].argmax()]


def test_algorithm_1_round_by_round():
    maps = torch.tensor([[[9.0, 8.0, 1.0, 2.0, 3.0], [9.0, 5.0, 4.0, 0.5, 0.1]]])
    found = masks.assign(maps, [0.4, 0.4])
    # Round 1: 0 to the first, 1 to the second. Round 2: 1 is gone, so 4 to the first, 2 to the second.
    assert found.tolist() == [[[9.0, 0.0, 0.0, 0.0, 3.0], [0.0, 5.0, 4.0, 0.0, 0.0]]]


@pytest.fixture(scope="module")
def state():
    return small_sdxl.small_realcustom_state(small_sdxl.small_sdxl())


@pytest.mark.parametrize("shallow", [False, True])
def test_every_key_is_used_or_named(shallow):
    state = small_sdxl.small_realcustom_state(small_sdxl.small_sdxl(), shallow)
    extra = {"conv_in.weight": torch.zeros(1), "encoder_hidden_states_vision_projection.other": torch.zeros(1)}
    file = sort_keys({**state, **extra}, "file")
    assert file.shallow is shallow
    assert file.unused == tuple(extra)
    assert len(file.projector) + 2 * len(file.vision) == len(state)
    rows = dict(describe_rows({**state, **extra}, "file"))
    assert rows["RealCustom"].startswith("shallow" if shallow else "high-resolution")
    assert "conv_in.weight" in rows["not used"]


def test_pth_through_the_weights_only_reader(state, tmp_path):
    torch.save({"state_dict": state}, tmp_path / "good.pth")
    assert sort_keys(read_state(tmp_path / "good.pth"), "good").vision.keys() == sort_keys(state, "s").vision.keys()
    torch.save({"weight": torch.zeros(1), "run": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="code.pth cannot be read as weights alone"):
        read_state(tmp_path / "code.pth")
    (tmp_path / "text.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="text.pth cannot be read"):
        read_state(tmp_path / "text.pth")


def test_the_command_line_knows_both_kinds_of_file(state, tmp_path, capsys):
    torch.save({**state, "conv_in.weight": torch.zeros(1)}, tmp_path / "a.pth")
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "b.safetensors")
    assert main(["inspect", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert "high-resolution variant" in first and "1 keys: conv_in.weight" in first
    assert "17 cross-attentions" in second and "0 keys" in second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "projection" in k}, "to_k_vision and to_v_vision weights"),
        (lambda s: {k: v for k, v in s.items() if "projection" not in k}, "has no projector"),
        (lambda s: {k: v for k, v in s.items() if not k.endswith("to_q.weight")}, "min_attention.to_q.weight"),
        (lambda s: {k: v for k, v in s.items() if k != next(n for n in s if "to_v_vision" in n)}, "only one of"),
    ],
)
def test_a_broken_file_says_what_is_wrong(state, change, message):
    with pytest.raises(ValueError, match=message):
        sort_keys(change({**state}), "file")
