"""The mini world as a benchmark: drawn by the real server from its trained weights, judged by a classifier."""

import json

import numpy as np
import pytest
import torch
from mini_world_table import NUMBERS, PAGE, page_with
from PIL import Image

from dreamo_core.bench.__main__ import main
from dreamo_core.bench.draw import picture_path
from minidreamo import art, benchmark, classifier, scenes, score

NAMES = [f"thing {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def world():
    """Patches of colours in place of drawings; six subjects are held out."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(30, 225, (len(NAMES), 1, 4, 4, 3)).repeat(16, 2).repeat(16, 3)
    cutouts = np.full((len(NAMES), 5, art.SIZE, art.SIZE, 4), 255, np.uint8)
    cutouts[..., :3] = (patterns + rng.normal(0, 8, (len(NAMES), 5, 1, 1, 3))).clip(0, 255)
    trained = np.ones((len(NAMES), 5), bool)
    trained[20:] = False
    return art.Art(NAMES, cutouts, trained)


@pytest.fixture(scope="module")
def judge(world):
    torch.manual_seed(0)
    subjects, layout = classifier.Subjects(len(NAMES)).eval(), classifier.Layout().eval()
    return classifier.judge_of(world, subjects, layout)


def test_scenes_come_back_from_the_folder_as_they_were(world, tmp_path):
    benchmark.write_data(world, tmp_path, 3, (1, 2))
    cases = benchmark.read(tmp_path)
    tasks = [*score.tasks(world, 1, 3), *score.tasks(world, 2, 3)]
    assert [case.more["scene"] for case in cases] == [task.scene for task in tasks]
    for case, task in zip(cases, tasks, strict=True):
        assert case.prompt == task.scene.text(placeholders=True) and case.text == task.scene.text()
        for reference, subject in zip(case.references, task.scene.references, strict=True):
            assert np.array_equal(np.asarray(Image.open(reference.path)), scenes.draw_reference(world, subject))
    with pytest.raises(ValueError, match="There is no tasks.json"):
        benchmark.read(tmp_path / "references")


def test_drawn_by_the_server_and_scored_as_by_the_scores_themselves(world, judge, demo_server, tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "run"
    benchmark.write_data(world, data, 1, (1, 2))
    monkeypatch.setattr(benchmark, "scorer", lambda cache: benchmark.ClassifierScorer(world, judge, "v"))
    given = ["mini_world", "--data", str(data), "--out", str(out), "--server", demo_server.url, "--seeds", "1"]
    assert main([*given, "--graph", "minidreamo.benchmark:UNROUTED", "--scorer", "mini_world=anything"]) == 0
    report = json.loads((out / "report.json").read_text())
    for count in (1, 2):
        (task,) = score.tasks(world, count, 1)
        picture = np.array(Image.open(picture_path(out, f"{count}__000", 0)).convert("RGB"))
        found = score.measure(judge, world, task, picture, np.random.default_rng(task.scene.seed))
        for name, values in found.items():
            assert report["means"][f"{name} ({count})"]["mean"] == pytest.approx(np.mean(values)), name
    routed = tmp_path / "routed"
    given[given.index(str(out))] = str(routed)
    assert main([*given, "--graph", "minidreamo.benchmark:ROUTED", "--scorer", "mini_world=anything"]) == 0
    assert main(["compare", str(out), str(routed), "--out", str(tmp_path / "compared")]) == 0


def test_the_docs_have_the_table_of_the_numbers_file():
    assert page_with(PAGE.read_text(), json.loads(NUMBERS.read_text())) == PAGE.read_text()
