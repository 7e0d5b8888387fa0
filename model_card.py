"""Model cards: what every model folder says about itself, whoever wrote it."""

import re
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .markdown_text import block, loadable, plain, public
from .names import counted
from .retriever import CardFacts
from .tables import markdown_table

_TAGS = ["composed-person-retrieval", "image-retrieval"]
_CARD = """---
{metadata}
---

# {title}

Composed person retrieval: a reference image of a person and a relative caption in, the images of that person that fit
the caption out ({method}).

{about}

```python
import torch
{load}
with torch.no_grad():
    queries = model.get_query_features(**processor(images=["me.jpg"], text=["in a red coat"], return_tensors="pt"))
    targets = model.get_target_features(**processor(images=["a.jpg", "b.jpg"], return_tensors="pt"))
scores = model.score(queries, targets)  # (1, 2), higher is better
```

{sections}

## Size

{sizes}

## Intended use and limits

For research on retrieval, on images that one may lawfully use. This is technology that finds people: it must not be
used to track, identify or profile people without their consent or a legal basis, and a high score is no proof of
identity. The training images are synthetic or come from few sources; who is found well, and who is not, was not
measured across groups of people.
{citation}"""


_LOAD = """import {module}  # makes the model known to transformers
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained({folder})
model = AutoModel.from_pretrained({folder}).eval()"""
_LOAD_ADAPTER = """import {module}  # makes the model known to transformers
from peft import PeftModel
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained({folder})
base = AutoModel.from_pretrained({base})
model = PeftModel.from_pretrained(base, {folder}).eval()"""


def make_model_card(
    facts: CardFacts,
    num_parameters: int,
    title: str,
    about: str,
    sections: dict[str, str],
    metadata: dict[str, object] | None = None,
    folder: str = "path/to/this/folder",
    adapter_of: str | None = None,
    module: str = "fafa",
) -> str:
    """The text of a README.md for a model folder.

    Args:
        facts: see `Retriever.card_facts`.
        title: plain text.
        about: one paragraph of Markdown on where the weights come from; see `markdown_text` for names in it.
        sections: heading -> Markdown, between the example and the closing sections that all cards share.
        metadata: arguments of `huggingface_hub.ModelCardData`, beside the library and the tags.
        folder: what the example loads: a name on the Hub, or a placeholder.
        module: what the example imports to make the model known, see `registering_module`.
        adapter_of: for a folder that holds only a LoRA adapter: the model that it belongs to, a name or a path.
    """
    metadata = ModelCardData(
        library_name="transformers" if adapter_of is None else "peft",
        tags=[*facts.tags, *_TAGS, *([] if adapter_of is None else ["lora"])],
        **(metadata or {}),
    )
    return _CARD.format(
        title=plain(title),
        about=about,
        load=(_LOAD if adapter_of is None else _LOAD_ADAPTER).format(
            module=module, folder=loadable(folder), base=loadable(adapter_of or "")
        ),
        sections="\n\n".join(f"## {heading}\n\n{text.strip()}" for heading, text in sections.items()),
        metadata=metadata.to_yaml(),
        method=f"{facts.method}, {facts.paper}" if facts.paper else facts.method,
        sizes=markdown_table(["part", "size"], [*facts.sizes.items(), ("together", f"{num_parameters:,} parameters")]),
        citation=f"\n## Citation\n\n{block(facts.citation, 'bibtex')}\n" if facts.citation else "",
    )


def registering_module(model: object) -> str:
    """The module to import before a model is loaded: this package, or that of the user's which defines its class."""
    module = type(model).__module__
    if module == "__main__":  # of a script, which others import by its file's name
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "your_module").stem
    ours = "fafa", "transformers_modules"  # the latter are copies of remote code
    return "fafa" if module.partition(".")[0] in ours else module


def hub_id(name: str | None) -> str | None:
    """The name if it can be one on the Hub and is no folder here; the Hub refuses a card with any other."""
    is_hub_id = name is not None and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) and not Path(name).exists()
    return name if is_hub_id else None


def retrieval_results(metrics: dict[str, float], dataset: str, description: str, **options) -> list[EvalResult]:
    """Metrics (name -> percentage) as entries of a card's model-index, which the Hub shows beside the card.

    Args:
        dataset: a name on the Hub; a folder's name becomes "local".
        description: describes the queries and the gallery for people.
        options: further arguments of `huggingface_hub.EvalResult`, such as the split.
    """
    return [
        EvalResult(
            task_type="image-retrieval",
            task_name="Composed person retrieval",
            dataset_type=hub_id(dataset) or "local",
            dataset_name=description,
            metric_type=name,
            metric_name=metric_title(name),
            metric_value=round(float(value), 2),
            **options,
        )
        for name, value in metrics.items()
    ]


def add_results_to_card(
    folder: str | Path,
    dataset: str,
    metrics: dict[str, dict[str, float]],
    num_queries: int,
    num_gallery: int,
) -> None:
    """Writes the results on a test set into a folder's card: a section with all of them, the first in the model-index.

    Results that the card already holds on the same test set are replaced.

    Args:
        folder: the model's, with its README.md.
        dataset: the test set: a name on the Hub ("a1557811266/ITCPR"), or a folder, of which the card has the name.
        metrics: kind of query ("image+caption" first) -> name of the metric -> percentage over all queries.

    Raises:
        FileNotFoundError: the folder has no README.md.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: results are added to the card that `fafa train` or `fafa convert` wrote"
        )
    card = ModelCard.load(path)
    mode, headline = next(iter(metrics.items()))
    dataset_name = public(dataset)
    description = f"{dataset_name}, {mode}"
    others = [result for result in card.data.eval_results or [] if result.dataset_name != description]
    card.data.model_name = card.data.model_name or Path(folder).resolve().name
    card.data.eval_results = others + retrieval_results(headline, dataset, description, dataset_split="test")
    table = percent_table(metrics, corner="query")
    heading = f"## Results on {plain(dataset_name)}\n"
    counts = f"{counted(num_queries, 'query')}, gallery of {counted(num_gallery, 'image')}"
    section = f"{heading}\n{counts}; percent.\n\n{table}\n\n"
    former = re.compile(rf"^{re.escape(heading)}.*?(?=^## |\Z)", re.M | re.S)
    if former.search(card.text):
        card.text = former.sub(lambda _: section, card.text)
    else:
        before, mark, after = card.text.partition("\n## ")
        card.text = f"{before}\n{section.rstrip()}\n{mark}{after}"
    card.save(path)


def metric_title(name: str) -> str:
    """ "Rank-1" for "rank-1"; "mAP" and "mINP" as they are."""
    return name[0].upper() + name[1:] if name.startswith("rank") else name


def percent_table(rows: dict[str, dict[str, float]], corner: str = "") -> str:
    """A Markdown table of percentages: row -> metric -> value."""
    names = list(next(iter(rows.values())))
    header = [corner, *map(metric_title, names)]
    return markdown_table(header, [[row, *(f"{values[name]:.2f}" for name in names)] for row, values in rows.items()])
