"""Model cards: what every FAFA folder says about itself, whoever wrote it."""

from .configuration_fafa import FafaConfig

_CARD = """---
library_name: transformers
tags:
- fafa
- composed-person-retrieval
- image-retrieval
{metadata}---

# {title}

Composed person retrieval: a reference image of a person and a relative caption in, the images of that person that fit
the caption out (FAFA, arXiv [2311.16515](https://arxiv.org/abs/2311.16515)).

{about}

```python
import torch
from fafa import FafaModel, FafaProcessor

processor = FafaProcessor.from_pretrained("path/to/this/folder")
model = FafaModel.from_pretrained("path/to/this/folder").eval()
with torch.no_grad():
    queries = model.get_query_features(**processor(images=["me.jpg"], text=["in a red coat"], return_tensors="pt"))
    targets = model.get_target_features(**processor(images=["a.jpg", "b.jpg"], return_tensors="pt"))
scores = model.score(queries, targets)  # (1, 2), higher is better
```

{sections}

## Size

| part | size |
|---|---|
| vision tower | {vision.num_hidden_layers} blocks of width {vision.hidden_size}, {vision.image_size} pixels |
| Q-Former | {qformer.num_hidden_layers} layers of width {qformer.hidden_size}, {config.num_query_tokens} query tokens |
| together | {num_parameters:,} parameters |

## Intended use and limits

For research on retrieval, on images that one may lawfully use. This is technology that finds people: it must not be
used to track, identify or profile people without their consent or a legal basis, and a high score is no proof of
identity. The training images are synthetic or come from few sources; who is found well, and who is not, was not
measured across groups of people.

## Citation

```bibtex
@article{{liu2023fafa,
  title   = {{Automatic Synthetic Data and Fine-grained Adaptive Feature Alignment for Composed Person Retrieval}},
  author  = {{Delong Liu and Haiwen Li and Zhaohui Hou and Zhicheng Zhao and Fei Su and Yuan Dong}},
  journal = {{arXiv preprint arXiv:2311.16515}},
  year    = {{2023}}
}}
```
"""


def make_model_card(
    config: FafaConfig, num_parameters: int, title: str, about: str, sections: dict[str, str], metadata: str = ""
) -> str:
    """The text of a README.md for a model folder.

    Args:
        config: of the model.
        num_parameters: of the model.
        title: of the page.
        about: one paragraph on where the weights come from.
        sections: heading -> Markdown, between the example and the closing sections that all cards share.
        metadata: further lines of YAML for the head of the page, each ended by a line break.
    """
    return _CARD.format(
        title=title,
        about=about,
        sections="\n\n".join(f"## {heading}\n\n{text.strip()}" for heading, text in sections.items()),
        metadata=metadata,
        config=config,
        vision=config.vision_config,
        qformer=config.qformer_config,
        num_parameters=num_parameters,
    )


def markdown_table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
