"""From a pipeline and options to the folder of `equipoise debias`."""

import copy
import csv
import json

import pytest
import torch
from PIL import Image

from equipoise.cli.main import main
from equipoise.data import tiny_clip as clip_module
from equipoise.data import tiny_diffusion as diffusion_module
from equipoise.data.tiny_clip import TinyCLIPConfig, tiny_tokenizer, untrained_tiny_clip
from equipoise.data.tiny_diffusion import TinyDiffusionConfig
from equipoise.generative import load_fair_adapter
from equipoise.integrations.clip import CLIPTower
from equipoise.workflows import DebiasRequest, InputError, debias_pipeline

pytestmark = pytest.mark.usefixtures("plain_inputs")
CLIP = TinyCLIPConfig(steps=60, pictures=400)
SMALL = {"attribute": ("colour=red,blue",), "concept": ("dax",), "references": 4, "steps": 4, "pictures": 6}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def _quick_models(cache, monkeypatch):
    """Real models of the same kind, trained for seconds."""
    config = TinyDiffusionConfig(steps=60, pictures=400, clip=CLIP)
    whole, clip = diffusion_module.tiny_text_to_image, clip_module.tiny_clip
    monkeypatch.setattr(diffusion_module, "tiny_text_to_image", lambda: whole(config, cache))
    monkeypatch.setattr(clip_module, "tiny_clip", lambda: clip(CLIP, cache))


def _quietly(words):
    pass


@pytest.mark.usefixtures("_quick_models")
def test_the_adapter_the_sheet_and_the_numbers_are_written(tmp_path, cache):
    request = DebiasRequest(**SMALL, unseen=("circle",), switch=1.0, output=tmp_path / "out")
    found = debias_pipeline("shapes", request, command="equipoise debias", notice=_quietly)
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert names == {
        "adapter/adapter.json",
        "adapter/adapter.safetensors",
        "counts.csv",
        "manifest.json",
        "metrics.json",
        "report.html",
        "sheet.png",
    }
    with (found.folder / "counts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["concept"], row["when"]) for row in rows] == [
        (concept, when) for concept in ("dax", "circle") for when in ("before", "after")
    ]
    assert all(int(row["red"]) + int(row["blue"]) == 6 for row in rows)
    summary = json.loads((found.folder / "metrics.json").read_text(encoding="utf-8"))
    for held, row in zip(summary["concepts"], found.report.rows, strict=True):
        assert held["shares"] == [list(each) for each in row.shares]
        counts = [r for r in rows if r["concept"] == row.concept]
        assert row.shares[1][0] == pytest.approx(int(counts[1]["red"]) / 6)
        assert row.bias[1] == pytest.approx(abs(row.shares[1][0] - row.shares[1][1]))
    assert [held["trained"] for held in summary["text_side"]] == [True, False]
    assert summary["training"]["steps"] == 4
    with Image.open(found.folder / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 100
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "circle (not trained)" in page
    assert "data:image/png;base64" in page
    tower = CLIPTower.from_pretrained(clip_module.tiny_clip())
    assert load_fair_adapter(tower, found.folder / "adapter").concepts == ("dax",)


@pytest.mark.usefixtures("_quick_models")
def test_a_switch_at_zero_leaves_the_pictures_and_a_seed_repeats_them(tmp_path):
    request = DebiasRequest(**SMALL, switch=0.0, output=tmp_path / "out")
    found = debias_pipeline("shapes", request, notice=_quietly)
    row = found.report.rows[0]
    assert row.shares[0] == row.shares[1]
    again = debias_pipeline("shapes", DebiasRequest(**SMALL, switch=0.0, output=tmp_path / "b"), notice=_quietly)
    assert repr(again.report.rows) == repr(found.report.rows)
    assert again.history == found.history


@pytest.mark.usefixtures("_quick_models")
def test_the_command_prints_what_came_out_and_where_it_is(tmp_path, capsys):
    given = ["debias", "shapes", "--attribute", "colour=red,blue", "size=small,large", "--concept", "dax", "wug"]
    given += ["--references", "2", "--steps", "2", "--pictures", "4", "--output", str(tmp_path / "out")]
    main(given)
    printed = capsys.readouterr()
    flat = printed.out.replace("\n", " ")
    for words in ("red small", "wug", "points off before", "adapter:", "report.html", "sheet.png"):
        assert words in flat
    assert "4 pictures of a concept say little" in printed.err.replace("\n", " ")
    assert "Loading" not in printed.err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No figure has an interval. A share of 4 pictures near a half is uncertain by 49 points" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attribute": ()}, "name an attribute and its values"),
        ({"attribute": ("red,blue",)}, "must read NAME=value1,value2"),
        ({"attribute": ("colour=red",)}, "must read NAME=value1,value2"),
        ({"attribute": ("colour=red,,blue",)}, "must read NAME=value1,value2"),
        ({"attribute": ("a=red,blue", "a=small,large")}, "--attribute a is given twice"),
        ({"attribute": ("a=red,red",)}, "names a value twice"),
        ({"concept": ()}, "name what neutral prompts are about"),
        ({"concept": ("red dax",)}, "names the attribute value 'red' already"),
        ({"unseen": ("blue wug",)}, "names the attribute value 'blue' already"),
        ({"template": ("a photo",)}, "must have one {}"),
        ({"pictures": 1}, "pictures=1 must be at least 2"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"keep": -1.0}, "keep=-1.0 must be a number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must lie between 0 and 1"),
        ({"switch": 1.2}, r"switch=1\.2 must lie in"),
        ({"seed": -1}, "seed=-1 must lie between 0 and 999"),
        ({"target": (1.0,)}, "target holds 1 shares for 2"),
        ({"target": (0.5, 0.6)}, "must sum to 1"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_before_a_model_is_loaded(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        debias_pipeline("shapes", DebiasRequest(**{**SMALL, "output": tmp_path / "out", **changes}))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_quick_models")
@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rank": 500}, "rank=500 must lie in 1")],
)
def test_what_does_not_fit_the_pipeline_is_refused(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        debias_pipeline("shapes", DebiasRequest(**SMALL, output=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_pipeline_and_one_without_its_clip_are_refused(tmp_path):
    request = DebiasRequest(**SMALL, output=tmp_path / "out")
    with pytest.raises(InputError, match="neither 'shapes' nor a folder of diffusers"):
        debias_pipeline(str(tmp_path), request)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="name the folder of its CLIP model with --clip"):
        debias_pipeline(str(tmp_path), request)
    with pytest.raises(InputError, match="holds no CLIP model"):
        debias_pipeline(str(tmp_path), DebiasRequest(**SMALL, output=tmp_path / "out", clip=tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"^the pipeline '.*' cannot be loaded: "):
        debias_pipeline(str(tmp_path), DebiasRequest(**SMALL, output=tmp_path / "out", clip=tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_diffusers_is_debiased(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: 'equipoise[diffusers]'")
    import transformers

    model = untrained_tiny_clip()
    model.save_pretrained(tmp_path / "clip")
    tiny_tokenizer().save_pretrained(tmp_path / "clip")
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    kind(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path / "clip")
    text_encoder = transformers.CLIPTextModel(copy.deepcopy(model.config.text_config))
    getattr(text_encoder, "text_model", text_encoder).load_state_dict(model.text_model.state_dict())
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=16,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.StableDiffusionPipeline(
        vae, text_encoder, tiny_tokenizer(), unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(tmp_path / "pipeline")
    request = DebiasRequest(
        **SMALL, clip=tmp_path / "clip", sampling_steps=3, template=("a photo of a {}",), output=tmp_path / "out"
    )
    found = debias_pipeline(str(tmp_path / "pipeline"), request, notice=_quietly)
    assert found.report.title == "Neutral prompts of pipeline, balanced"
    assert (found.folder / "adapter" / "adapter.safetensors").is_file()
    assert sum(found.report.rows[0].shares[1]) == pytest.approx(1)
