"""Data sets: read as published, as many cases as the papers have, and what is wrong with a folder is said."""

import json
import re

import bench_world
import pytest

from dreamo_core.bench import manifest
from dreamo_core.bench.__main__ import main
from dreamo_core.bench.case import IMAGE, TEXT
from dreamo_core.bench.registry import BENCHMARKS, find_benchmark
from dreamo_core.bench.sets import dreambench
from dreamo_core.bench.tables import PAPERS

KINDS = {**{f"dog{n}": "dog" for n in range(9)}, **{f"thing{n}": "stuffed animal" for n in range(21)}}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return bench_world.write_dreambench(tmp_path_factory.mktemp("dreambench"), KINDS)


def test_dreambench_has_as_many_cases_as_the_papers(published):
    for name in ("dreambench", "dreambench_pairs", "realcustom", "realcustom_pairs"):
        benchmark = BENCHMARKS[name]
        cases = benchmark.read(published)
        assert len({case.id for case in cases}) == len(cases) == benchmark.expected["cases"]
        assert len({case.group for case in cases}) == benchmark.expected["groups"]
        assert not benchmark.shortfalls(cases, benchmark.seeds)


def test_dreambench_prompts_name_the_class_and_live_subjects_have_their_own(published):
    cases = {case.id: case for case in BENCHMARKS["dreambench"].read(published)}
    assert cases["dog3__0"].prompt == cases["dog3__0"].text == "a dog in place 0 (l)"
    assert cases["thing4__23"].prompt == "a red stuffed animal (o)"
    assert cases["dog3__0"].references[0].path == published / "dog3" / "00.jpg"


def test_pairs_name_both_subjects_each_with_its_placeholder(published):
    cases = BENCHMARKS["dreambench_pairs"].read(published)
    for case in cases:
        kinds = [KINDS[name] for name in case.group.split("+")]
        assert case.text == re.sub(r" from \[ref#\d\]", "", case.prompt)
        assert case.prompt.index(f"{kinds[0]} from [ref#1]") < case.prompt.index(f"{kinds[1]} from [ref#2]")
        assert [r.path.parent.name for r in case.references] == case.group.split("+")
    assert dreambench.pair_text("a red {} (o)", ["dog", "can"], False) == "a red dog and a red can (o)"
    assert [c.id for c in cases] == [c.id for c in BENCHMARKS["dreambench_pairs"].read(published)]


def test_realcustom_scores_likeness_and_text_on_different_prompts(published):
    cases = BENCHMARKS["realcustom"].read(published)
    assert {case.text for case in cases if IMAGE in case.scored} == {"a photo of a dog", "a photo of a stuffed animal"}
    assert all(case.scored in ({IMAGE}, {TEXT}) for case in cases)
    assert sum(TEXT in case.scored for case in cases) == 750


def test_folders_of_the_papers_sizes(tmp_path):
    wanted = {"unsplash50": ("faces", 50, 9), "viton_hd": ("cloth", 302, 10), "style": ("styles", 249, 24)}
    for name, (folder, count, prompts) in wanted.items():
        root = tmp_path / name
        (root / folder).mkdir(parents=True)
        for n in range(count):
            (root / folder / f"{n:03}.jpg").touch()
        (root / "prompts.txt").write_text("\n".join(f"prompt {n}" for n in range(prompts)))
        cases = BENCHMARKS[name].read(root)
        assert not BENCHMARKS[name].shortfalls(cases, 1) and len(cases) == BENCHMARKS[name].expected["cases"]
    style = BENCHMARKS["style"].read(tmp_path / "style")[0]
    assert style.prompt == "generate a same style image. prompt 0" and style.text == "prompt 0"
    uso = tmp_path / "uso"
    for folder in ("content", "style"):
        (uso / folder).mkdir(parents=True)
        for n in range(50):
            (uso / folder / f"{n}.png").touch()
    for kind in ("subject", "style"):
        (uso / f"{kind}_prompts.txt").write_text("\n".join(f"{kind} prompt {n}" for n in range(30)))
    for name in ("uso_subject", "uso_style", "uso_joint"):
        cases = BENCHMARKS[name].read(uso)
        assert not BENCHMARKS[name].shortfalls(cases, 1) and len({c.id for c in cases}) == len(cases)
    joint = BENCHMARKS["uso_joint"].read(uso)[51]
    assert [r.task for r in joint.references] == ["subject", "style"]
    assert [r.path.name for r in joint.references] == ["1.png", "1.png"]


def test_masks_beside_are_found(tmp_path):
    data = bench_world.write_all(tmp_path)
    (case, *_) = BENCHMARKS["viton_hd"].read(data["viton_hd"])
    assert case.references[0].keep == data["viton_hd"] / "cloth-mask" / "000.png"
    bench_world.picture(data["dreambench"] / "masks" / "clock.png", 0)
    kept = {case.group: case.references[0].keep for case in BENCHMARKS["dreambench"].read(data["dreambench"])}
    assert kept == {"cat2": None, "clock": data["dreambench"] / "masks" / "clock.png", "duck_toy": None}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "prompts_and_classes.txt").unlink(), "no prompts_and_classes.txt.*google/dreambooth"),
        (lambda root: (root / "prompts_and_classes.txt").write_text("backpack"), "does not look as published"),
        (lambda root: [p.unlink() for p in (root / "clock").iterdir()], "no pictures in .*clock"),
    ],
)
def test_a_folder_that_is_wrong_is_one_clear_error(tmp_path, spoil, said):
    root = bench_world.write_dreambench(tmp_path / "data", {"clock": "clock"}, prompts=3)
    spoil(root)
    with pytest.raises(ValueError, match=said):
        BENCHMARKS["dreambench"].read(root)


def test_missing_prompts_say_that_the_paper_prints_none(tmp_path):
    bench_world.write_folders(tmp_path, {"faces": 1}, {})
    with pytest.raises(ValueError, match="prompts.txt. The paper does not print its own: write 9 of yours"):
        BENCHMARKS["unsplash50"].read(tmp_path)


def test_broken_and_changed_files_are_named(tmp_path, capsys):
    root = bench_world.write_dreambench(tmp_path / "data", {"clock": "clock", "can": "can"}, prompts=3)
    cases = BENCHMARKS["dreambench"].read(root)
    before = manifest.manifest_of(cases, root)
    manifest.claim(tmp_path / "manifest.json", before)
    manifest.claim(tmp_path / "manifest.json", before)
    bench_world.picture(root / "can" / "00.jpg", 7)
    with pytest.raises(ValueError, match="1 changed: can/00.jpg"):
        manifest.claim(tmp_path / "manifest.json", manifest.manifest_of(cases, root))
    (root / "clock" / "00.jpg").write_bytes((root / "clock" / "00.jpg").read_bytes()[:400])
    (broken,) = manifest.unreadable(cases, root)
    assert broken.startswith("clock/00.jpg: ")
    arguments = ["dreambench", "--data", str(root), "--out", str(tmp_path / "out"), "--no-drawing"]
    assert main(arguments) == 1
    assert "1 files of the data are no pictures: clock/00.jpg" in capsys.readouterr().err


def test_the_list_says_where_data_come_from_and_invents_no_address(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in (*BENCHMARKS, "mini_world"):
        assert f"\n{name}: {find_benchmark(name).title}" in said
    assert set(re.findall(r"https?://\S+", said)) == {
        "https://github.com/google/dreambooth,", "https://github.com/shadow2496/VITON-HD"
    }  # fmt: skip


def test_the_papers_numbers_belong_to_benchmarks_and_metrics_that_are_there():
    metrics = {"CLIP-I B/32", "CLIP-T B/32", "CLIP-I L/14", "CLIP-T L/14", "DINO", "CSD", "face similarity", None}
    papers = json.loads(PAPERS.read_text())["benchmarks"]
    assert set(papers) == set(BENCHMARKS)
    assert {row["ours"] for entries in papers.values() for entry in entries for row in entry["rows"]} == metrics
    (single,) = papers["dreambench"]
    assert {row["printed"]: row["values"]["DreamO"] for row in single["rows"]} == {
        "CLIP-sim": 0.9150, "DINO-sim": 0.8056, "Text-sim": 31.92
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"), [("nothing", "There is no benchmark 'nothing'"), ("os:nothing", "cannot be imported"),
                       ("os:sep", "is no benchmark but a str")],
)  # fmt: skip
def test_an_unknown_benchmark_is_one_clear_error(name, said):
    with pytest.raises(ValueError, match=said):
        find_benchmark(name)
