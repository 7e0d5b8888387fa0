"""Which triplets of a training set train, and which are held out for validation."""

import numpy as np

from ..names import counted


def hold_out_quadruples(
    group_ids: np.ndarray, reference_paths: list[str], target_paths: list[str], fraction: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits triplets into training and validation so that no quadruple is in both.

    A quadruple's two directions have different groups but the same images, so groups that share an image stay on one
    side. Validation comes from the training set: the test set never selects a model.

    Args:
        group_ids: the group of each triplet; the paths are those of its images.
        fraction: share of the quadruples to hold out.

    Returns:
        row numbers for training and for validation, each ascending.

    Raises:
        ValueError: either side would be empty.
    """
    groups = np.unique(group_ids, return_inverse=True)[1]
    parent = np.arange(groups.max() + 1)

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    first_group_of: dict[str, int] = {}
    for group, *paths in zip(groups.tolist(), reference_paths, target_paths, strict=True):
        for path in paths:
            parent[root(group)] = root(first_group_of.setdefault(path, group))
    quadruples = np.array([root(group) for group in range(len(parent))])[groups]
    names = np.unique(quadruples)
    if not 0 <= fraction <= 1:  # false for NaN
        raise ValueError(f"the fraction to hold out is {fraction}, expected a number between 0 and 1")
    num_held_out = round(len(names) * fraction)
    if not 0 < num_held_out < len(names):
        remedy = f"such as {1 / len(names):.2g}, one of them" if len(names) > 1 else "but of more quadruples"
        raise ValueError(
            f"holding out {fraction} of {counted(len(names), 'quadruple')} leaves one side empty: choose another "
            f"fraction (validation_fraction), {remedy}"
        )
    held_out = np.isin(quadruples, np.random.default_rng(seed).choice(names, num_held_out, replace=False))
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
