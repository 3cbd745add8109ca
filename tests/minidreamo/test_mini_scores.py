"""The mini world's classifier, scores, ablation and choice of blocks, on made-up drawings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world

from dreamo_core.training.config import load_config
from minidreamo import ablation, art, classifier, intervals, routing_blocks, scenes, score

NAMES = [f"thing {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def world():
    """Patches of colours; a vendor changes their brightness and adds a little of its own."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(30, 225, (len(NAMES), 1, 4, 4, 3)).repeat(16, 2).repeat(16, 3)
    cutouts = np.full((len(NAMES), 5, art.SIZE, art.SIZE, 4), 255, np.uint8)
    own = rng.normal(0, 12, (len(NAMES), 5, art.SIZE, art.SIZE, 3)) + rng.normal(0, 10, (1, 5, 1, 1, 3))
    cutouts[..., :3] = (patterns + own).clip(0, 255)
    cutouts[:, :, :6, :, 3] = 0
    trained = np.ones((len(NAMES), 5), bool)
    trained[20:] = False
    return art.Art(NAMES, cutouts, trained)


@pytest.fixture(scope="module")
def judge(world):
    with torch.enable_grad():
        subjects = classifier.train_subjects(world, seed=0, steps=40, say=lambda line: None)
    return classifier.judge_of(world, subjects, classifier.Layout().eval())


def test_the_classifier_names_subjects_it_has_never_seen(world, judge):
    """Held-out names, from the drawings of other vendors, on grounds; chance is one in twenty."""
    rng, pool = np.random.default_rng(1), np.argwhere(~world.trained)
    right, like, unlike = [], [], []
    for _ in range(40):
        scene = scenes.random_scene(world, rng, pool, 1, styled=0)
        subject = scene.subjects[0]
        (feature,) = judge.features([scenes.window(scenes.draw(world, scene)[0], subject, classifier.SIDE)])
        among = classifier.candidates(len(NAMES), subject.name, rng)
        assert len(set(among)) == classifier.CANDIDATES and among[0] == subject.name
        right.append(judge.named_right(feature, subject, among))
        like.append(judge.likeness(feature, subject))
        unlike.append(judge.likeness(feature, scenes.Subject(int(among[1]), subject.vendor)))
    assert np.mean(right) > 0.6 and np.mean(like) > np.mean(unlike) + 0.3


def test_a_seed_gives_the_same_classifier_and_other_drawings_another_identity(world):
    with torch.enable_grad():
        one, two = (classifier.train_subjects(world, 3, 2, say=lambda line: None).state_dict() for _ in range(2))
        layouts = [classifier.train_layout(world, 3, 2, say=lambda line: None).state_dict() for _ in range(2)]
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(torch.equal(value, layouts[1][key]) for key, value in layouts[0].items())
    other = replace(world, trained=~world.trained)
    assert classifier.identity(world, 0) != classifier.identity(other, 0) != classifier.identity(other, 1)


def test_the_classifier_is_trained_once_and_kept(world, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "SUBJECT_STEPS", 2)
    monkeypatch.setattr(classifier, "LAYOUT_STEPS", 1)
    path, said = tmp_path / "cache" / "classifier.safetensors", []
    with torch.enable_grad():
        first = classifier.load(world, path, say=said.append)
        assert any("training" in line for line in said)
        said.clear()
        again = classifier.load(world, path, say=said.append)
    assert not said and torch.equal(first.drawings, again.drawings)


def test_places_are_what_the_prompt_says(world):
    rng, pool = np.random.default_rng(2), np.argwhere(world.trained)
    seen = set()
    for n in range(200):
        scene = scenes.random_scene(world, rng, pool, 1 + n % 3)
        place = classifier.PLACES[classifier.place_of(scene)]
        seen.add(place)
        if len(scene.subjects) < 3:
            assert place in scene.prompt
            assert place or not any(other in scene.prompt for other in classifier.PLACES if other)
    assert seen == set(classifier.PLACES)


class Copyist:
    """Draws the very picture that is wanted, or the one with its subjects exchanged."""

    def __init__(self, world, exchanged=False):
        self.world, self.exchanged, self.prompts, self.references = world, exchanged, [], []

    def encode(self, pixels):
        return pixels

    def draw(self, prompts, references, seed, steps, watch=None):
        self.prompts, self.references = prompts, references
        chosen = score.tasks(self.world, len(references), len(prompts))
        drawn = [scenes.draw(self.world, task.scene) for task in chosen]
        masks = torch.stack([score.token_masks(found) for _, found in drawn])
        chain = torch.tensor([[t.scene.numbers.index(n) for n in range(t.count)] for t in chosen])
        masks = masks.take_along_dim(chain[..., None], 1)
        if watch:
            noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
            for _ in range(4):
                watch(torch.stack([noise, masks]))
        pictures = np.stack([scenes.draw(self.world, self._scene(task.scene))[0] for task in chosen])
        return scenes.to_pixels(pictures), masks

    def _scene(self, scene):
        if not self.exchanged or len(scene.subjects) < 2:
            return scene
        a, b = scene.subjects
        return replace(scene, subjects=(replace(a, centre=b.centre), replace(b, centre=a.centre)))


def test_scores_of_a_perfect_and_of_an_exchanging_artist(world, judge):
    numbers, shown = score.score(Copyist(world), world, judge, pictures=12, seeds=2)
    assert shown[2].shape == (12, 96, 96, 3) and all(len(values) == 2 for values in numbers.values())
    for name in ("IoU (1)", "IoU (2)", "pixels right (1)", "pixels right (2)"):
        assert numbers[name] == [1.0, 1.0]
    assert min(numbers["subject (1)"]) > max(numbers["subject chance (1)"]) + 0.3
    assert numbers["swapped (2)"] == numbers["pixels swapped (2)"] == [0.0, 0.0]
    assert all(p <= n for p, n in zip(numbers["prompt (2)"], numbers["named (2)"], strict=True))
    numbers, _ = score.score(Copyist(world, exchanged=True), world, judge, pictures=12, seeds=1, counts=(2,))
    assert numbers["swapped (2)"] == numbers["pixels swapped (2)"] == [1.0] and "IoU (1)" not in numbers


def test_a_mean_and_its_interval_are_of_the_same_pictures(world, judge):
    numbers, _ = score.score_pictures(Copyist(world), world, judge, pictures=12, seeds=2, counts=(2,))
    assert all(len(seeds) == 2 and {len(s) for s in seeds} == {12} for seeds in numbers.values())
    means, _ = score.score(Copyist(world), world, judge, pictures=12, seeds=2, counts=(2,))
    assert means == score.over_seeds(numbers)
    assert np.mean(score.over_pictures(numbers["named (2)"])) == pytest.approx(np.mean(means["named (2)"]))
    line = score.table({"half": [[0.0, 1.0] * 8, [0.0, 1.0] * 8], "all": [[1.0] * 16, [1.0] * 16]}).splitlines()
    assert line[0].split()[1:4] == ["0.500", "±", "0.000"] and line[1].endswith("1.000 to 1.000")
    low, high = (float(line[0].split()[n]) for n in (-3, -1))
    assert 0.2 < low < 0.35 and 0.65 < high < 0.8


class Stylist:
    """Draws the common subject as the reference's vendor does, or as the word says, or as the first vendor."""

    def __init__(self, world):
        self.world = world

    def encode(self, pixels):
        return pixels

    def draw(self, prompts, references, seed, steps):
        pictures = []
        for prompt, (scene, reference) in zip(prompts, score.style_tasks(self.world, len(prompts)), strict=True):
            assert bool(references) == prompt.startswith("generate a same style image. ")
            word = next((vendor for vendor, style in enumerate(scenes.STYLES) if f" from {style}" in prompt), 0)
            vendor = reference.vendor if references else word
            subject = replace(scene.subjects[0], vendor=vendor, mirrored=bool(seed % 2))
            pictures.append(scenes.draw(self.world, replace(scene, subjects=(subject,)))[0])
        return scenes.to_pixels(np.stack(pictures)), None


def test_styles_are_told_apart(world):
    numbers = score.over_seeds(score.score_styles(Stylist(world), world, pictures=20, seeds=2))
    vendors = [reference.vendor for _, reference in score.style_tasks(world, 20)]
    assert numbers["style"] == numbers["style, by word"] == [1.0, 1.0]
    assert numbers["style, none"] == [vendors.count(0) / 20] * 2 and len(set(vendors)) > 2


def test_references_are_drawn_in_the_order_of_their_numbers(world):
    artist, chosen = Copyist(world), score.tasks(world, 2, 6)
    assert len({task.scene.numbers for task in chosen}) == 2
    score.draw_all(artist, world, chosen, 0)
    assert artist.prompts == [task.scene.text(placeholders=True) for task in chosen]
    for n in range(2):
        shown = [scenes.draw_reference(world, task.scene.references[n]) for task in chosen]
        assert torch.equal(artist.references[n], scenes.to_pixels(np.stack(shown)))
    score.draw_all(artist, world, chosen, 0, placeholders=False)
    assert not any("ref#" in prompt for prompt in artist.prompts)


def test_the_block_that_knows_comes_out_best(world):
    sets = routing_blocks.block_sets(1, 1)
    assert sets == {
        "double 0": (0,), "single 0": (1,), "double": (0,), "single": (1,), "all": (0, 1), "double 0, single 0": (0, 1),
    }  # fmt: skip
    found = routing_blocks.measure(Copyist(world), world, 4, 1, sets)
    assert found["single 0"] == {f"{c}, {s}": 1.0 for c in (1, 2, 3) for s in ("all steps", "first 3 steps")}
    assert max(found["double 0"].values()) < 0.7
    lines = routing_blocks.table(found, sets).splitlines()
    assert len(lines) == 2 + 6 and lines[3].startswith("| single 0 | 1.000 |")


@pytest.fixture
def run(tmp_path):
    training_world.write_base(tmp_path / "base")
    training_world.write_data(tmp_path / "data")
    stages = training_world.STAGES.replace("decay = 0.5", "warm_up = 3") + "[losses]\nrouting = 1.0\n"
    return load_config(training_world.write_config(tmp_path, "run", stages=stages))


def test_shortening_keeps_the_proportions(run):
    long = replace(run, stages=tuple(replace(s, steps=100 * s.steps, warm_up=40) for s in run.stages))
    short = ablation.shortened(long, 0.25)
    assert [s.steps for s in short.stages] == [100, 150] and [s.warm_up for s in short.stages] == [10, 10]
    assert [s.steps for s in ablation.shortened(run, 0.001).stages] == [1, 1]
    staged = ablation.without_stages(
        replace(run, stages=(run.stages[0], replace(run.stages[1], reference_token_drop=0)))
    )
    assert [s.steps for s in staged.stages] == [10] and staged.stages[0].mixture == run.stages[1].mixture


def test_variants_are_trained_scored_and_kept_one_by_one(run, tmp_path, monkeypatch):
    scored = []

    def fake_score(path, world, judge, pictures, seeds, counts, placeholders):
        scored.append((path.parent.name, counts, placeholders))
        values = [[0.1 * len(scored) + 0.01, 0.1 * len(scored) - 0.01]] * seeds
        return {f"{name} ({c})": values for c in counts for name in ("swapped", "IoU")}, {}

    monkeypatch.setattr(ablation, "score_pictures", fake_score)
    work = ablation.Ablation(run, tmp_path / "out", pictures=4, seeds=2)
    job = ("no routing loss", "with placeholders", (1, 2), lambda dreamo: (dreamo, None, None))
    with torch.enable_grad():
        assert not work.measure(*job, until=0) and not scored and ablation.progress(work.of(job[0]).output) == (0, 1)
        assert work.measure(*job, until=None) and work.measure(*job, until=None)
    assert scored == [("no-routing-loss", (1, 2), True)]
    text = ablation.tables(work)
    assert "| no routing loss | – |" in text and "0.100 ± 0.000" in text and "| full" not in text
    # A finished run of the config serves as `full`; its prompts without placeholders are for Figure 6.
    work = replace(work, trained=tmp_path / "elsewhere" / "dreamo.safetensors")
    assert work.measure("full", "without placeholders", (2,), job[3], None)
    assert scored[-1] == ("elsewhere", (2,), False)
    assert "| full, without placeholders | 0.200 ± 0.000 |" in ablation.tables(work)
    assert work.measure("full", "with placeholders", (1, 2), job[3], None)
    text = ablation.tables(work)
    assert "0.300 (0.29 to 0.31)" in text
    # A gap of 0.2 at a deviation of 0.01.
    assert f"{intervals.pictures_needed(0.2, 0.01):.0f} pictures" in text and "| told apart from full by |" in text


def test_a_folder_of_another_base_is_refused(run, tmp_path):
    work = ablation.Ablation(run, tmp_path / "out", 4, 2)
    work.claim("full")
    work.claim("full")
    (tmp_path / "base" / "clip.safetensors").write_bytes(b"another")
    with pytest.raises(SystemExit, match="another config, base or data"):
        work.claim("full")
