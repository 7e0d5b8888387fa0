"""The recipes of the package, and how a recipe is read.

What nobody published (prompts, thresholds, ranks) is ours, and marked so in the files.
"""

import difflib
from pathlib import Path

from ..recipe import Recipe
from ..settings import RecipeError, read_settings, read_yaml
from ..text_image.pipeline import TextImageRecipe
from ..triplets.pipeline import TripletRecipe

FOLDER = Path(__file__).parent
KINDS = {recipe.kind: recipe for recipe in (TripletRecipe, TextImageRecipe)}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one of the package.

    Raises:
        RecipeError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name in known:
        return FOLDER / f"{name}.yaml"
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the package has {', '.join(known)}."
    raise RecipeError(f"{name}: no such file, and no recipe of that name; {hint}")


def read_recipe(file: Path) -> Recipe:
    """A recipe from its file; `kind:` says of what.

    Raises:
        RecipeError: see `settings.read_settings`.
    """
    content = read_yaml(file)
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise RecipeError(f"{file}: expected kind: {' or '.join(KINDS)}; found {kind!r}")
    return read_settings(KINDS[kind], content, str(file))
