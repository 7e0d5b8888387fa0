"""The plan of a recipe, computed from its assumptions."""

from pathlib import Path

from fafa.synthesis.planning import plan_table
from fafa.synthesis.recipes import find_recipe, read_recipe
from fafa.synthesis.settings import read_settings
from fafa.synthesis.triplets.pipeline import TripletRecipe

PAGE = Path(__file__).parents[2] / "docs" / "synthesis.md"


def plan_of(recipe):
    return plan_table(recipe.estimates, recipe.amounts())


def recipe(**estimates):
    settings = {
        "quadruples": {"count": 10, "writer": {"kind": "grammar"}},
        "diptychs": {"realistic": 1, "diverse": 1, "painter": {"kind": "world"}},
        "estimates": estimates,
    }
    return read_settings(TripletRecipe, settings, "recipe.yaml")


def test_cutting_and_measuring_count_for_every_diptych():
    plan = plan_of(recipe(keep_texts=0.5, split_seconds=360, gate_seconds=720, gpu_hour_price=3))
    hours = {line.split()[0]: line.split()[4] for line in plan.splitlines()[1:7]}
    assert hours == {
        "quadruples": "0.0",
        "diptychs": "0.0",
        "split": "1.0",
        "gates": "2.0",
        "judgements": "0.0",
        "triplets": "0.0",
    }
    assert plan.endswith("At 3 a GPU-hour: 9.")


def test_the_page_shows_the_plan_of_the_recipe():
    assert plan_of(read_recipe(find_recipe("syncpr"))) in PAGE.read_text(encoding="utf-8")
