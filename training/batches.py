"""Which triplets train together."""

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..names import counted

logger = logging.getLogger(__name__)

_TRIES = 200  # places to look at for a triplet that must leave its batch


class TripletBatches(Sampler[list[int]]):
    """The batches of an epoch: at most `group_size` triplets of one group in each, and those together.

    Triplets of a group share the change of clothes and differ in the person. The losses tell such triplets from
    strangers by soft labels; how many of them a batch holds decides what a model learns. At 1, the default, no other
    triplet of a batch has the same caption, so a group's label never matters; random batches of SynCPR are like that
    (two triplets of a group meet in every sixth batch of 256). No two triplets of a group are then in one batch, unless
    the group has more of them than there are batches. From 2 on, only the person tells the members of a group
    apart, which teaches identity; it learns slowly from random weights, so the first epochs may stay random.

    All batches have the same size, give or take one, so that none is a remainder of a few triplets; there are as many
    as the batch size asks for, rounded up. Each process gets its share of every batch, again give or take one. The
    order depends on seed and epoch alone, which makes resuming exact and equal for any number of processes.

    Args:
        group_ids: one per triplet.
        batch_size: triplets in a batch of all processes together.
        group_size: most triplets of a group in a batch; 0 is plain random order, as in the released code. Where a group
            has more triplets than all batches have room for, some batches hold more, and the log says how many.
        random_epochs: epochs at the beginning that are in plain random order.
        drop_last: leave out the triplets beyond whole batches, others in each epoch.

    Raises:
        ValueError: a batch cannot hold `group_size` triplets, or two, or one for each process.
    """

    def __init__(
        self,
        group_ids: np.ndarray,
        batch_size: int,
        group_size: int = 1,
        random_epochs: int = 0,
        seed: int = 0,
        num_processes: int = 1,
        process_index: int = 0,
        drop_last: bool = False,
    ):
        if not 0 <= group_size <= batch_size:
            raise ValueError(f"group_size is {group_size}, expected 0 (random order) to the batch size of {batch_size}")
        check_batch_size(len(group_ids), batch_size, num_processes, drop_last)
        self.groups = np.unique(group_ids, return_inverse=True)[1]
        self.batch_size, self.group_size, self.random_epochs, self.seed = batch_size, group_size, random_epochs, seed
        self.num_processes, self.process_index, self.drop_last = num_processes, process_index, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        return _num_batches(len(self.groups), self.batch_size, self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose batches `__iter__` gives; the Trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.groups))
        if self.group_size and self.epoch >= self.random_epochs:
            order = self._keep_together(order, rng)
        if self.drop_last:
            order = order[: len(self) * self.batch_size]
        if self.group_size and self.epoch >= self.random_epochs:
            order = self._spread(order, rng)
        for batch in np.array_split(order, len(self)):
            yield np.array_split(batch, self.num_processes)[self.process_index].tolist()

    def _keep_together(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cuts each group into pieces of at most `group_size` triplets; the pieces come in random order."""
        # A stable sort by group leaves each group's members in their random order.
        order = order[np.argsort(self.groups[order], kind="stable")]
        piece = np.cumsum(_place_in_run(self.groups[order]) % self.group_size == 0) - 1
        shuffled = rng.permutation(piece[-1] + 1)[piece]
        return order[np.argsort(shuffled, kind="stable")]

    def _spread(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Exchanges triplets with those of other batches where two pieces of a group met in one."""
        groups = self.groups[order]
        batch = np.repeat(np.arange(len(self)), [len(part) for part in np.array_split(order, len(self))])
        by_batch_and_group = np.lexsort((groups, batch))
        pairs = batch * (self.groups.max() + 1) + groups
        surplus = by_batch_and_group[_place_in_run(pairs[by_batch_and_group]) >= self.group_size]
        members = Counter(zip(batch.tolist(), groups.tolist(), strict=True)) if len(surplus) else {}
        num_left = 0
        for here in surplus:
            for there in rng.integers(len(order), size=_TRIES):
                mine, other = groups[here], groups[there]
                fits = members[batch[there], mine] < self.group_size and members[batch[here], other] < self.group_size
                if fits:
                    members[batch[here], mine] -= 1
                    members[batch[there], other] -= 1
                    members[batch[here], other] += 1
                    members[batch[there], mine] += 1
                    for array in (order, groups):
                        array[[here, there]] = array[[there, here]]
                    break
            else:
                num_left += 1
        if num_left and self.group_size == 1 and np.bincount(self.groups[order]).max() <= len(self):
            return self._deal(order, rng)
        if num_left:
            logger.warning(
                "epoch %d: %d triplets share a batch with %d or more others of their group: there is no room elsewhere",
                *(self.epoch, num_left, self.group_size),
            )
        return order

    def _deal(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Group after group, a triplet to each batch in turn: no two of a group meet, if batches suffice for each."""
        groups = rng.permutation(self.groups.max() + 1)[self.groups[order]]
        order = order[np.argsort(groups, kind="stable")]
        return np.concatenate([order[first :: len(self)] for first in range(len(self))])


def check_batch_size(num_triplets: int, batch_size: int, num_processes: int = 1, drop_last: bool = False) -> None:
    """Refuses batches with fewer than two triplets, whose loss is always 0, or with none for one of the processes.

    Raises:
        ValueError: the message says what to change.
    """
    if num_triplets < 2:
        raise ValueError(
            f"the training set has {counted(num_triplets, 'triplet')}, but the loss tells each from the others of its "
            "batch: expected 2 at least, and many in practice. Look at data_dir, and at what was filtered or held out"
        )
    if batch_size < 2:
        raise ValueError(
            f"batches of {batch_size} triplet, in which it has no others to be told from: the loss would be 0 in every "
            "step. Raise batch_size; where memory is short, set gradient_cache_size, too. Gradient accumulation does "
            "not help, since it compares no triplets of different batches"
        )
    if drop_last and num_triplets < batch_size:
        raise ValueError(
            f"{num_triplets} triplets are less than a batch of {batch_size}, so that dataloader_drop_last leaves none: "
            "leave it out, or lower batch_size"
        )
    smallest = batch_size if drop_last else num_triplets // _num_batches(num_triplets, batch_size)
    if smallest < 2:
        raise ValueError(
            f"{num_triplets} triplets in batches of {batch_size} leave one that has no others in its batch, whose "
            f"loss would be 0: raise batch_size to {batch_size + 1}, or set dataloader_drop_last"
        )
    if smallest < num_processes:
        raise ValueError(
            f"{num_triplets} triplets in batches of {batch_size} cannot be divided among {num_processes} processes: "
            f"the smallest batch has {smallest}. Raise batch_size, or launch fewer processes"
        )


def _num_batches(num_triplets: int, batch_size: int, drop_last: bool = False) -> int:
    return num_triplets // batch_size if drop_last else -(-num_triplets // batch_size)


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """How many equal values stand directly before each: 0, 1, 2, ... within a run."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
