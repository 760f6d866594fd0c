"""`equipoise evaluate --saliency` as a user meets it."""

import numpy as np
import pytest
from PIL import Image

from equipoise.cli.main import main


@pytest.fixture
def folders(tmp_path):
    for name in ("maps", "masks"):
        (tmp_path / name).mkdir()
        pixels = np.zeros((16, 16), np.uint8)
        pixels[2:8, 3:9], pixels[11:13, 11:14] = 255, 255 if name == "masks" else 40
        pixels[2, 3] = 0
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    return tmp_path


def _refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_it_prints_both_columns_and_writes_a_page(folders, capsys):
    main(
        [
            "evaluate",
            "--saliency",
            *(str(folders / name) for name in ("maps", "masks")),
            "--output",
            str(folders / "out"),
        ]
    )
    said = capsys.readouterr().out
    assert "over pixels" in said
    assert "1 image, 2 objects" in said
    page = (folders / "out" / "report.html").read_text(encoding="utf-8")
    assert "equipoise evaluate --saliency" in page


def test_options_of_other_evaluations_are_refused(folders, capsys):
    two = folders / "maps", folders / "masks"
    assert "--target has no meaning with --saliency" in _refused(capsys, "--saliency", *two, "--target", "y")
    assert "requires 2 positional arguments" in _refused(capsys, "--saliency", two[0])
    assert "neither a file of scores nor --open" in _refused(capsys, "--open", "--saliency", *two)
    assert "either --saliency or --segmentation" in _refused(capsys, "--saliency", *two, "--segmentation", *two)
    assert "--worst needs --saliency or --segmentation" in _refused(
        capsys, "x.csv", "--target", "y", "--score", "s", "--worst", "3"
    )
    assert "--min-area needs --saliency" in _refused(
        capsys, "x.csv", "--target", "y", "--score", "s", "--min-area", "3"
    )
    assert "--target is missing" in _refused(capsys, "x.csv", "--score", "s")
    assert "--score is missing" in _refused(capsys, "x.csv", "--target", "y")
