"""Training the adapter (LoRA) with which FLUX.1 paints one person twice, side by side, on photographs of the user's.

    python -m fafa.synthesis.train_adapter adapters/flux.yaml --output FOLDER

`composing` makes diptychs of identity-labelled photographs, `caching` encodes them once, `training` trains, and `card`
writes what the adapter says about itself.
"""
