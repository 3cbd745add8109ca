"""Benchmarks end to end on real servers: two at once, killed and resumed; numbers by brute force; the page opened."""

import json
import os
import signal
import subprocess
import sys
import time

import bench_world
import numpy as np
import pandas as pd
import pytest
import torch
from boot import REPO
from comfy_server import Server
from example_inputs import write_example_inputs
from front_end import needs_browser
from PIL import Image
from selenium.webdriver.common.by import By
from transformers import CLIPImageProcessor, CLIPModel

from dreamo_core.bench.__main__ import main
from dreamo_core.bench.registry import BENCHMARKS


@pytest.fixture(scope="module")
def second_server(tmp_path_factory):
    base = tmp_path_factory.mktemp("second")
    write_example_inputs(base)
    with Server(base) as server:
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bench_world.write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    tokenizer = f"{os.environ['DREAMO_COMFYUI']}/comfy/sd1_tokenizer"
    return bench_world.write_clip(tmp_path_factory.mktemp("clip"), tokenizer)


def arguments(name, data, out, *servers, graph="GRAPH"):
    given = [name, "--data", str(data[name]), "--out", str(out), "--seeds", "1", "--graph", f"bench_world:{graph}"]
    return given + [part for server in servers for part in ("--server", server.url)]


def pictures(out):
    return {path: path.stat().st_mtime_ns for path in (out / "pictures").rglob("*.png")}


def test_killed_and_resumed_on_two_servers_nothing_is_lost_and_nothing_drawn_twice(
    demo_server, second_server, data, clip, tmp_path, capsys
):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "dreamo_core.bench", *arguments("dreambench", data, out, demo_server)]
    process = subprocess.Popen(command, cwd=REPO, env={**os.environ, "PYTHONPATH": "tests"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(pictures(out)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = pictures(out)
    assert 2 <= len(before) < 9
    resumed = [*arguments("dreambench", data, out, demo_server, second_server), "--scorer", f"clip-b32={clip}"]
    assert main([*resumed, "--cut", "none"]) == 0
    after = pictures(out)
    assert len(after) == 9 and all(after[path] == stamp for path, stamp in before.items())
    said = capsys.readouterr().out
    counts = [int(line.split()[2]) for line in said.splitlines() if line.startswith("server ")]
    assert len(counts) == 2 and min(counts) > 0 and sum(counts) == 9 - len(before)

    # The same pictures whichever server drew them, and the numbers of one that never was interrupted.
    whole = tmp_path / "whole"
    again = arguments("dreambench", data, whole, second_server)
    assert main([*again, "--scorer", f"clip-b32={clip}", "--cut", "none"]) == 0
    for path in after:
        other = whole / path.relative_to(out)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))
    means = [json.loads((folder / "report.json").read_text())["means"] for folder in (out, whole)]
    assert means[0] == means[1]

    # By brute force, one picture and one number at a time.
    model, process_ = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessor.from_pretrained(clip)

    def feature(path):
        pixels = process_(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        found = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        return found / found.norm()

    cases = {case.id: case for case in BENCHMARKS["dreambench"].read(data["dreambench"])}
    by_group: dict[str, list[float]] = {}
    for path in sorted(after):
        case = cases[path.parent.name]
        value = float(feature(path) @ feature(case.references[0].path))
        by_group.setdefault(case.group, []).append(value)
    slow = float(np.mean([value for values in by_group.values() for value in values]))
    assert means[0]["CLIP-I B/32"]["mean"] == pytest.approx(slow, abs=1e-5)
    assert (means[0]["CLIP-I B/32"]["pictures"], means[0]["CLIP-I B/32"]["groups"]) == (9, 3)
    page = (out / "report.html").read_text()
    assert "3 of 30 groups" in page and "DreamO (arXiv 2504.16915), Table 1, single subject" in page
    assert str(tmp_path) not in page + (out / "report.json").read_text() and str(data["dreambench"]) not in page


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "dreambench"])
def test_every_benchmark_runs_end_to_end(name, demo_server, second_server, data, clip, tmp_path):
    out = tmp_path / "run"
    dino = bench_world.write_dino(tmp_path / "dino")
    scored = ["--scorer", f"clip-b32={clip}", "--scorer", f"dino={dino}"]
    given = arguments(name, data, out, demo_server, second_server)
    if name == "viton_hd":
        folder = bench_world.write_garments(tmp_path / "clothes", {0: "Background", 1: "Upper-clothes", 2: "Hair"})
        scored += ["--cut", f"garment={folder}"]
    assert main([*given, "--limit", "2", *scored]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["pictures"] == 2 and set(report["papers"]) and any("do not compare" in n for n in report["notes"])
    scores = pd.concat([pd.read_csv(file) for file in (out / "scores").glob("*.csv")])
    for metric, part in scores.groupby("metric"):
        assert report["means"][metric]["mean"] == pytest.approx(part["value"].mean())
        assert np.isfinite(part["value"]).all()
    metrics = set(report["means"])
    # RealCustom++'s first two cases are photographs of the class: likeness only.
    assert metrics == {"CLIP-I B/32", "DINO"} | ({"CLIP-T B/32"} if name != "realcustom" else set())


def test_two_settings_are_compared_and_the_page_shows_it(demo_server, data, clip, tmp_path, capsys):
    for graph in ("GRAPH", "FAST"):
        given = arguments("dreambench", data, tmp_path / graph, demo_server, graph=graph)
        assert main([*given, "--scorer", f"clip-b32={clip}", "--cut", "none", "--limit", "6"]) == 0
    runs = [str(tmp_path / graph) for graph in ("GRAPH", "FAST")]
    out = tmp_path / "compared"
    named = ["--data", str(data["dreambench"]), "--benchmark", "dreambench", "--names", "full", "fast"]
    assert main(["compare", *runs, "--out", str(out), *named]) == 0
    found = json.loads((out / "report.json").read_text())
    a, b = (pd.read_csv(tmp_path / graph / "scores" / "clip-b32.csv").set_index(["metric", "case"]) for graph in
            ("GRAPH", "FAST"))  # fmt: skip
    for metric, row in found["differences"].items():
        change = (b["value"] - a["value"])[metric]
        assert row["B − A"] == pytest.approx(change.mean()) and row["pictures"] == 6 and row["groups"] == 3
    assert (found["A"], found["B"]) == ("full", "fast")
    # The same run against itself has no difference at all.
    assert main(["compare", runs[0], runs[0], "--out", str(tmp_path / "same")]) == 0
    same = json.loads((tmp_path / "same" / "report.json").read_text())["differences"]
    assert all(row["B − A"] == 0 and row["p"] == 1 for row in same.values())
    # Another graph in the same folder would mix two settings.
    capsys.readouterr()
    assert main(arguments("dreambench", data, tmp_path / "GRAPH", demo_server, graph="FAST")) == 1
    assert "holds a run with another graph; choose another --out" in capsys.readouterr().err


def test_scores_are_kept_until_their_picture_or_weights_change(demo_server, data, clip, tmp_path, monkeypatch):
    out = tmp_path / "run"
    given = [*arguments("dreambench", data, out, demo_server), "--limit", "2", "--cut", "none"]
    scored = [*given, "--scorer", f"clip-b32={clip}"]
    assert main(scored) == 0
    seen = []
    from dreamo_core.bench.scorers.clip import Clip

    score = Clip.score
    monkeypatch.setattr(Clip, "score", lambda self, shots: seen.append(len(shots)) or score(self, shots))
    assert main(scored) == 0 and seen == []
    (changed, *_) = sorted((out / "pictures").rglob("*.png"))
    Image.new("RGB", (64, 64), "red").save(changed)
    assert main([*scored, "--no-drawing"]) == 0 and seen == [1]
    model = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        model.visual_projection.weight += 0.1
    other = tmp_path / "other"
    model.save_pretrained(other)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((clip / name).read_bytes())
    assert main([*given, "--no-drawing", "--scorer", f"clip-b32={other}"]) == 0 and seen == [1, 2]


def test_a_graph_that_fails_costs_its_own_pictures_only(demo_server, data, tmp_path, capsys):
    from graph import use_demo_models

    from dreamo_core.measure.prompt import to_prompt

    workflow = json.loads((REPO / "workflows" / "subject.json").read_text())
    prompt = use_demo_models(to_prompt(workflow, demo_server.object_info()))
    (latent,) = [n for n in prompt.values() if n["class_type"] == "EmptySD3LatentImage"]
    latent["inputs"] |= {"width": 64, "height": 64}
    (tmp_path / "graph.json").write_text(json.dumps(prompt))
    given = ["unsplash50", "--data", str(data["unsplash50"]), "--server", demo_server.url, "--limit", "2"]
    steps = next(n for n, c in prompt.items() if c["class_type"] == "KSampler")
    given += ["--graph", str(tmp_path / "graph.json"), "--set", f"{steps}.steps=1"]
    assert main([*given, "--out", str(tmp_path / "good")]) == 0
    assert len(pictures(tmp_path / "good")) == 2
    assert main([*given, "--set", f"{steps}.sampler_name=nothing", "--out", str(tmp_path / "bad")]) == 0
    failures = json.loads((tmp_path / "bad" / "failures.json").read_text())
    assert len(failures) == 2 and "sampler_name" in failures[0]["said"]
    assert "sampler_name" in (tmp_path / "bad" / "report.html").read_text()


def test_a_server_that_dies_leaves_its_work_to_the_other(demo_server, second_server, data, tmp_path):
    """The last test with the second server, which it kills."""
    out = tmp_path / "run"
    given = [*arguments("dreambench", data, out, demo_server, second_server), "--seeds", "2", "--patience", "1"]
    command = [sys.executable, "-m", "dreamo_core.bench", *given]
    process = subprocess.Popen(
        command, cwd=REPO, env={**os.environ, "PYTHONPATH": "tests"}, stderr=subprocess.PIPE, text=True
    )
    while len(pictures(out)) < 4 and process.poll() is None:
        time.sleep(0.02)
    second_server.process.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(pictures(out)) == 18 and json.loads((out / "failures.json").read_text()) == []
    # With nobody left it says so, keeps what there is, and goes on later.
    alone = [*arguments("unsplash50", data, tmp_path / "alone", second_server), "--patience", "0.5"]
    assert main(alone) == 1


@pytest.mark.browser
class TestPage:
    pytestmark = needs_browser

    def test_the_page_shows_its_tables_plots_and_pictures(self, browser, demo_server, data, clip, tmp_path):
        out = tmp_path / "run"
        given = [*arguments("dreambench", data, out, demo_server), "--limit", "3", "--scorer", f"clip-b32={clip}"]
        assert main(given) == 0
        browser.get((out / "report.html").as_uri())
        titles = [title.text for title in browser.find_elements(By.TAG_NAME, "h2")]
        assert titles[:4] == ["Run", "Scores", "Beside the papers", "Examples"] and titles[-1] == "Machine"
        broken = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
        assert len(browser.find_elements(By.TAG_NAME, "img")) > 8 and browser.execute_script(broken) == 0
        wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.execute_script(wide)
        cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "td")]
        assert "0.9150" in cells and "31.9200" in cells
        (link,) = [a for a in browser.find_elements(By.CSS_SELECTOR, "nav a") if a.text == "Machine"]
        link.click()
        assert browser.execute_script("return scrollY") > 0
