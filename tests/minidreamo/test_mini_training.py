"""Training the mini world on: rounds and decoder go on exactly, the curve says what it knows, and folders travel."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention

from dreamo_core.training import engine, flow
from dreamo_core.training.batches import Batches
from dreamo_core.training.config import load_config
from dreamo_core.training.export import load_released
from dreamo_core.training.features import FeatureStore
from dreamo_core.training.manifest import read_manifest
from minidreamo import art, curve, distill, intervals, train_all, train_autoencoder, travel
from minidreamo.attention import explicit_attention
from minidreamo.autoencoder import BlockAutoencoder

NAMES = [f"thing {letter}" for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def drawings():
    cutouts = np.random.default_rng(0).integers(0, 255, (len(NAMES), 5, art.SIZE, art.SIZE, 4), dtype=np.uint8)
    return art.Art(NAMES, cutouts, np.ones((len(NAMES), 5), bool))


class Clock:
    """Says a later second at every look."""

    def __init__(self, monkeypatch, module):
        self.now = 0.0
        monkeypatch.setattr(module, "time", self)

    def time(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_explicit_attention_is_the_same_attention(dtype, tolerance):
    query, key, value = torch.randn(3, 2, 4, 30, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    with pytest.raises(RuntimeError, match="inside"), explicit_attention():
        explicit = scaled_dot_product_attention(query, key, value)
        raise RuntimeError("inside")
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == allowed
    wanted = torch.softmax(query.double() @ key.double().mT / 8**0.5, -1) @ value.double()
    assert (explicit.double() - wanted).abs().max() < tolerance
    assert (scaled_dot_product_attention(query, key, value).double() - wanted).abs().max() < tolerance


def test_disturbed_latents_differ_by_pixel_and_by_token():
    latent = torch.zeros(400, 16, 4, 4)
    noise = train_autoencoder.disturbed(latent, torch.Generator().manual_seed(0)) * train_autoencoder.SCALE
    means = noise.unflatten(2, (2, 2)).unflatten(-1, (2, 2)).mean((3, 5))
    # Of a uniform strength s up to m: E s² = m² / 3. The mean of four keeps a quarter of the fine noise.
    fine, coarse = (most**2 / 3 for most in (train_autoencoder.NOISE, train_autoencoder.TOKEN_NOISE))
    assert float(noise.var()) == pytest.approx(fine + coarse, rel=0.1)
    assert float(means.var()) == pytest.approx(fine / 4 + coarse, rel=0.1)


def test_the_decoder_goes_on_as_if_never_stopped_and_keeps_the_encoder(tmp_path, drawings, monkeypatch):
    monkeypatch.setattr(art, "load", lambda cache: drawings)
    torch.manual_seed(0)
    first = BlockAutoencoder()
    first.fit_linear(train_autoencoder.batch(drawings, np.random.default_rng(0), 4))
    results = []
    with torch.enable_grad():
        for name, times in (("straight", [None]), ("stopped", [4.0, None])):
            out = tmp_path / f"{name}.safetensors"
            train_autoencoder.save(first, out, {})
            for until in times:
                if until:
                    Clock(monkeypatch, train_autoencoder)
                else:
                    monkeypatch.setattr(train_autoencoder, "time", time)
                whole = train_autoencoder.train(tmp_path, out, 5, seed=2, begin=True, until=until)
                assert whole == (until is None)
                if not whole:
                    assert torch.equal(load_file(out)["refine.0.weight"], first.state_dict()["refine.0.weight"].half())
            results.append(load_file(out))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    for key, value in first.state_dict().items():
        same = torch.equal(value.half(), results[0][key])
        assert same == key.startswith("analysis"), key


@pytest.fixture
def tiny(tmp_path):
    """A state with the tiny world's base and data, and the config of its rounds."""
    training_world.write_base(tmp_path / "published")
    training_world.write_data(tmp_path / "state" / "data")
    stages = "begin = 'published/dreamo.safetensors'" + training_world.STAGES.split("[[stages]]")[2].join(
        ["\n[[stages]]", ""]
    )
    (tmp_path / "base").symlink_to(tmp_path / "published")
    run = load_config(training_world.write_config(tmp_path, "rounds", stages=stages))
    fresh = replace(run, model=replace(run.model, begin=None), output=tmp_path / "fresh")
    fresh = replace(fresh, stages=tuple(replace(s, manifest=tmp_path / "state" / "data" / "train.jsonl", steps=2)
                                        for s in fresh.stages))  # fmt: skip
    with torch.enable_grad():
        engine.train(fresh, say=lambda line: None).rename(tmp_path / "published" / "dreamo.safetensors")
    world = train_all.World(tmp_path / "state", tmp_path / "art", until=float("inf"))
    train_all.begin(world, tmp_path / "published")
    return world, run


def test_rounds_follow_one_another_and_go_on_where_they_were_cut_off(tiny):
    world, run = tiny
    assert train_all.finished(world, run) == 0
    with torch.enable_grad():
        cut_off = replace(world, until=0.0)
        assert not train_all.train_round(cut_off, run, 1) and train_all.progress(world.round(1)) == (0, 1)
        assert not train_all.train_round(cut_off, run, 1) and train_all.progress(world.round(1)) == (0, 2)
        assert train_all.train_round(world, run, 1) and train_all.train_round(world, run, 2)
        assert train_all.finished(world, run) == 2
        straight = replace(run, output=world.state / "straight", seed=1)
        straight = replace(straight, model=replace(run.model, begin=world.dreamo(0)),
                           stages=tuple(replace(s, manifest=world.manifest) for s in run.stages))  # fmt: skip
        with explicit_attention():
            engine.train(straight, say=lambda line: None)
    states = [load_file(path) for path in (world.dreamo(0), world.dreamo(1), world.dreamo(2))]
    wanted = load_file(world.state / "straight" / "dreamo.safetensors")
    assert all(torch.equal(states[1][key], wanted[key]) for key in wanted)
    moved = [sum(float((b[k] - a[k]).square().sum()) for k in a) for a, b in zip(states, states[1:], strict=False)]
    # The second begins where the first ended and sees other pictures with other noise.
    assert all(0 < m < 1 for m in moved) and moved[0] != moved[1]


def test_guidance_is_learned_from_the_weights_one_begins_with(tiny):
    """At first the student is the teacher, so its error is (w − 1) (v − v₀), here with v₀ from a model of its own."""
    world, run = tiny
    run = train_all.of_state(replace(run, model=replace(run.model, begin=world.dreamo(0))), world)
    encoders = engine.load_encoders(run)
    store = FeatureStore(read_manifest(world.manifest), encoders, world.state / "features", lambda line: None)
    batch = Batches(store, run.stages[0], run.losses, run.times, (0, 1))[1]
    student, other = (engine.build_model(run, encoders.t5.config.d_model) for _ in range(2))
    for model in (student, other):
        load_released(model, world.dreamo(0))
    flows = {w: distill.guided(w)(student, encoders, run)(batch, 1)[1]["flow"] for w in (1.0, 3.0)}
    noisy = flow.interpolate(batch.target, batch.noise, batch.times)
    text, guidance = engine.Objective(other, encoders.t5, run).text(batch), torch.ones_like(batch.times)
    velocity = other(noisy, batch.times, text, batch.pooled, guidance, batch.references, batch.kept).velocity
    alone = other(noisy, batch.times, text, batch.pooled, guidance).velocity
    assert flows[1.0] < 1e-10 < flows[3.0]
    assert float(flows[3.0]) == pytest.approx(4 * float((velocity - alone).square().mean()), rel=1e-4)


def test_teaching_guidance_moves_the_student_and_leaves_the_round(tiny):
    world, run = tiny
    before = world.dreamo(0).read_bytes()
    with torch.enable_grad():
        assert not train_all.train_guided(replace(world, until=0.0), run, 0, 3.0, 3)
        assert train_all.train_guided(world, run, 0, 3.0, 3)
    assert world.dreamo(0).read_bytes() == before
    taught, first = load_file(world.guided(0) / "dreamo.safetensors"), load_file(world.dreamo(0))
    assert taught.keys() == first.keys() and not any(torch.equal(taught[k], first[k]) for k in taught if "lora" in k)
    kept = load_file(world.guided(0) / "checkpoint.safetensors")
    assert not any("teacher" in key for key in kept)


def test_published_are_the_last_whole_round_and_the_decoder(tiny, tmp_path):
    world, run = tiny
    with torch.enable_grad():
        train_all.train_round(world, run, 1)
        train_all.train_round(replace(world, until=0.0), run, 2)
    (world.state / "decoder").mkdir()
    (world.state / "decoder" / "autoencoder.safetensors").write_bytes(b"a decoder")
    (tmp_path / "out").mkdir()
    train_all.publish(world, run, tmp_path / "out")
    wanted, given = load_file(world.dreamo(1)), load_file(tmp_path / "out" / "dreamo.safetensors")
    assert all(torch.equal(wanted[key].half(), given[key]) for key in wanted) and wanted.keys() == given.keys()
    assert (tmp_path / "out" / "autoencoder.safetensors").read_bytes() == b"a decoder"
    assert (tmp_path / "out" / "flux.safetensors").read_bytes() == world.weights("flux").read_bytes()


def test_a_state_keeps_its_own_weights(tiny, tmp_path):
    world, _ = tiny
    before = world.weights("dreamo").stat().st_mtime_ns
    (tmp_path / "published" / "dreamo.safetensors").write_bytes(b"newer")
    world.weights("clip").unlink()
    train_all.begin(world, tmp_path / "published")
    assert world.weights("dreamo").stat().st_mtime_ns == before and world.weights("clip").exists()


def test_a_line_through_rounds_is_found_again():
    """Against numpy's own least squares and its covariance."""
    rng = np.random.default_rng(0)
    samples = np.array([6e4, 8e4, 1.1e5, 2e5, 4e5])
    values = -1 + 0.3 * np.log10(samples) + rng.normal(0, 0.01, 5)
    start, gain, error = curve.line(samples, values)
    (slope, intercept), covariance = np.polyfit(np.log10(samples), values, 1, cov="unscaled")
    assert (gain, start) == pytest.approx((slope, intercept))
    residual = values - intercept - slope * np.log10(samples)
    assert error == pytest.approx(np.sqrt(covariance[0, 0] * (residual**2).sum() / 3))
    assert curve.reaches(start, gain, start + 5.5 * gain) == pytest.approx(10**5.5)
    assert curve.reaches(0.5, 0.0, 0.6) == curve.reaches(0.5, 1e-9, 0.6) == float("inf")


def test_the_curve_says_what_is_met_and_what_is_not_to_be_expected():
    def row(number, **scores):
        return {"round": number, "samples": 16000 * number, "scores": dict.fromkeys(curve.GOALS, 0.5) | scores}

    rows = [row(0, **{"named (1)": 0.3, "style": 0.3}), row(1, **{"named (1)": 0.5, "style": 0.2}),
            row(2, **{"named (1)": 0.7, "swapped (2)": 0.04, "style": 0.1})]  # fmt: skip
    text = curve.tables(rows)
    assert "| 2 | 91600 | 0.500 | 0.700 |" in text
    by_name = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count("|") == 5}
    assert by_name["named (1)"].endswith("| met |") and by_name["swapped (2)"].endswith("| met |")
    assert by_name["style"].endswith("| not on this line |")
    assert "goal met" not in curve.tables(rows[:1])


def test_intervals_hold_their_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for n in range(200):
        low, high = intervals.interval((rng.random(60) < 0.4).astype(float), seed=n)
        held += low <= 0.4 <= high
    assert 180 <= held <= 199
    # As the normal approximation says for many.
    values = rng.normal(1, 2, 4000)
    half = intervals.NORMAL * values.std() / len(values) ** 0.5
    assert intervals.interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_so_many_pictures_tell_two_models_apart():
    """By drawing: at that number the gap exceeds the interval's half width in half of all trials."""
    gap, deviation = 0.1, 0.5
    count = round(intervals.pictures_needed(gap, deviation))
    draws = np.random.default_rng(1).normal(0, deviation, (4000, 2, count)).mean(-1)
    half = intervals.NORMAL * deviation * (2 / count) ** 0.5
    assert np.mean(gap + draws[:, 0] - draws[:, 1] > half) == pytest.approx(0.5, abs=0.03)
    assert intervals.pictures_needed(0, 1) == float("inf")


def test_a_folder_travels_in_parts_and_damage_is_seen(tmp_path):
    folder = tmp_path / "state"
    (folder / "rounds").mkdir(parents=True)
    noise = np.random.default_rng(0).bytes(5000)
    (folder / "rounds" / "a.bin").write_bytes(noise)
    (folder / "curve.jsonl").write_text("{}\n")
    (folder / "left.txt").write_text("not taken")
    parts = travel.pack(folder, tmp_path / "out", 2000, 10_000, ["rounds", "curve.jsonl"])
    assert len(parts) == 3 and max(p.stat().st_size for p in parts) <= 2000
    travel.unpack(tmp_path / "out", tmp_path / "there")
    assert (tmp_path / "there" / "rounds" / "a.bin").read_bytes() == noise
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["curve.jsonl", "rounds"]
    # Features are known by the times of their files.
    assert (tmp_path / "there" / "curve.jsonl").stat().st_mtime == (folder / "curve.jsonl").stat().st_mtime
    with pytest.raises(SystemExit, match="more than"):
        travel.pack(folder, tmp_path / "small", 2000, 3000, ["rounds"])
    assert not (tmp_path / "small").exists()
    with pytest.raises(SystemExit, match="has no base"):
        travel.pack(folder, tmp_path / "small", 2000, 9000, ["base"])
    parts[1].write_bytes(b"x" + parts[1].read_bytes()[1:])
    with pytest.raises(SystemExit, match="part-001 is damaged"):
        travel.unpack(tmp_path / "out", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_scores_of_a_round_are_written_once(tiny, monkeypatch):
    world, run = tiny
    made = {f"{name} ({c})": [0.25] for c in (1, 2) for name in ("subject", "named", "swapped")}
    monkeypatch.setattr(train_all.art, "load", lambda cache: None)
    monkeypatch.setattr(train_all.classifier, "load", lambda drawings: None)
    monkeypatch.setattr(train_all, "score", lambda *args: (made, {}))
    monkeypatch.setattr(train_all, "score_styles", lambda *args, told: {"style": [[0.0, 1.0]]})
    said = []
    for _ in range(2):
        train_all.measure(world, run, 0, said.append)
    rows = [json.loads(line) for line in world.curve.read_text().splitlines()]
    assert len(rows) == len(said) == 1 and rows[0]["scores"]["style"] == 0.5 and rows[0]["samples"] == 0
