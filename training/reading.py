"""How a trainer reads triplets: batches for training, held-out ones as they are, and workers that change nothing."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from ..image_reading_fafa import UnreadableImageError
from ..loading import dead_workers_told, worker_options
from ..names import counted
from .batches import TripletBatches

logger = logging.getLogger(__name__)


class TripletReading:
    """A Trainer's data loaders (a base class before `Trainer`).

    Each has a generator of its own. Otherwise it would take numbers from the global random state as often as its
    workers are started, and where they persist, a run that resumes would have other masks than one that ran through.
    """

    def get_train_dataloader(self) -> DataLoader:
        """Batches of `TripletBatches`, of which every process reads its share."""
        if self.train_dataset is None:
            return super().get_train_dataloader()  # which says so
        args = self.args
        batches = TripletBatches(
            np.asarray(self.train_dataset[args.group_column][:]),
            batch_size=args.per_device_train_batch_size * args.world_size,
            group_size=args.group_size,
            random_epochs=args.random_epochs,
            seed=self._order_seed,
            num_processes=args.world_size,
            process_index=args.process_index,
            drop_last=args.dataloader_drop_last,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            generator=self._own_generator(),
            **self._worker_options(),
        )
        # Not by `accelerator.prepare`, which would divide the batches among processes once more.
        return prepare_data_loader(
            loader,
            args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=self.accelerator.non_blocking,
        )

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _own_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._order_seed)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Images as they are: without augmentation, and stopping at one that cannot be read."""
        return self._evaluating(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """As for evaluation."""
        return self._evaluating(super().get_test_dataloader, test_dataset)

    def _evaluating(self, make_loader: Callable[..., DataLoader], dataset) -> DataLoader:
        """A loader whose collator neither augments nor leaves out, and which keeps a last batch that is not full."""
        args, given, collator = self.args, dict(vars(self.args)), self.data_collator
        if hasattr(collator, "for_evaluation"):
            self.data_collator = collator.for_evaluation()
        vars(args).update({f"dataloader_{name}": value for name, value in self._worker_options().items()})
        args.dataloader_drop_last = False
        args.dataloader_pin_memory &= args.device.type == "cuda"  # without, torch warns of every loader
        try:
            loader = make_loader(dataset)
        finally:
            self.data_collator = collator
            vars(args).update(given)
        getattr(loader, "base_dataloader", loader).generator = self._own_generator()  # accelerate wraps it
        return loader

    def _worker_options(self) -> dict[str, Any]:
        """A loader's options for workers that need no shared memory for batches, or for none; see `worker_options`."""
        args = self.args
        options = worker_options(args.dataloader_num_workers, args.dataloader_multiprocessing_context)
        if options["num_workers"] == 0:
            return options | {"multiprocessing_context": None, "persistent_workers": False, "prefetch_factor": None}
        persistent, ahead = args.dataloader_persistent_workers, args.dataloader_prefetch_factor
        return options | {"persistent_workers": persistent, "prefetch_factor": ahead}

    def evaluation_loop(self, *args, **kwargs):
        """The Trainer's own; a worker that is killed ends it."""
        with dead_workers_told():
            return super().evaluation_loop(*args, **kwargs)

    def _readable(self, dataset):
        """Leaves out triplets that cannot be read: processes gather their metrics, so none may leave out any later."""
        unreadable = self.data_collator.unreadable(dataset)
        if not unreadable:
            return dataset
        names = ", ".join(sorted(set(unreadable.values())))
        if len(unreadable) == len(dataset):
            count = counted(len(dataset), "held-out triplet")
            raise UnreadableImageError(f"none of {count} has readable images: {names}")
        self.skipped_images.update(unreadable.values())
        logger.warning(
            "%d of %d held-out triplets are left out (on_error='skip'), whose images cannot be read: %s",
            *(len(unreadable), len(dataset), names),
        )
        return dataset.select([row for row in range(len(dataset)) if row not in unreadable])
