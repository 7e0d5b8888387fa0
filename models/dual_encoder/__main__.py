"""Makes a model folder of a CLIP or SigLIP, to train: two towers, the losses of a method, a processor for people.

    fafa convert dual-encoder openai/clip-vit-base-patch16 pretrained/syntbpr
    fafa convert dual-encoder google/siglip-base-patch16-224 pretrained/tbps --method tbps-clip
    fafa train --config examples/configs/syntbpr.yaml --model pretrained/syntbpr --data_dir data/SynTBPR

SOURCE is a folder of transformers', or a repository of the Hub. OUTPUT then is a folder that `AutoModel` and
`AutoProcessor` load after `import fafa`; without training it answers as the backbone does.
"""

from pathlib import Path

from ...commands import command, make_parser
from ...files import check_output_folder, printable, write_whole
from ...markdown_text import public
from ...model_card import make_model_card
from ...model_folder import check_fit
from .configuration import METHODS
from .modeling import DualEncoderModel
from .processing import DualEncoderProcessor


def main(arguments: list[str] | None = None, program: str = "python -m fafa.models.dual_encoder") -> None:
    """The command line; see the module's docstring."""
    parser = make_parser(program, __doc__)
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub id of a CLIP or SigLIP")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    parser.add_argument("--method", choices=list(METHODS), default="syntbpr", help="whose losses (default: syntbpr)")
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="the backbone's by default"
    )
    parser.add_argument("--backbone-statistics", action="store_true", help="normalise as the backbone, not by ImageNet")
    parser.add_argument("--cut-captions", action="store_true", help="cut captions that are too long: else an error")
    given = parser.parse_args(arguments)
    with command(kept="Give the same command again."):
        check_output_folder(given.output)
        settings = dict(METHODS[given.method])
        if given.image_size:
            settings |= {"image_height": given.image_size[0], "image_width": given.image_size[1]}
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
            title=f"Dual encoder on {public(source)}",
            about="The weights are the backbone's: a start for training, not a person retriever yet.",
            sections={"Source": "Made by `fafa convert dual-encoder`. The licence of the backbone applies."},
        )
        write_whole(given.output / "README.md", card)
        print(f"written: {printable(given.output)}")


if __name__ == "__main__":
    main()
