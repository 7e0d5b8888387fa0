"""A collection of Milvus with a gallery's mean vectors and what is known of its images; errors of Milvus, in one line.

Milvus is a server or a cluster of them, at a URI such as `http://milvus.example.org:19530`; or, for trying things out,
milvus-lite within this process, whose URI is a local file that ends in `.db`.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..extras import not_installed
from ..names import nearest
from .metadata import FIELDS, TEXT
from .milvus_filters import TAGS

MOST = 16_384  # entries that Milvus gives for one query
_QUERIES_AT_ONCE = 64
_ENTRIES_AT_ONCE = 1_000  # written; messages have at most 64 MiB
_LISTED_AT_ONCE = 10_000
_LONGEST_TEXT = 65_535  # bytes
_UNREACHABLE = 2  # Milvus' code of failed connections
_IS_ABSENT = 100


class MilvusCollection:
    """One collection.

    Args:
        name: of letters, digits and underscores.
        uri: of Milvus; None: the environment variable MILVUS_URI.
        token: `user:password`, or a key; None: the environment variable MILVUS_TOKEN, or none.
        timeout: seconds for which pymilvus tries a search again where Milvus does not answer.
        search_options: of the index, such as `{"ef": 2000}`, see docs/milvus.md.

    Raises:
        ImportError: pymilvus, or milvus-lite for a local file, is not installed.
        ValueError: no URI is given, or it is none.
        ConnectionError: Milvus does not answer; a local file cannot be opened, or another process has it.
    """

    def __init__(
        self,
        name: str,
        uri: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        search_options: Mapping[str, Any] | None = None,
    ):
        uri = uri or os.environ.get("MILVUS_URI", "")
        if not uri:
            raise ValueError("no URI of Milvus is given: uri=..., or the environment variable MILVUS_URI")
        is_local = uri.endswith(".db")
        for module in ("pymilvus", *(["milvus_lite"] if is_local else [])):
            if find_spec(module) is None:
                raise not_installed(module, "galleries over Milvus need it")
        with _without_variable():
            from pymilvus import MilvusClient

        logging.getLogger("grpc._server").addFilter(_is_no_gap)
        for library in ("pymilvus", "milvus_lite"):  # they log each error with its traceback, and raise it, too
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self.name, self.timeout, self.search_options = name, timeout, dict(search_options or {})
        self._shown = f"collection {name!r:.100} of Milvus at {re.sub(r'//[^/]*@', '//', uri)}"  # without a password
        with self._errors_told():
            token = token or os.environ.get("MILVUS_TOKEN", "")
            # milvus-lite ends a connection on which pymilvus asks every ten seconds whether it is there.
            seldom = {"grpc_options": {"grpc.keepalive_time_ms": 2**31 - 1}} if is_local else {}
            self._client = MilvusClient(uri, token=token, timeout=timeout, **seldom)

    def __str__(self) -> str:
        return self._shown

    def exists(self) -> bool:
        """Whether Milvus has it. Raises a ConnectionError if Milvus does not answer."""
        with self._errors_told():
            return self._client.has_collection(self.name, timeout=self.timeout)

    def create(self, dim: int, notes: Mapping[str, str], index_type: str, index_options: Mapping[str, Any]) -> None:
        """Makes it, without entries; `notes` as for `note`; the index as for `milvus.publish_gallery`."""
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("mean", DataType.FLOAT_VECTOR, dim=dim)
        schema.add_field("checksum", DataType.INT64)
        for name, kind in FIELDS.items():
            options = {"datatype": DataType.VARCHAR, "max_length": _LONGEST_TEXT}
            schema.add_field(name, nullable=True, **(options if kind == TEXT else {"datatype": DataType.DOUBLE}))
        for name in TAGS.values():
            schema.add_field(name, DataType.JSON)
        index = self._client.prepare_index_params()
        index.add_index("mean", index_type=index_type, metric_type="IP", params=dict(index_options))
        with self._errors_told():
            self._client.create_collection(self.name, schema=schema, index_params=index, properties=_named(notes))

    def open(self) -> None:
        """Has Milvus load it, so that it can be searched."""
        with self._errors_told():
            self._client.load_collection(self.name)

    def notes(self) -> dict[str, str]:
        """What `note` noted.

        Raises:
            ValueError: Milvus has no such collection, or it is none of a gallery. ConnectionError: it does not answer.
        """
        with self._errors_told():
            properties = self._client.describe_collection(self.name, timeout=self.timeout).get("properties") or {}
        notes = {name.removeprefix("fafa."): value for name, value in properties.items() if name.startswith("fafa.")}
        if not {"settings", "state", "generation", "segments"} <= notes.keys():
            raise ValueError(f"{self} holds no gallery: choose another name for the collection")
        return notes

    def note(self, **notes: str) -> None:
        """Notes something of the whole collection."""
        with self._errors_told():
            self._client.alter_collection_properties(self.name, properties=_named(notes), timeout=self.timeout)

    def nearest(self, queries: Tensor, number: int, expression: str = "") -> list[Tensor]:
        """Ids of the entries whose mean vectors have the largest products with each query, largest first.

        Args:
            queries: `(num_queries, dim)`. `number`: at most `MOST`. `expression`: see `milvus_filters.to_milvus`.

        Returns:
            `(m,)`, int64, for each query; fewer than `number` where there are no more.
        """
        found = []
        options = {"metric_type": "IP", "params": self.search_options}
        for group in queries.float().cpu().split(_QUERIES_AT_ONCE):
            with self._errors_told():
                answers = self._client.search(
                    self.name,
                    data=list(group.numpy()),
                    anns_field="mean",
                    filter=expression,
                    limit=number,
                    search_params=options,
                    output_fields=["id"],
                    timeout=self.timeout,
                )
            found += [torch.tensor([hit["id"] for hit in hits], dtype=torch.int64) for hits in answers]
        return found

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all entries, ascending, and their checksums: `(n,)`, int64, each."""
        blocks = [np.empty((2, 0), dtype=np.int64)]
        with self._errors_told():
            listing = self._client.query_iterator(
                self.name,
                batch_size=_LISTED_AT_ONCE,
                filter="id >= 0",
                output_fields=["id", "checksum"],
                consistency_level="Strong",
            )
            while entries := listing.next():
                blocks.append(np.array([[entry[field] for entry in entries] for field in ("id", "checksum")]))
            listing.close()
        ids, checksums = np.concatenate(blocks, axis=1)
        order = np.argsort(ids)
        return ids[order], checksums[order]

    def write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Writes entries, in the place of those with the same ids."""
        for start in range(0, len(entries), _ENTRIES_AT_ONCE):
            with self._errors_told():
                self._client.upsert(self.name, list(entries[start : start + _ENTRIES_AT_ONCE]))

    def delete(self, ids: Sequence[int]) -> None:
        """Deletes entries; those that are not there are none."""
        for start in range(0, len(ids), _LISTED_AT_ONCE):
            with self._errors_told():
                self._client.delete(self.name, ids=list(ids[start : start + _LISTED_AT_ONCE]))

    def flush(self) -> None:
        """Has Milvus write out and index what was written; until then it searches that more slowly."""
        with self._errors_told():
            self._client.flush(self.name)

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        """Turns errors of pymilvus into ours, of one line."""
        from grpc import RpcError, StatusCode
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, RpcError) as error:
            code = error.code if isinstance(error, MilvusException) else error.code()
            reason = " ".join(str(error.message if isinstance(error, MilvusException) else error.details()).split())
            if code == _IS_ABSENT:
                raise ValueError(
                    f"there is no {self} ({self._similar()}): publish_gallery, or fafa index with --collection, puts a "
                    "gallery's folder into it"
                ) from error
            if code == _UNREACHABLE or isinstance(code, StatusCode) or reason.startswith("Open local milvus failed"):
                remedy = " (another process may have it: one at a time)" if "local milvus" in reason else ""
                raise ConnectionError(
                    f"{self} cannot be reached{remedy}: {reason[:300]}. Nothing of the gallery's folder is lost; "
                    "try again once Milvus answers"
                ) from error
            raise ValueError(f"{self} refuses this: {reason[:300]}") from error

    def _similar(self) -> str:
        """What another name may be meant."""
        with self._errors_told():
            return nearest(self.name, self._client.list_collections(timeout=self.timeout))


@contextmanager
def _without_variable() -> Iterator[None]:
    """While it is imported pymilvus reads MILVUS_URI by itself, and ends if that is a local file."""
    uri = os.environ.pop("MILVUS_URI", None)
    try:
        yield
    finally:
        if uri is not None:
            os.environ["MILVUS_URI"] = uri


def _is_no_gap(record: logging.LogRecord) -> bool:
    """milvus-lite lacks a call that pymilvus can do without; gRPC would show a traceback."""
    return "Method not implemented!" not in record.getMessage()


def notes_of(settings: Mapping[str, Any], state: str, generation: int, segments: Iterable[str] = ()) -> dict[str, str]:
    """What is noted of a collection: what made the features, which state of the gallery it holds, and which segments.

    All entries of such a segment that are there are what they should be.
    """
    return {
        "settings": json.dumps(settings, sort_keys=True),
        "state": state,
        "generation": str(generation),
        "segments": json.dumps(sorted(segments)),
    }


def _named(notes: Mapping[str, str]) -> dict[str, str]:
    return {f"fafa.{name}": value for name, value in notes.items()}
