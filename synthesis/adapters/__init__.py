"""Training the adapter (LoRA) with which FLUX.1 paints one person twice, side by side, on the user's own photographs.

    fafa synthesize adapter adapters/flux.yaml --output FOLDER

`composing` makes diptychs of photographs of known people, `caching` turns them into latents once, `training` trains,
and `card` writes the adapter's card.
"""
