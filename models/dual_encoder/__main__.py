"""Makes a model folder of a CLIP or SigLIP, to train: two towers, the losses of a method, a processor for people.

    python -m fafa.models.dual_encoder openai/clip-vit-base-patch16 models/syntbpr
    python -m fafa.models.dual_encoder google/siglip-base-patch16-224 models/tbps --method tbps-clip
    python -m fafa.models.dual_encoder tiny models/tiny-dual --captions SynCPR=quickstart/world/SynCPR
    python examples/train.py --config examples/configs/syntbpr.yaml --model models/syntbpr --data_dir data/SynTBPR

SOURCE is a folder of transformers', or a repository of the Hub; or "tiny", random weights for the painted world, with
the words of a data set's captions. OUTPUT then is what `AutoModel` and `AutoProcessor` load
after `import fafa`; without training it answers as the backbone does.
"""

import argparse
from pathlib import Path

from ...commands import command
from ...files import check_output_folder, printable
from ...model_card import make_model_card
from ...model_folder import check_fit
from .configuration import METHODS
from .modeling import DualEncoderModel
from .processing import DualEncoderProcessor
from .tiny import tiny_dual_encoder


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m fafa.models.dual_encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub id of a CLIP or SigLIP")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    parser.add_argument("--method", choices=list(METHODS), default="syntbpr", help="whose losses (default: syntbpr)")
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="the backbone's by default"
    )
    parser.add_argument("--backbone-statistics", action="store_true", help="normalise as the backbone, not by ImageNet")
    parser.add_argument("--cut-captions", action="store_true", help="cut captions that are too long: else an error")
    parser.add_argument("--captions", metavar="NAME=FOLDER", help="for tiny: a data set that load_dataset knows")
    given = parser.parse_args(arguments)
    if (given.source == "tiny") != (given.captions is not None) or (given.captions and "=" not in given.captions):
        parser.error(
            "--captions NAME=FOLDER says which words a tiny model knows; give it with SOURCE tiny, and only then"
        )
    with command(kept="Give the same command again."):
        check_output_folder(given.output)
        settings = dict(METHODS[given.method])
        if given.image_size:
            settings |= {"image_height": given.image_size[0], "image_width": given.image_size[1]}
        if given.source == "tiny":
            model, processor = tiny_dual_encoder(_captions(*given.captions.split("=", 1)), **settings)
        else:
            model = DualEncoderModel.from_backbone(given.source, **settings)
            processor = DualEncoderProcessor.from_backbone(
                given.source,
                image_shape=model.image_shape,
                imagenet_statistics=not given.backbone_statistics,
                cut_captions=given.cut_captions,
            )
        check_fit(model, processor, printable(given.source))
        model.save_pretrained(given.output)
        processor.save_pretrained(given.output)
        source = Path(given.source).name if Path(given.source).exists() else given.source
        card = make_model_card(
            model.card_facts(model.config),
            num_parameters=model.num_parameters(),
            title=f"Dual encoder on {source}",
            about=f"The weights are {'random' if given.source == 'tiny' else 'those of the backbone'}: a start for "
            "training, not a person retriever yet.",
            sections={"Source": "Made by `python -m fafa.models.dual_encoder`. The licence of the backbone applies."},
        )
        (given.output / "README.md").write_text(card, encoding="utf-8")
        print(f"written: {printable(given.output)}")


def _captions(name: str, folder: str) -> list[str]:
    from datasets import load_dataset

    rows = load_dataset(name, data_dir=folder, split="train")
    lists = [rows[column][:] for column in rows.column_names if column == "captions" or column.endswith("caption")]
    return [text for given in lists for one in given for text in ([one] if isinstance(one, str) else one)]


if __name__ == "__main__":
    main()
