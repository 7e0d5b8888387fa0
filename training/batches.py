"""Which triplets train together, and which are held out."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class GroupSampler(Sampler[int]):
    """Orders triplets so that batches hold several of one group (`cpr_id`): the same change of clothes, other people.

    With random batches alone a model learns clothes: no other target in the batch wears what the caption asks for, so
    nothing is left to tell people apart by. Batches with look-alikes from the first step learn slowly, though, so the
    first epochs may stay random. The order depends on seed and epoch only, which makes resuming exact.

    Args:
        group_ids: one per triplet.
        group_size: triplets of a group that are kept together; 1 is a random order.
        random_epochs: epochs at the beginning that are in random order.
        seed: of the order.
    """

    def __init__(self, group_ids: np.ndarray, group_size: int = 4, random_epochs: int = 0, seed: int = 0):
        if group_size < 1:
            raise ValueError(f"group_size is {group_size}, expected 1 (random order) or more")
        self.groups = np.unique(group_ids, return_inverse=True)[1]
        self.group_size, self.random_epochs, self.seed = group_size, random_epochs, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.groups)

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose order `__iter__` gives; the Trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.groups))
        if self.group_size > 1 and self.epoch >= self.random_epochs:
            order = self._keep_together(order, rng)
        return iter(order.tolist())

    def _keep_together(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # A stable sort by group leaves each group's members in their random order, to be cut into pieces.
        order = order[np.argsort(self.groups[order], kind="stable")]
        groups = self.groups[order]
        starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
        place_in_group = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        piece = np.cumsum(place_in_group % self.group_size == 0) - 1
        shuffled = rng.permutation(piece[-1] + 1)[piece]
        return order[np.argsort(shuffled, kind="stable")]


def hold_out_quadruples(
    group_ids: np.ndarray, reference_paths: list[str], target_paths: list[str], fraction: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits triplets into training and validation so that no quadruple is in both.

    A quadruple's two directions have different groups but the same images, so groups that share an image stay on one
    side. Validation comes from the training set: the test set never selects a model.

    Args:
        group_ids: `cpr_id` of each triplet.
        reference_paths: reference image of each triplet; likewise `target_paths`.
        fraction: share of the quadruples to hold out.
        seed: of the choice.

    Returns:
        row numbers for training and for validation, each ascending.

    Raises:
        ValueError: if either side would be empty.
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
    num_held_out = round(len(names) * fraction)
    if not 0 < num_held_out < len(names):
        raise ValueError(
            f"holding out {fraction} of {len(names)} quadruples leaves one side empty; choose another fraction"
        )
    held_out = np.isin(quadruples, np.random.default_rng(seed).choice(names, num_held_out, replace=False))
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
