"""Textures for classes, and data sets that wear them."""

import pytest
import torch

from equipoise.dense import MomentStylizer, PyramidStylizer, StylizedDataset, class_aware_stylize, merge_by_label


def _picture(seed=0, size=(12, 9)):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, size, generator=generator)
    return torch.rand(3, *size, generator=generator), label


def _textures(seed=1, number=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 7, 8, generator=generator) for _ in range(number)]


def test_every_pixel_is_that_of_the_whole_image_in_the_style_of_its_class():
    image, label = _picture()
    water, ice = _textures()
    found = class_aware_stylize(image, label, {0: water, 1: ice}, ignore_index=2)
    whole = {c: MomentStylizer()(image, texture).clamp(0, 1) for c, texture in ((0, water), (1, ice))}
    for y in range(12):
        for x in range(9):
            c = int(label[y, x])
            wanted = whole[c][:, y, x] if c in whole else image[:, y, x]
            torch.testing.assert_close(found[:, y, x], wanted)


def test_a_class_without_a_texture_keeps_its_pixels_and_warns_or_is_refused(plain_inputs):
    image, label = _picture()
    styles = {0: _textures()[0], 1: _textures()[1]}
    with pytest.warns(UserWarning, match="label holds the class 2, of which styles has no texture"):
        found = class_aware_stylize(image, label, styles)
    assert torch.equal(found[:, label == 2], image[:, label == 2])
    with pytest.raises(ValueError, match="add one, or name the label of pixels without a class"):
        class_aware_stylize(image, label, styles, strict=True)


def test_a_class_that_is_not_there_is_not_stylized():
    image, _ = _picture()
    asked = []

    def stylizer(content, style):
        asked.append(style)
        return content

    class_aware_stylize(image, torch.zeros(12, 9, dtype=torch.long), {0: _textures()[0], 5: _textures()[1]}, stylizer)
    assert len(asked) == 1


def test_textures_are_drawn_by_the_generator():
    image, label = _picture()
    styles = {c: _textures(seed=c, number=4) for c in range(3)}
    draws = [class_aware_stylize(image, label, styles, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_merging_takes_the_default_elsewhere_and_wants_one_size(plain_inputs):
    image, label = _picture()
    found = merge_by_label(label, {1: torch.ones(3, 12, 9)}, image)
    assert torch.equal(found, torch.where(label == 1, torch.ones(()), image))
    with pytest.raises(ValueError, match=r"images\[1\] has shape"):
        merge_by_label(label, {1: torch.ones(3, 12, 8)}, image)


@pytest.mark.parametrize(
    ("styles", "words"),
    [
        ({0: []}, "is an empty list"),
        ({0: torch.rand(1, 4, 4)}, "has 1 channels, wanted 3"),
        ({0: torch.full((3, 4, 4), 200.0)}, "must lie in"),
        ({"0": torch.rand(3, 4, 4)}, "classes must be whole numbers"),
        ([torch.rand(3, 4, 4)], "styles must be"),
    ],
)
def test_bad_styles_are_refused(plain_inputs, styles, words):
    image, label = _picture()
    with pytest.raises(ValueError, match=words):
        class_aware_stylize(image, label, styles)


def test_a_data_set_is_the_same_whenever_it_is_read_and_copies_differ():
    data = [_picture(seed) for seed in range(3)]
    styles = {c: _textures(seed=c, number=4) for c in range(3)}
    one, again = (StylizedDataset(data, "class_aware", styles, stylizer=PyramidStylizer(), copies=2) for _ in range(2))
    assert len(one) == 6
    backwards = {k: again[k][0] for k in reversed(range(6))}
    assert all(torch.equal(one[k][0], backwards[k]) for k in range(6))
    assert all(torch.equal(one[k][1], data[k % 3][1]) for k in range(6))
    assert any(not torch.equal(one[k][0], one[k + 3][0]) for k in range(3))
    assert torch.equal(one[-1][0], one[5][0])
    with pytest.raises(IndexError, match="out of range for 6 items"):
        one[6]


def test_strategies_that_are_compared():
    data, wholes = [_picture(seed) for seed in range(2)], _textures()
    plain = StylizedDataset(data, "none")
    assert torch.equal(plain[1][0], data[1][0])
    found = StylizedDataset(data, "conventional", wholes)[0][0]
    options = [MomentStylizer()(data[0][0], whole).clamp(0, 1) for whole in wholes]
    assert any(torch.allclose(found, option) for option in options)


def test_styles_that_are_not_those_of_the_strategy_are_refused(plain_inputs):
    data = [_picture()]
    with pytest.raises(ValueError, match='styles must be None under strategy="none"'):
        StylizedDataset(data, "none", _textures())
    with pytest.raises(ValueError, match="styles must be a mapping"):
        StylizedDataset(data, "class_aware", _textures())
    with pytest.raises(ValueError, match="data must have a length"):
        StylizedDataset(iter(data), "none")
