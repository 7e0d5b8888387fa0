"""Captions of the photographs that diptychs are composed of: from a file, or by a model."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..components import REJECTED, Record, SynthesisError, TextRequest, seed_of
from ..models.asking import as_messages, ask
from ..replies.sentences import read_sentence, unquoted
from ..settings import Settings, deciding
from ..stages import PartStage, Workspace, read_lines

CAPTION_INSTRUCTION = (
    "Describe the person in this photograph in one sentence of 15 to 30 words: apparent gender and age group, hair, "
    "upper and lower clothing with colours, shoes, what they carry, posture, viewpoint and surroundings. "
    "Name nobody, guess nothing that cannot be seen, and say nothing about the photograph's quality."
)


class PhotographCaptions(PartStage):
    """Finds or writes a caption for each photograph that is part of a diptych."""

    name, source = "captions", "pictures"

    def __init__(self, settings: Settings):
        super().__init__(settings.captioner)
        self._settings = settings
        self._known = _read_captions(Path(settings.captions)) if settings.captions else {}
        known = json.dumps(self._known, sort_keys=True).encode()
        self.settings = {
            "captions": hashlib.sha256(known).hexdigest()[:16] if settings.captions else None,
            "captioner": deciding(settings.captioner),
        }
        for name in ("instruction", "attempts", "min_words", "max_words", "language", "seed"):
            self.settings[name] = getattr(settings, name)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The photographs of a chunk's diptychs."""
        diptychs = [diptych for person in work.kept("pictures", chunk) for diptych in person["diptychs"]]
        return [{"id": path} for path in dict.fromkeys(path for diptych in diptychs for path in diptych["sources"])]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """A record of each photograph: with its caption, or with the reason why there is none."""
        unknown = []
        for item in items:
            if item["id"] in self._known:
                yield _captioned(item["id"], self._known[item["id"]])
            elif self._settings.captioner is None:
                yield {"id": item["id"], REJECTED: f"no caption in {Path(self._settings.captions).name}"}
            else:
                unknown.append(item["id"])
        if unknown:
            yield from self._write(unknown)

    def trial(self, pair: Record, folder: Path) -> Record:
        """A caption of a painted person."""
        (record,) = self._write([str(folder / pair["left"])])
        return record | {"id": pair["id"]}

    def _write(self, paths: Sequence[str]) -> Iterator[Record]:
        settings = self._settings
        question = settings.instruction

        def request(path: str, attempt: int) -> TextRequest:
            seed = seed_of(settings.seed, "captions", path, *([attempt] if attempt else []))
            return TextRequest(path, as_messages("", question), seed, [Path(settings.root, path)])

        def read(_: str, text: str) -> str:
            return read_sentence(text, settings.min_words, settings.max_words, settings.language, question)

        for answer in ask(self.part, paths, request, read, settings.attempts):
            failed = {"faults": answer.faults, "answers": answer.refused} if answer.faults else {}
            if answer.value is None:
                yield {"id": answer.item, REJECTED: answer.faults[-1]} | failed
            else:
                yield _captioned(answer.item, answer.value) | failed


def _captioned(path: str, text: str) -> Record:
    """The record of a caption, which is on one line, without quotes around it or a full stop at its end."""
    caption = unquoted(" ".join(text.split())).rstrip(".")
    return {"id": path, "caption": caption} if caption else {"id": path, REJECTED: "the caption is empty"}


def _read_captions(file: Path) -> dict[str, str]:
    try:
        records, damaged = read_lines(file)
    except OSError as error:
        raise SynthesisError(f"{file}: the captions cannot be read ({error.strerror})") from None
    damaged += sum(not all(isinstance(record.get(key), str) for key in ("image", "caption")) for record in records)
    if damaged:
        raise SynthesisError(f'{file}: {damaged} lines are not {{"image": path, "caption": text}}; mend or remove them')
    return {record["image"]: record["caption"] for record in records}
