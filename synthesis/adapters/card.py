"""The card of an adapter, with the curve of its loss and sheets of the images painted while it was trained."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ...markdown_text import block, code, loadable, public
from ...training.curves import draw_curves

logger = logging.getLogger(__name__)

_POINTS = 200
_LIBRARIES = ("torch", "diffusers", "peft", "accelerate", "transformers")
_LICENCES = {  # what the Hub reads
    "black-forest-labs/FLUX.1-dev": {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    },
    "black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"},
}
_TAGS = ["lora", "flux", "diffusers", "composed-person-retrieval"]
# What follows from the base model; dev and what was made from it take guidance, schnell does not.
_LICENCE = {
    True: "The base model takes guidance, as FLUX.1-dev does. FLUX.1-dev comes under the FLUX.1 [dev] Non-Commercial "
    "License, and an adapter trained on it is a derivative under the same terms: read them before you pass the adapter "
    "on, and on what they say about its images.",
    False: "The base model takes no guidance, as FLUX.1-schnell does, which comes under Apache-2.0. Schnell was "
    "distilled to paint in four steps; training as here may cost it some of that.",
}
_CARD = """---
{metadata}
---

# Diptychs of one person: an adapter for FLUX.1

A LoRA for the transformer of {model}.
With it the model paints one image that holds two photographs of the same person side by side, in other clothes or
another place, as the prompt says. Cut in two, such images make training triplets for composed person retrieval.

```python
import torch
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained({quoted_model}, dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights("path/to/this/folder", adapter_name="diptych")
pipeline.set_adapters("diptych", 1.0)  # from 0 (the model as it was) to 1
prompt = {prompt}
image = pipeline(prompt, width={width}, height={height}).images[0]
```

## Data

{num_diptychs:,} diptychs of {width} x {height} pixels, composed of photographs that the trainer supplied{rejected}.
The photographs are not part of this folder. Who is on them, and what they consented to, is for the trainer to say here.

## Training

{steps}, {seen:,} diptychs seen, {epochs:.1f} times each; {seconds}. Flow matching: mean squared error of the velocity,
all times weighted alike, times sampled logit-normal and shifted as the model's scheduler shifts them at this size.
The adapter has {parameters:,} parameters. Loss over the {window} at the end: {loss:.4f}.

{pictures}

{settings}

Versions: {versions}.

## Licence

{licence}

## Intended use and limits

For making synthetic training data for research on retrieval. The people it paints do not exist, but an adapter can
reproduce people that it was trained on: do not pass it on, or images made with it, where they did not agree to that.
It must not be used to depict real people, to deceive, or to track or identify anybody. What is missing or rare in the
photographs is missing or rare in what it paints; this was not measured across groups of people.
"""


def write_card(
    folder: Path,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    sheets: Sequence[Path],
) -> None:
    """Writes README.md, loss.png and the first and the last sheet into an adapter's folder.

    Args:
        folder: Where the adapter is.
        settings: Settings of the training, as plain values.
        about: "diptychs", "rejected diptychs", "size", "parameters", "takes guidance", and an example of a "prompt".
        log: "step", "loss", "learning_rate" and "seconds" of each step.
        sheets: Sheets of painted images, by step.
    """
    pictures = []
    window = max(-(-len(log) // _POINTS), 1)
    means = [
        {"step": part[-1]["step"]} | {name: fmean(entry[name] for entry in part) for name in ("loss", "learning_rate")}
        for part in (log[start : start + window] for start in range(0, len(log), window))
    ]
    try:
        if draw_curves(means, folder / "loss.png"):
            averaged = f", averaged over {window} steps" if window > 1 else ""
            pictures.append(f"![loss and learning rate over the steps{averaged}](loss.png)")
    except ImportError as error:
        logger.warning("the card has no curve: %s", error)
    for name, sheet in {"first": sheets[0], "last": sheets[-1]}.items() if sheets else ():
        shutil.copyfile(sheet, folder / f"{name}.png")
        step = int(sheet.stem.partition("-")[2])
        when = f"after {step:,} steps" if step else "before training"
        pictures.append(f"Fixed prompts and seeds, {when}:\n\n![fixed prompts and seeds, {when}]({name}.png)")

    model, steps, planned = settings["model"], log[-1]["step"], settings["steps"]
    seen, seconds = steps * settings["batch_size"], sum(entry["seconds"] for entry in log)
    last, num_rejected = log[-100:], about["rejected diptychs"]
    licence = _LICENCES[model] | {"base_model": model} if model in _LICENCES else {}
    metadata = licence | {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": _TAGS}
    text = _CARD.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False).strip(),
        model=code(public(model)),
        quoted_model=loadable(model),
        prompt=json.dumps(about["prompt"]),
        width=about["size"][0],
        height=about["size"][1],
        num_diptychs=about["diptychs"],
        rejected=f" ({num_rejected:,} more were rejected, for want of captions)" if num_rejected else "",
        steps=f"{steps:,} steps" if steps == planned else f"Stopped after {steps:,} of {planned:,} steps",
        seen=seen,
        epochs=seen / about["diptychs"],
        seconds=f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes",
        parameters=about["parameters"],
        window=f"{len(last)} steps" if len(last) > 1 else "step",
        loss=fmean(entry["loss"] for entry in last),
        pictures="\n\n".join(pictures),
        settings=block(yaml.safe_dump({"training": public(dict(settings))}, sort_keys=False, width=110), "yaml"),
        versions=", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        licence=_LICENCE[about["takes guidance"]],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
