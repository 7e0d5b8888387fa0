"""What several stages know of pairs and triplets, put together."""

from collections.abc import Iterator, Sequence

from ..components import REJECTED, Record
from ..stages import Workspace


def pairs_with_texts(work: Workspace, chunk: int) -> list[Record]:
    """The pairs of a chunk that could be cut apart: their halves, and the texts of their quadruple."""
    quadruples = work.by_id("distinct", chunk)
    return [quadruples[pair["quadruple"]] | pair for pair in work.kept("split", chunk)]


def scores_of(work: Workspace, chunk: int, stages: Sequence[str]) -> dict[str, dict[str, float]]:
    """The scores that these stages gave to the pairs of a chunk, and a judge to its controls, by id."""
    found: dict[str, dict[str, float]] = {}
    for stage in stages:
        for record in work.kept(stage, chunk):
            found[record["id"]] = found.get(record["id"], {}) | record["scores"]
    return found


def kept_triplets(work: Workspace) -> Iterator[Record]:
    """Every triplet that the filter kept, in order: with texts, image paths below the workspace, and `direction`."""
    for chunk in range(work.num_chunks):
        pairs = {pair["id"]: pair for pair in pairs_with_texts(work, chunk)}
        for decision in work.kept("filter", chunk):
            yield pairs[decision["pair"]] | decision


def rejected_pairs(work: Workspace) -> Iterator[Record]:
    """The diptychs that could not be cut apart and the triplets that the filter rejected, with texts and images."""
    for chunk in range(work.num_chunks):
        quadruples, diptychs = work.by_id("distinct", chunk), work.by_id("diptychs", chunk)
        pairs = {record["id"]: record for record in work.read("split", chunk)}
        for record in pairs.values():
            if REJECTED in record:
                yield quadruples[record["quadruple"]] | diptychs[record["id"]] | record
        for record in work.read("filter", chunk):
            if REJECTED in record:
                pair = pairs[record["pair"]]
                yield quadruples[pair["quadruple"]] | pair | record
