"""The command `fafa`: index, search, cluster, serve, space, train, evaluate, convert, synthesize, verify.

    fafa index photos/ --model pretrained/fafa
    fafa search photos.index --image me.jpg --caption "in a red coat"

What takes long to import is imported within the commands: help and completion answer at once. Commands of modules that
parse their own options are passed on to them, so that no list of options stands twice.
"""

from importlib import import_module
from typing import NamedTuple

import typer
from typer.core import TyperGroup

from .cli_app import serve, space
from .cli_index import index
from .cli_people import cluster
from .cli_search import search
from .commands import command


class _Kinds(TyperGroup):
    """A group of commands whose first one is meant where none is named: `fafa evaluate --model M --data D`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Puts the first command's name before what belongs to it."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def _example(*lines: str) -> str:
    return "\n  ".join([f"\b\nExample{'s' * (len(lines) > 1)}:", *lines])


_STYLE = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    help="Find a person by a photo and a sentence: search, train, evaluate, make data sets.",
    epilog=_example("fafa search photos.index --image me.jpg --caption 'in a red coat'"),
    pretty_exceptions_enable=False,
    **_STYLE,
)


class _Passed(NamedTuple):
    """A command that a module of the package parses and runs."""

    name: str
    module: str
    help: str
    function: str = "main"


def _pass_on(group: typer.Typer, passed: _Passed) -> None:
    """Adds a command that hands its arguments on, `--help` among them."""

    def run(context: typer.Context) -> None:
        with command():
            module = import_module(passed.module, __package__)
            status = getattr(module, passed.function)(context.args, context.command_path)
        raise typer.Exit(status or 0)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    group.command(passed.name, help=passed.help, context_settings=settings)(run)


def _add_kinds(name: str, help: str, example: str, *kinds: _Passed) -> None:
    group = typer.Typer(
        cls=_Kinds, help=f"{help} Without a COMMAND: {kinds[0].name}.", epilog=_example(example), **_STYLE
    )
    for kind in kinds:
        _pass_on(group, kind)
    app.add_typer(group, name=name)


app.command(epilog=_example("fafa index photos/ --model pretrained/fafa --output photos.index"))(index)
app.command(
    epilog=_example(
        "fafa search photos.index --image me.jpg --caption 'in a red coat' --sheet result.png",
        "fafa search photos.index --image me.jpg --caption 'in a red coat^2' --minus 'a hat' --right 17 --wrong 4",
    )
)(search)
app.command(epilog=_example("fafa cluster people.index --sheet people.png"))(cluster)
app.command(epilog=_example("fafa serve photos.index"))(serve)
app.command(epilog=_example("fafa space my-space --gallery photos.index"))(space)
_pass_on(app, _Passed("train", ".training.run", "Train a model, or go on with a run that was stopped."))
_add_kinds(
    "evaluate",
    "Evaluate a model: figures with intervals, pictures, reports.",
    "fafa evaluate --model runs/paper --data /data/ITCPR --output results/paper",
    _Passed("itcpr", ".evaluation.run", "On ITCPR, a test set of its form, or images with captions.", "itcpr"),
    _Passed("cir", ".evaluation.run", "On FashionIQ, CIRR or CIRCO (composed image retrieval).", "cir"),
    _Passed("robustness", ".evaluation.run", "With queries that are spoilt, contradicted or reworded.", "robustness"),
    _Passed("embedder", ".evaluation.run", "Another model instead: one of sentence-transformers.", "embedder"),
    _Passed("compare", ".evaluation.compare", "Compare two reports, query by query."),
)
_add_kinds(
    "convert",
    "Make a model folder of published weights.",
    "fafa convert fafa.pt pretrained/fafa",
    _Passed("fafa", ".convert_fafa_checkpoint", "FAFA, of the authors' file or BLIP-2."),
    _Passed("coalign", ".models.coalign.convert", "CoAlign, of BLIP-2 or CLIP."),
    _Passed("word4per", ".models.word4per.__main__", "Word4Per, of the authors' files or CLIP."),
    _Passed("dual-encoder", ".models.dual_encoder.__main__", "A dual encoder, of CLIP or SigLIP."),
)
_add_kinds(
    "synthesize",
    "Make a data set by a recipe.",
    "fafa synthesize painter --output data/painter",
    _Passed("recipe", ".synthesis.__main__", "By a recipe of the package, or of your own."),
    _Passed("calibrate", ".synthesis.calibrate", "Find the bounds of a recipe's filter from a person's verdicts."),
    _Passed("adapter", ".synthesis.train_adapter", "Train the adapter that paints both captions as one person."),
)
_pass_on(app, _Passed("verify", ".verify", "Check folders by their checksums, data sets by every image."))


def main() -> None:
    """The console script."""
    app(prog_name="fafa")


if __name__ == "__main__":
    main()
