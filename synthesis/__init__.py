"""Pipelines that make data sets.

    python -m fafa.synthesis RECIPE --output FOLDER        # makes a data set
    python -m fafa.synthesis.calibrate FOLDER              # finds the bounds of its filter
    python -m fafa.synthesis.train_adapter SETTINGS        # trains the LoRA that paints diptychs

`recipes/` holds the recipes, `recipe` what every kind of them has in common, `triplets/` and `text_image/` the stages
of both kinds, `stages` what all stages have in common (chunks, resuming, manifests), `components` the parts that a
recipe puts together: `models/` (language), `quadruples/` (texts), `painters/`, `filtering/`; `stand_ins/` holds those
that need no model. `report/` counts what was made, and writes the page about it.
"""
