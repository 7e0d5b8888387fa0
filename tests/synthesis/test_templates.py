"""Templates are refused before any work where something in them would stay unfilled."""

import pytest

from fafa.synthesis.filtering.judge import Question
from fafa.synthesis.quadruples.sampling import Template
from fafa.synthesis.recipes import FOLDER, read_recipe
from fafa.synthesis.settings import RecipeError, read_settings
from fafa.synthesis.templates import check_template, fill_template
from fafa.synthesis.triplets.pipeline import DiptychSettings

WORLD = {"kind": "world"}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a photograph", r"must hold {caption_a} and {caption_b}: 'a photograph'"),
        ("{caption_a}", r"must hold {caption_b}"),
        ("{caption_a} {caption_c}", r"there is no field {caption_c}; did you mean '{caption_[ab]}'\?"),
        ("{caption_a} {caption_b} {who}", r"there is no field {who}; it knows {caption_a}, {caption_b}"),
        ("{caption_a} {caption_b} {}", r"there is no field {};"),
        ("{0} {1}", r"there is no field \{0\};"),
        ("{caption_a:>30} {caption_b}", r"write {caption_a}, without a format"),
        ("{caption_a!r} {caption_b}", r"write {caption_a}, without a format"),
        ("{caption_a.upper} {caption_b}", r"write {caption_a}, without a format"),
        ("{{caption_a}} {caption_b}", r"write {caption_a}, without a format or more braces"),
        ("{ caption_a } {caption_b}", r"write {caption_a}, without a format"),
        ("{caption_a} {caption_b} {a coat}", r"no other braces may be in it"),
        ("{caption_a} {caption_b", r"no other braces may be in it"),
        ("{caption_a} {caption_b} }", r"no other braces may be in it"),
    ],
)
def test_a_painters_prompt_that_would_be_painted_unfilled_is_refused_by_name(prompt, message):
    with pytest.raises(RecipeError, match=f"diptychs: prompt.*{message}"):
        read_settings(DiptychSettings, {"painter": WORLD, "prompt": prompt}, "recipe.yaml: diptychs")


def test_an_example_of_json_stands_for_itself_in_what_language_models_are_asked():
    Question(prompt='Does {caption_a} fit? Answer as {"quality": 8} or {quality: ...}', scores=["quality"])
    Template('{colour} as {"colour": "..."}', {"colour": ["red", "blue"]})
    for prompt in ("Does {caption_a!r} fit?", "Does {} fit?", "Does {{caption_a}} fit?", "Does {caption} fit?"):
        with pytest.raises(ValueError, match=r"caption|no field"):
            Question(prompt=prompt, scores=["quality"])
    for text in ("{colour:>9}", "{colour} {}", "{{colour}}"):
        with pytest.raises(ValueError, match="colour"):
            Template(text, {"colour": ["red", "blue"]})


def test_a_field_in_a_value_is_text():
    check_template("{a} and {b}", ["a", "b"])
    assert fill_template("{a} and {b}", {"a": "{b}", "b": "{a!r} {"}) == "{b} and {a!r} {"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_packages_own_recipes_have_sound_templates(file):
    read_recipe(file)
