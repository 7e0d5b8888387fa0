"""Makes a model folder for Word4Per: a CLIP to train, or the authors' weights.

    fafa convert word4per openai/clip-vit-base-patch16 pretrained/clip --interpolate-positions
    fafa convert word4per best.pth pretrained/word4per --tinet text=tinet_text.pt --tinet image=tinet_image.pt
    fafa train --config examples/configs/word4per_stage1.yaml --data_dir data/SynCPR

SOURCE is a folder of transformers' CLIPModel, or a repository of the Hub; or a file of OpenAI's CLIP by its own names,
as the authors fine-tuned it. OUTPUT is what `AutoModel` and `AutoProcessor` load after `import fafa`.
"""

import json
from pathlib import Path

from transformers import CLIPTokenizer

from ...checkpoint_files import read_checkpoint
from ...commands import command, make_parser
from ...files import check_output_folder, write_whole
from ...markdown_text import public
from ...model_card import make_model_card
from ...model_folder import check_fit
from ...names import printable
from .conversion import convert_released, from_clip
from .processing import Word4PerProcessor, clip_image_processor

_VOCABULARY = "openai/clip-vit-base-patch16"  # all of OpenAI's CLIPs have one


def main(arguments: list[str] | None = None, program: str = "python -m fafa.models.word4per") -> None:
    """The command line; see the module's docstring."""
    parser = make_parser(program, __doc__)
    parser.add_argument("source", metavar="SOURCE", help="folder, Hub id or file of a CLIP")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    parser.add_argument("--tinet", metavar="NAME=FILE", action="append", default=[], help="a TINet of the file's CLIP")
    parser.add_argument(
        "--image-size", type=int, nargs=2, default=(384, 128), metavar=("HEIGHT", "WIDTH"), help="default: 384 128"
    )
    parser.add_argument("--stride", type=int, help="pixels from patch to patch; default: the size of a patch")
    parser.add_argument(
        "--interpolate-positions", action="store_true", help="take a CLIP of another image size, such as OpenAI's own"
    )
    parser.add_argument("--tokenizer", default=_VOCABULARY, help=f"of a file's CLIP (default: {_VOCABULARY})")
    parser.add_argument("--settings", type=json.loads, default={}, help="of Word4PerConfig, as JSON")
    given = parser.parse_args(arguments)
    tinets = dict(entry.partition("=")[::2] for entry in given.tinet)
    if "" in tinets.values():
        parser.error(f"--tinet {given.tinet[0]}: expected NAME=FILE")
    with command(kept="Give the same command again."):
        check_output_folder(given.output)
        if tinets and not Path(given.source).is_file():
            raise ValueError(
                f"--tinet comes with a file of the CLIP that it was trained on, and {given.source} is none"
            )
        height, width = given.image_size
        is_file = Path(given.source).is_file()
        tokenizer = CLIPTokenizer.from_pretrained(given.tokenizer if is_file else given.source)
        processor = Word4PerProcessor(clip_image_processor(height, width), tokenizer)
        options = {
            "stride": given.stride,
            "interpolate_positions": given.interpolate_positions,
            **({} if tinets else {"stage": 1}),
            **processor.word_settings(),
            **given.settings,
        }
        if is_file:
            states = {name: read_checkpoint(Path(file))[0] for name, file in tinets.items()}
            clip, end = read_checkpoint(Path(given.source))[0], tokenizer.eos_token_id
            model = convert_released(clip, states, eos_token_id=end, image_size=(height, width), **options)
        else:
            model = from_clip(given.source, image_height=height, image_width=width, **options)
        processor.max_text_length = model.config.get_text_config().max_position_embeddings
        check_fit(model, processor, printable(given.source))
        model.save_pretrained(given.output)
        processor.save_pretrained(given.output)
        source = Path(given.source).name if Path(given.source).exists() else given.source
        card = make_model_card(
            model.card_facts(model.config),
            num_parameters=model.num_parameters(),
            title=f"Word4Per on {public(source)}",
            about="Weights of the authors, converted."
            if tinets
            else "CLIP alone: a start for training, not a person retriever yet.",
            sections={"Source": "Made by `fafa convert word4per`. The licence of the weights applies."},
        )
        write_whole(given.output / "README.md", card)
        print(f"written: {printable(given.output)}")


if __name__ == "__main__":
    main()
