"""What every writer of quadruples is: caption A, caption B, and an edit in either direction."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from ..components import Part, Record

FIELDS = ("caption_a", "caption_b", "edit_ab", "edit_ba")


class QuadrupleWriter(Part, ABC):
    """Writes quadruples: two captions of one subject, and the edits that lead from either to the other."""

    @abstractmethod
    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        """One record per id, in any order; what is in it depends on the settings, the seed and the id alone.

        A record holds `id`, the four texts (`FIELDS`), `attempts`, and what its writer adds. One that did not succeed
        has the reason under `rejected` in place of the texts. Answers that could not be used are kept under `answers`,
        and why under `faults`, also where a later attempt succeeded.

        Raises:
            SynthesisError: nothing can be written at all.
        """
