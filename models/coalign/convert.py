"""Makes a folder to start training CoAlign from.

    fafa convert coalign Salesforce/blip2-itm-vit-g pretrained/coalign

SOURCE is BLIP-2's first stage, in any form that `fafa convert` takes
(`Salesforce/blip2-itm-vit-g`; LAVIS's file, with `--vision-weights eva_vit_g.pth`), or a folder or Hub id of
transformers' CLIP (`openai/clip-vit-base-patch32`), with its image processor and tokenizer.

Both have been trained on captions of images; queries of image and caption are what CoAlign's training adds. The
networks that they lack (local reasoning's; on CLIP the fusion) have initial values.
"""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel

from ...commands import command, loading
from ...convert_fafa_checkpoint import DTYPES, convert_checkpoint, parser_of, report
from ...files import check_empty, check_output_folder, whole_folder, write_whole
from ...markdown_text import public
from ...model_card import make_model_card
from ...model_folder import check_fit
from .clip import CoAlignClipConfig, CoAlignClipModel, CoAlignClipProcessor
from .modeling import CoAlignModel
from .processing import CoAlignProcessor

_ABOUT = (
    "The weights are CLIP's: a starting point for training CoAlign. As it is, a query is the sum of the embeddings of "
    "its image and its caption."
)


def convert_clip(source: str | Path, output: str | Path, dtype: torch.dtype = torch.float32) -> CoAlignClipModel:
    """Writes a complete CoAlignClipModel folder of transformers' CLIP: weights, configuration, processor, model card.

    Args:
        source: folder or Hub id of a CLIPModel with its image processor and tokenizer.
        output: folder to write; must be absent or empty.
        dtype: of the output's tensors.

    Raises:
        ValueError: `source` is no CLIP, or its processor makes no squares of its size.
        FileExistsError: `output` holds something.
    """
    check_empty(output)
    check_output_folder(output)
    with loading(str(source)):
        clip = CLIPModel.from_pretrained(source, dtype=dtype)
        processor = CoAlignClipProcessor(
            AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        )
    torch.manual_seed(0)
    model = CoAlignClipModel(CoAlignClipConfig(clip_config=clip.config)).to(dtype)
    model.clip.load_state_dict(clip.state_dict())
    check_fit(model, processor, str(source))
    with whole_folder(output, last="config.json") as folder:
        processor.save_pretrained(folder)
        card = make_model_card(
            model.card_facts(model.config),
            num_parameters=model.num_parameters(),
            title=f"CoAlign, converted from {public(source)}",
            about=_ABOUT,
            sections={"Source": "Converted by `fafa convert coalign`, without training."},
        )
        write_whole(folder / "README.md", card)
        model.save_pretrained(folder)
    return model


def main(arguments: list[str] | None = None, program: str = "python -m fafa.models.coalign.convert") -> None:
    """The command line; see the module's docstring."""
    options = vars(parser_of(program, __doc__).parse_args(arguments))
    options["dtype"] = DTYPES[options["dtype"]]
    with command(kept="Nothing was written: give the same command again."):
        if _is_clip(options["source"]):
            source, output, dtype = (options.pop(name) for name in ("source", "output", "dtype"))
            if given := [name for name, value in options.items() if value is not None]:
                raise ValueError(f"{', '.join(given)}: of BLIP-2's files; {source} is CLIP's, and says all itself")
            convert_clip(source, output, dtype)
            print(f"written: CoAlign on CLIP to {output}\n    to make it a retriever, train it: see fafa train --help")
        else:
            conversion = convert_checkpoint(**options, model_class=CoAlignModel, processor_class=CoAlignProcessor)
            print(report(conversion, options["output"]))


def _is_clip(source: str) -> bool:
    if Path(source).is_file():
        return False
    with loading(source):
        return AutoConfig.from_pretrained(source).model_type == "clip"


if __name__ == "__main__":
    main()
