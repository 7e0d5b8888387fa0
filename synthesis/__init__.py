"""Pipelines that make data sets.

    fafa synthesize RECIPE --output FOLDER     # makes a data set
    fafa synthesize calibrate FOLDER           # finds the bounds of its filter
    fafa synthesize adapter SETTINGS           # trains the LoRA that paints diptychs

`recipes/` holds the recipes, `recipe` what all kinds of them share, `triplets/` and `text_image/` the stages of both
kinds, `stages/` what all stages share (chunks, resuming, manifests). `components` says what the parts of a recipe are:
those in `models/` (language), `quadruples/` (texts), `painters/` and `filtering/`, and in `stand_ins/` those without a
model. `report/` counts what was made, and writes the page about it.
"""
