"""Composes diptychs of photographs and trains the adapter on them.

    fafa synthesize adapter SETTINGS.yaml --output FOLDER
    accelerate launch -m fafa.synthesis.train_adapter SETTINGS.yaml --output FOLDER    # after --compose-only

The same command goes on where it was stopped. `adapters/flux.yaml` shows all settings.
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..commands import check_numbers, command, make_parser
from .adapters.composing import METADATA, FolderDiptychs, ReadyDiptychs
from .adapters.training import AdapterTraining, join_processes, train_adapter
from .components import SynthesisError
from .settings import RecipeError, Settings, read_settings, read_yaml

logger = logging.getLogger(__name__)

_STAGES = ("pictures", "captions", "training")


class AdapterRecipe(Settings):
    """All settings of the command: what to train on, and how."""

    data: Annotated[FolderDiptychs | ReadyDiptychs, Field(discriminator="kind")]
    training: AdapterTraining


def run(
    recipe: AdapterRecipe,
    output: Path,
    max_steps: int | None = None,
    compose_only: bool = False,
    redo: str | None = None,
) -> Path:
    """What the command does; see its help.

    Returns:
        The folder of the adapter, or the file of the diptychs with `compose_only`.

    Raises:
        SynthesisError: it cannot go on.
    """
    state = join_processes()
    if redo and state.is_main_process:
        for folder in (output / stage for stage in _STAGES[_STAGES.index(redo) :]):
            if folder.exists():
                shutil.rmtree(folder)
    state.wait_for_everyone()
    if state.num_processes == 1 or isinstance(recipe.data, ReadyDiptychs):
        metadata = recipe.data.load(output)
    else:  # captions may take hours, for which the other processes would not wait
        metadata = output / METADATA
        if not metadata.exists():
            raise SynthesisError(f"{metadata} is not there: run --compose-only first, in one process")
    return metadata if compose_only else train_adapter(recipe.training, metadata, output, max_steps)


def main(arguments: list[str] | None = None, program: str = "python -m fafa.synthesis.train_adapter") -> int:
    """Run the command; returns the exit status of one that went well."""
    parser = make_parser(program, __doc__)
    parser.add_argument("settings", type=Path, help="YAML file")
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--max-steps", type=int, help="stop after this step; without it the run goes on")
    parser.add_argument("--compose-only", action="store_true", help="make the diptychs and their captions, and stop")
    parser.add_argument("--redo", choices=_STAGES, help="discard a stage and what follows from it first")
    options = parser.parse_args(arguments)
    check_numbers(parser, options, "max_steps")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    with command("What is finished stays: the same command goes on from there.", (SynthesisError, RecipeError)):
        recipe = read_settings(AdapterRecipe, read_yaml(options.settings), options.settings)
        made = run(recipe, options.output, options.max_steps, options.compose_only, options.redo)
        logger.info("%s is ready", made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
