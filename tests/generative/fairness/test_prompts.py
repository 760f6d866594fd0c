import pytest

from equipoise.generative import FairPrompts


def test_values_stand_before_the_concept_in_every_template():
    prompts = FairPrompts(("doctor", "taxi driver"), ("female", "male"), ("{}", "a photo of a {}"))
    assert prompts.neutral("taxi driver") == ["taxi driver", "a photo of a taxi driver"]
    assert prompts.naming("taxi driver", "male") == ["male taxi driver", "a photo of a male taxi driver"]


def test_combinations_of_several_attributes_are_values():
    prompts = FairPrompts(("doctor",), {"age": ("young", "old"), "gender": ("female", "male")})
    assert prompts.values == ("young female", "young male", "old female", "old male")


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((("female doctor",), ("female", "male")), "concept 'female doctor' names the attribute value 'female'"),
        ((("doctor",), ("female", "male"), ("a Male {}",)), "template 'a Male {}' names"),
        ((("old man",), {"age": ("young", "old"), "size": ("tall", "short")}), "names the attribute value 'old'"),
        ((("doctor",), ("female",)), "at least 2"),
        ((("doctor",), "female"), "must be a list of values"),
        ((("doctor",), ("female", " ")), "must be a list of texts"),
        (((), ("female", "male")), "concepts=.* at least one"),
        ((("doctor", "doctor"), ("female", "male")), "different texts"),
        (("doctor", ("female", "male")), "concepts must be a list of texts"),
        ((("doctor",), ("female", "male"), ("a photo",)), "must have one {}"),
        ((("doctor",), ("female", "male"), ("{} {}",)), "must have one {}"),
        ((("doctor",), ("female", "male"), ("{} {0}",)), "no other brace"),
    ],
)
def test_bad_prompts_are_refused_in_a_sentence(given, words):
    with pytest.raises(ValueError, match=words):
        FairPrompts(*given)


def test_a_value_within_another_word_is_no_naming():
    assert FairPrompts(("femaleness",), ("female", "male")).concepts == ("femaleness",)
