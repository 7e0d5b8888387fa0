"""The recipes of the package, and how a recipe is read.

What nobody published (prompts, thresholds, ranks) is ours, and the files say so.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...names import nearest
from ..recipe import Recipe
from ..settings import RecipeError, read_settings, read_yaml
from ..text_image.pipeline import TextImageRecipe
from ..triplets.pipeline import TripletRecipe

FOLDER = Path(__file__).parent
_AnyRecipe = Annotated[TripletRecipe | TextImageRecipe, Field(discriminator="kind")]


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or by the name of one of the package; raises RecipeError without either."""
    if Path(name).is_file():
        return Path(name)
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name in known:
        return FOLDER / f"{name}.yaml"
    raise RecipeError(f"{name}: no such file, and no recipe of that name; {nearest(name, known)}")


def read_recipe(file: Path) -> Recipe:
    """A recipe from its file, of the kind that it names; raises RecipeError, see `settings.read_settings`."""
    return read_settings(_AnyRecipe, read_yaml(file), file)
