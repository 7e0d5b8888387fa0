"""Training the last blocks of the vision tower, all of it, or none."""

from ..names import counted
from ..retriever import Retriever


def train_vision_blocks(model: Retriever, num_blocks: int) -> Retriever:
    """Chooses how much of the vision tower trains; what comes after it always does.

    Blocks below the first that trains keep no activations for the backward pass, and stay in eval mode.

    Args:
        model: it is changed in place, and returned.
        num_blocks: 0 freezes the tower (the paper), n trains its last n blocks, -1 all of it, embeddings included.

    Raises:
        ValueError: the tower has fewer blocks.
    """
    tower = model.vision_blocks
    blocks = tower[1:]
    if not -1 <= num_blocks <= len(blocks):
        raise ValueError(
            f"trainable_vision_blocks is {num_blocks}, but the vision tower has {counted(len(blocks), 'block')}: "
            f"expected 0 (frozen), 1 to {len(blocks)} (the last ones) or -1 (all, and the embeddings before them)"
        )
    model.freeze_vision_tower()
    if num_blocks:
        model.config.freeze_vision = False
        for module in tower if num_blocks < 0 else blocks[-num_blocks:]:
            module.requires_grad_(True)
    return model.train(model.training)
