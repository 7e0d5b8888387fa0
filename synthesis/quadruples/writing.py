"""What every writer of texts is: of quadruples, and of prompts for images."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from ..components import Part, Record

FIELDS = ("caption_a", "caption_b", "edit_ab", "edit_ba")


class TextWriter(Part, ABC):
    """Writes quadruples, or prompts that images of people are painted from."""

    @abstractmethod
    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        """One record per id, in any order, which depends on the settings, the seed and the id alone.

        A record holds `id`, the texts (`FIELDS` and `attempts` of a quadruple, or `prompt`), and what its writer adds.
        One that did not succeed has the reason under `rejected` in place of the texts. Answers that could not be used
        are kept under `answers`, and why under `faults`, also where a later attempt succeeded.

        Raises:
            SynthesisError: nothing can be written at all.
        """
