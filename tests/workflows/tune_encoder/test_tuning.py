"""From a CLIP folder and pictures to a tuned encoder: what is written, that it loads, and what is refused."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.cli.main import main
from equipoise.data.shapes import COLOURS, SHAPES, ShapesWorld
from equipoise.data.tiny_clip import TinyCLIPConfig, tiny_tokenizer, untrained_tiny_clip
from equipoise.integrations.clip import CLIPTower
from equipoise.integrations.clip_image_encoder import CLIPImageEncoder, put_back
from equipoise.workflows import InputError, TuneEncoderRequest, tune_encoder

SHORT = {"denoiser_steps": 30, "align_steps": 20, "steps": 10, "batch_size": 6, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    config = TinyCLIPConfig(width=16, layers=1, heads=2, projection=8)
    untrained_tiny_clip(config).save_pretrained(folder / "clip")
    tiny_tokenizer(config.context_length).save_pretrained(folder / "clip")
    plain = {"layout": "single", "p_concept": 0.0, "p_style": 0.0, "returns": ("image", "scene")}
    rows = []
    for k, item in enumerate(ShapesWorld(80, seed=7, **plain)[j] for j in range(80)):
        thing = item["scene"].objects[0]
        place = folder / "pictures" / thing.shape / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = (255 * item["image"].permute(1, 2, 0).numpy()).round().astype(np.uint8)
        Image.fromarray(pixels).resize((20, 18)).save(place)
        rows.append({"file": f"{thing.shape}/{k}.png", "colour": thing.colour})
    with (folder / "details.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file", "colour"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _tuned(files, output, **changes):
    request = TuneEncoderRequest(**{**SHORT, "factors": files / "details.csv", "output": output, **changes})
    return tune_encoder(str(files / "clip"), files / "pictures", request, command="equipoise tune-encoder x")


def test_the_image_tower_alone_gives_the_features_of_the_model():
    model = untrained_tiny_clip(TinyCLIPConfig(width=16, layers=1, heads=2, projection=8))
    encoder, x = CLIPImageEncoder(model), torch.randn(3, 3, 16, 16)
    found = model.get_image_features(pixel_values=x)
    wanted = found if isinstance(found, torch.Tensor) else found.pooler_output
    torch.testing.assert_close(encoder(x), wanted)
    torch.nn.init.normal_(encoder.visual_projection.weight)
    changed = encoder(x)
    assert not torch.allclose(changed, wanted)
    put_back(model, encoder)
    torch.testing.assert_close(CLIPImageEncoder(model)(x), changed)


def test_an_encoder_is_tuned_written_and_loads(files, tmp_path):
    outcome = _tuned(files, tmp_path / "out")
    before, after = outcome.report.before, outcome.report.after
    assert (
        set(before)
        == set(after)
        == {
            "clusters: accuracy",
            "clusters: NMI",
            "clusters: ARI",
            "zero-shot accuracy",
            "probe: colour",
        }
    )
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["after"] == after
    assert summary["classes"] == sorted(SHAPES)
    assert set(summary["details"]["colour"]) <= set(COLOURS)
    page = (outcome.folder / "report.html").read_text()
    assert "equipoise tune-encoder x" in page
    assert "made for this run" in page
    plain, tuned = (CLIPTower.from_pretrained(each) for each in (files / "clip", outcome.folder / "encoder"))
    x = torch.rand(2, 3, 16, 16)
    assert (tuned.encode_image(x) - plain.encode_image(x)).abs().max() > 1e-3
    # The text tower is as it was.
    ids = torch.tensor([[plain.start_token, 5, plain.end_token]])
    assert tuned.encode_text(ids).equal(plain.encode_text(ids))
    assert not any("lora" in name for name in tuned.state_dict())


def test_the_same_seed_gives_the_same_encoder(files, tmp_path):
    one, other = (_tuned(files, tmp_path / name) for name in ("one", "other"))
    first, second = ((each.folder / "encoder" / "model.safetensors").read_bytes() for each in (one, other))
    assert first == second


@pytest.mark.parametrize("loss", ["rec", "con", "con+rec"])
def test_other_losses_and_few_rows_at_a_time(files, tmp_path, loss):
    outcome = _tuned(files, tmp_path / "out", loss=loss, chunk=2)
    assert loss in outcome.report.title


def test_without_classes_only_detail_is_judged(files, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = list(csv.DictReader((files / "details.csv").read_text().splitlines()))
    for row in rows:
        (flat / row["file"].replace("/", "-")).write_bytes((files / "pictures" / row["file"]).read_bytes())
    table = tmp_path / "t.tsv"
    table.write_text("file\tcolour\n" + "".join(f"{r['file'].replace('/', '-')}\t{r['colour']}\n" for r in rows))
    told = []
    request = TuneEncoderRequest(**SHORT, factors=table, output=tmp_path / "out")
    outcome = tune_encoder(str(files / "clip"), flat, request, notice=told.append)
    assert set(outcome.report.before) == {"probe: colour"}
    assert any("only detail is judged" in words for words in told)
    assert "nothing is known of classes" in (outcome.folder / "report.html").read_text().lower()


def test_without_details_only_classes_are_judged(files, tmp_path):
    outcome = _tuned(files, tmp_path / "out", factors=None)
    assert "probe: colour" not in outcome.report.before
    assert any("only classes are judged" in words for words in outcome.report.notes)


@pytest.mark.slow
def test_the_tiny_encoder_and_the_shapes_world(tmp_path, capsys):
    options = ["--align-steps", "40", "--steps", "20", "--output", str(tmp_path / "out")]
    main(["tune-encoder", "tiny", "shapes", *options])
    said = capsys.readouterr().out
    assert "probe: colour" in said
    assert (tmp_path / "out" / "encoder" / "model.safetensors").exists()


def test_what_cannot_be_done_is_said_in_a_sentence(files, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    for k in range(20):
        (broken / f"{k}.png").write_bytes(b"no picture")
    (tmp_path / "short.csv").write_text("file,colour\ncircle/0.png,red\n")
    (tmp_path / "nothing.csv").write_text("name,colour\na,b\n")
    clip, pictures = str(files / "clip"), str(files / "pictures")
    for given, words in [
        ([clip, pictures, "--loss", "mse"], "loss='mse' is not known; choose one of 'dcr', 'rec', 'con', 'con+rec'"),
        ([clip, pictures, "--denoiser", "big"], "denoiser='big' is not known"),
        ([clip, pictures, "--batch-size", "1"], "batch_size=1 must be at least 2"),
        ([clip, pictures, "--learning-rate", "0"], "learning_rate=0.0 must be greater than 0"),
        ([clip, pictures, "--steps", "0"], "steps=0 must be at least 1"),
        ([clip, pictures, "--side", "200"], "side=200 must lie between 4 and 64"),
        ([clip, pictures, "--test-size", "0.01"], "leave a side fewer than 8"),
        ([clip, "shapes", "--factors", str(tmp_path / "short.csv")], "those of the shapes world have their own"),
        ([clip, str(few)], "holds 0 pictures"),
        ([clip, str(broken)], "cannot be read as a picture"),
        ([clip, str(tmp_path / "absent")], "is no folder of pictures"),
        ([str(few), pictures], "is no folder of a transformers CLIP model"),
        ([clip, pictures, "--factors", str(tmp_path / "short.csv")], "has no row for"),
        ([clip, pictures, "--factors", str(tmp_path / "nothing.csv")], "must have a column file"),
        ([clip, pictures, "--factors", str(tmp_path / "absent.csv")], "cannot be read"),
    ]:
        with pytest.raises(SystemExit) as left:
            main(["tune-encoder", *given, "--output", str(tmp_path / "out")])
        assert left.value.code == 2
        said = " ".join(capsys.readouterr().err.split())
        assert words in said, said
        assert not list(tmp_path.glob("out*"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for k, file in enumerate((files / "pictures").rglob("*.png")):
        (flat / f"{k}.png").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="nothing to judge by"):
        tune_encoder(clip, flat, TuneEncoderRequest(**SHORT, output=tmp_path / "out"))
