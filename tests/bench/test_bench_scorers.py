"""Scores equal what a slow and obvious second implementation finds."""

import bench_world
import numpy as np
import pytest
import timm
import torch
from bench_world import picture
from boot import REPO
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, ViTModel

from dreamo_core.bench import cut
from dreamo_core.bench.case import IMAGE, TEXT, Case, Reference
from dreamo_core.bench.registry import make_scorer
from dreamo_core.bench.scorers import face as face_scorer
from dreamo_core.bench.scorers.csd import csd
from dreamo_core.bench.scorers.protocol import Shot

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tokenizer():
    import os

    return f"{os.environ['DREAMO_COMFYUI']}/comfy/sd1_tokenizer"


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Five pictures with one or two references each, some tasks and kinds of scores among them."""
    folder, made = tmp_path_factory.mktemp("pictures"), []
    tasks = [("subject",), ("subject", "style"), ("style",), ("identity",), ("subject", "subject")]
    for n, chain in enumerate(tasks):
        references = tuple(
            Reference(picture(folder / f"{n}_{r}.png", 10 * n + r), task) for r, task in enumerate(chain)
        )
        scored = [frozenset({IMAGE, TEXT}), frozenset({TEXT}), frozenset({IMAGE})][n % 3 if n < 4 else 0]
        case = Case(f"case{n}", "drawn", f"a thing of kind {n} on a plain ground", references, f"group{n % 2}", scored)
        drawn = Image.open(picture(folder / f"{n}.png", 500 + n, (64, 48)))
        opened = tuple(Image.open(r.path).convert("RGB") for r in references)
        made.append(Shot(case, 0, drawn.crop((8, 8, 56, 40)), drawn, opened))
    return made


def mean_cosine(drawn, references):
    return sum(float(functional.cosine_similarity(drawn, r, dim=0)) for r in references) / len(references)


def test_clip_is_the_cosine_of_its_features_one_picture_at_a_time(tmp_path, tokenizer, shots):
    folder = bench_world.write_clip(tmp_path / "clip", tokenizer)
    scorer = make_scorer(f"clip-l14={folder}")
    found = scorer.score(shots)
    model = CLIPModel.from_pretrained(folder).eval()
    process, tokens = CLIPImageProcessor.from_pretrained(folder), CLIPTokenizerFast.from_pretrained(folder)

    def image(one):
        pixels = process(one, return_tensors="pt")["pixel_values"]
        return model.visual_projection(model.vision_model(pixels).pooler_output)[0]

    def text(words):
        return model.text_projection(model.text_model(**tokens(words, return_tensors="pt")).pooler_output)[0]

    for shot, numbers in zip(shots, found, strict=True):
        expected = {}
        if IMAGE in shot.case.scored:
            expected["CLIP-I L/14"] = mean_cosine(image(shot.picture), [image(r) for r in shot.references])
        if TEXT in shot.case.scored:
            expected["CLIP-T L/14"] = 100 * mean_cosine(image(shot.whole), [text(shot.case.text)])
        assert numbers == pytest.approx(expected, abs=100 * TOLERANCE)
    assert scorer.version != make_scorer(f"clip-b32={bench_world.write_clip(tmp_path / 'b', tokenizer, 5)}").version


def test_long_texts_are_cut_at_what_clip_can_read(tmp_path, tokenizer, shots):
    scorer = make_scorer(f"clip-b32={bench_world.write_clip(tmp_path / 'clip', tokenizer)}")
    long = Case("long", "x", "word " * 300, (), "group")
    (numbers,) = scorer.score([Shot(long, 0, shots[0].picture, shots[0].whole, ())])
    assert set(numbers) == {"CLIP-T B/32"} and np.isfinite(numbers["CLIP-T B/32"])


def test_dino_is_the_cosine_of_the_class_token(tmp_path, shots):
    folder = bench_world.write_dino(tmp_path / "dino")
    found = make_scorer(f"dino={folder}").score(shots)
    model = ViTModel.from_pretrained(folder).eval()

    def feature(one):
        small = np.asarray(one.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
        pixels = torch.from_numpy((small - 0.5) / 0.5).movedim(-1, 0)
        return model(pixels[None]).last_hidden_state[0, 0]

    for shot, numbers in zip(shots, found, strict=True):
        expected = mean_cosine(feature(shot.picture), [feature(r) for r in shot.references])
        assert numbers == (pytest.approx({"DINO": expected}, abs=1e-3) if IMAGE in shot.case.scored else {})


def test_dino_from_a_file_of_weights_is_timms(tmp_path, shots):
    torch.manual_seed(3)
    model = timm.create_model("vit_small_patch16_224.dino", num_classes=0).eval()
    torch.save({"teacher": {**model.state_dict(), "head.mlp.0.weight": torch.zeros(1)}}, tmp_path / "dino.pth")
    (numbers,) = make_scorer(f"dino={tmp_path / 'dino.pth'}").score(shots[:1])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    drawn, reference = (model(transform(p)[None])[0] for p in (shots[0].picture, shots[0].references[0]))
    assert numbers["DINO"] == pytest.approx(mean_cosine(drawn, [reference]), abs=TOLERANCE)


class OpenAITower(nn.Module):
    """CLIP's visual tower by the paper, on torch's own attention, with OpenAI's names."""

    def __init__(self, width=128, layers=2, patch=16, side=32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.1)
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width) * 0.1)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = []
        for _ in range(layers):
            block = nn.Module()
            block.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            block.mlp = nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            blocks.append(block)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(blocks)

    def forward(self, pixels):
        tokens = self.conv1(pixels).flatten(2).mT
        tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], 1) + self.positional_embedding
        x = self.ln_pre(tokens)
        for block in self.transformer.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            y = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))
        return self.ln_post(x[:, 0])


def test_csd_reads_the_released_layout_and_scores_styles_only(tmp_path, shots):
    torch.manual_seed(4)
    tower, head = OpenAITower().eval(), torch.randn(128, 24)
    state = {f"module.backbone.{k}": v for k, v in tower.state_dict().items()}
    state |= {"module.last_layer_style": head, "module.last_layer_content": torch.randn(128, 24)}
    torch.save({"model_state_dict": state}, tmp_path / "csd.pth")
    found = csd(str(tmp_path / "csd.pth")).score(shots)
    process = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def style(one):
        return (tower(process(one, return_tensors="pt")["pixel_values"]) @ head)[0]

    for shot, numbers in zip(shots, found, strict=True):
        pairs = zip(shot.references, shot.case.references, strict=True)
        styles = [opened for opened, reference in pairs if reference.task == "style"]
        if styles and IMAGE in shot.case.scored:
            expected = mean_cosine(style(shot.picture), [style(one) for one in styles])
            assert numbers == pytest.approx({"CSD": expected}, abs=TOLERANCE)
        else:
            assert numbers == {}
    assert any(found) and not all(found)


def slow_face_net(state, x):
    """The improved ResNet, layer by layer."""

    def norm(x, name):
        at = lambda part: state[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))  # noqa: E731
        y = (x - at("running_mean")) / (at("running_var") + 1e-5).sqrt()
        return y * at("weight") + at("bias") if f"{name}.weight" in state else y

    def prelu(x, name):
        return torch.where(x > 0, x, x * state[f"{name}.weight"].reshape(-1, 1, 1))

    x = prelu(norm(functional.conv2d(x, state["input_layer.0.weight"], padding=1), "input_layer.1"), "input_layer.2")
    n, width = 0, x.shape[1]
    seen: list[int] = []
    while f"body.{n}.res_layer.1.weight" in state:
        block = f"body.{n}"
        out = len(state[f"{block}.res_layer.1.weight"])
        stride = 1 if seen and seen[-1] == out else 2
        seen.append(out)
        short = x[:, :, ::stride, ::stride]
        if f"{block}.shortcut_layer.0.weight" in state:
            name = f"{block}.shortcut_layer"
            short = norm(functional.conv2d(short, state[f"{name}.0.weight"]), f"{name}.1")
        y = functional.conv2d(norm(x, f"{block}.res_layer.0"), state[f"{block}.res_layer.1.weight"], padding=1)
        y = functional.conv2d(
            prelu(y, f"{block}.res_layer.2"), state[f"{block}.res_layer.3.weight"], stride=stride, padding=1
        )
        x = norm(y, f"{block}.res_layer.4") + short
        n += 1
    assert width == seen[0]
    x = norm(x, "output_layer.0").flatten(1) @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    return functional.normalize(norm(x, "output_layer.4"), dim=-1)


@pytest.fixture(scope="module")
def face_file(tmp_path_factory):
    torch.manual_seed(6)
    net = face_scorer.FaceNet((1, 2, 2, 1), 8).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("face") / "CurricularFace_Backbone.pth"
    torch.save(net.state_dict(), path)
    return path


def test_the_face_network_equals_its_layers_by_hand_and_has_the_released_names(face_file):
    state = torch.load(face_file, weights_only=True)
    faces = torch.rand(2, 3, 112, 112) * 2 - 1
    net = face_scorer.face_net(state)
    assert torch.allclose(net(faces), slow_face_net(state, faces), atol=TOLERANCE)
    with torch.device("meta"):
        released = face_scorer.FaceNet().state_dict()
    assert released["output_layer.3.weight"].shape == (512, 512 * 7 * 7)
    assert "body.48.res_layer.4.weight" in released and "body.49.res_layer.0.weight" not in released
    with pytest.raises(ValueError, match="not the weights of a CurricularFace backbone"):
        face_scorer.face_net({"body.0.res_layer.1.weight": torch.zeros(8, 8, 3, 3)})


def test_faces_are_compared_upright_and_a_picture_without_one_scores_nothing(face_file):
    photos = REPO / "tests" / "data" / "photos"
    person, other = (Image.open(photos / f"{name}.webp").convert("RGB") for name in ("smiling", "glasses"))
    turned = person.rotate(12, Image.Resampling.BICUBIC, fillcolor=(200, 200, 200))
    case = Case("id", "x", "x", (Reference(photos / "smiling.webp", "identity"),), "group")
    scorer = make_scorer(f"face={face_file}")
    pictures = [person, turned, other, Image.new("RGB", (96, 96), "white")]
    same, rotated, else_, none = scorer.score([Shot(case, 0, p, p, (person,)) for p in pictures])
    assert same["face similarity"] == pytest.approx(1, abs=TOLERANCE)
    assert none == {"face similarity": 0, "face found": 0}
    assert rotated["face similarity"] > 0.95 and rotated["face similarity"] > else_["face similarity"]
    assert scorer.score([Shot(Case("s", "x", "x", (Reference(photos),), "g"), 0, person, person, (person,))]) == [{}]


def test_garments_are_cropped_by_mask_or_by_the_segmenters_own_labels(tmp_path):
    labels = {0: "Background", 1: "Upper-clothes", 2: "Hair", 3: "Dress"}
    cutter, note = cut.make_cut(f"garment={bench_world.write_garments(tmp_path / 'clothes', labels)}")
    assert "clothes" in note
    shown = Image.open(picture(tmp_path / "a.png", 0, (64, 48))).convert("RGB")
    mask = Image.fromarray(np.pad(np.full((20, 30), 255, np.uint8), ((8, 20), (4, 30))))
    assert np.array_equal(np.asarray(cutter(shown, mask)), np.asarray(shown)[8:28, 4:34])
    pixels = cutter.processor(images=shown, return_tensors="pt")["pixel_values"]
    numbers = functional.interpolate(cutter.model(pixels).logits, (48, 64), mode="bilinear")[0].argmax(0)
    worn = (numbers == 1) | (numbers == 3)
    assert 0 < worn.float().mean() < 1
    rows, columns = np.flatnonzero(worn.any(1).numpy()), np.flatnonzero(worn.any(0).numpy())
    expected = np.where(worn.numpy()[..., None], np.asarray(shown), 255)
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    assert np.array_equal(np.asarray(cutter(shown, None)), expected[window])
    with pytest.raises(ValueError, match="none of these is a garment"):
        cut.make_cut(f"garment={bench_world.write_garments(tmp_path / 'rooms', {0: 'wall', 1: 'floor'})}")


def test_backgrounds_become_white_by_mask_or_by_the_pack(tmp_path):
    shown = Image.open(picture(tmp_path / "a.png", 1, (64, 64))).convert("RGB")
    cutter, _ = cut.make_cut("background")
    mask = Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16))
    by_mask = np.asarray(cutter(shown, mask))
    assert np.array_equal(by_mask[16:48, 16:48], np.asarray(shown)[16:48, 16:48])
    assert (by_mask[:16] == 255).all() and (by_mask[:, 48:] == 255).all()
    assert (np.asarray(cutter(shown, None))[:4, :4] == 255).all()
    assert cut.make_cut("none")[0](shown, mask) is shown
    for spec, said in (("garment", "give --cut garment=FOLDER"), ("hair", "no cut 'hair'")):
        with pytest.raises(ValueError, match=said):
            cut.make_cut(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("clip-b32", "Scorers are given as NAME=PATH"),
        ("beauty=/x", "There is no scorer 'beauty'"),
        ("dino=/nowhere/dino", "There is no /nowhere/dino; a scorer's weights are local files"),
    ],
)
def test_a_wrong_scorer_is_one_clear_error(spec, said):
    with pytest.raises(ValueError, match=said):
        make_scorer(spec)


def test_weights_that_are_none_are_refused(tmp_path):
    (tmp_path / "csd.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="csd.pth cannot be read as weights"):
        csd(str(tmp_path / "csd.pth"))
    save_file({"backbone.conv1.weight": torch.zeros(64, 3, 16, 16)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no CSD checkpoint"):
        csd(str(tmp_path / "other.safetensors"))
