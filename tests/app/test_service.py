"""The service says what the gallery does, for several users at a time, and one clear sentence where it cannot."""

import asyncio
import shutil
import threading

import pytest
from encoding_spy import paint

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from PIL import Image

from fafa.app import service as service_module
from fafa.app.faults import Refused
from fafa.app.media import name_of
from fafa.app.questions import Likeness, Minus, Question, Term
from fafa.app.service import SearchService
from fafa.retrieval import Entry, Gallery, Query
from fafa.retrieval import Term as QueryTerm

RED, BLUE = Term(caption="a red coat"), Term(caption="a blue hat")


def ask(service, *questions, user="me"):
    """The answers to questions that are asked at one time, or their refusals."""

    async def together():
        return await asyncio.gather(*(service.search(one, user) for one in questions), return_exceptions=True)

    return asyncio.run(together())


def ids_and_scores(answer):
    return [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in answer.hits]


def found(results):
    return [(result.id, result.score) for result in results]


def test_it_answers_what_the_gallery_does(service, gallery, photos):
    upload = service.uploads.keep("me", (photos / "3.png").read_bytes())
    photo = Term(image=upload.id, caption="a red coat", weight=2.0)
    questions = [
        Question(terms=[photo]),
        Question(terms=[RED, BLUE], minus=[Minus(caption="a bag")], top=4),
        Question(terms=[RED], right=[2], wrong=[1, 4]),
        Question(terms=[RED], where='path != "5.png"'),
        Question(terms=[Term(image=upload.id, box=(0, 0, 12, 12))], exclude_query=False),
    ]
    answers = ask(service, *questions)
    crop = Image.open(photos / "3.png").convert("RGB").crop((0, 0, 12, 12))
    expected = [
        gallery.search(photos / "3.png", "a red coat", 20, exclude=[photos / "3.png"]),
        gallery.search(caption=["a red coat", "a blue hat"], minus="a bag", top=4),
        gallery.search_many([Query((QueryTerm(caption="a red coat"),), (2,), (1, 4))], 20)[0],
        gallery.search(caption="a red coat", where='path != "5.png"', top=20),
        gallery.search(crop, top=20),
    ]
    for answer, results in zip(answers, expected, strict=True):
        assert ids_and_scores(answer) == found(results)
    assert [answer.searched for answer in answers] == [8, 9, 7, 8, 9]


def test_an_upload_is_decoded_for_the_first_search_alone(service, photos, monkeypatch):
    """Marks and other sentences ask by the same photograph again, and all who ask meanwhile would wait."""
    upload = service.uploads.keep("me", (photos / "3.png").read_bytes())
    term = Term(image=upload.id, box=(0, 0, 12, 12), caption="a red coat")
    [first] = ask(service, Question(terms=[term]))
    monkeypatch.setattr(service, "photo", lambda *_: 1 / 0)
    [again, whole] = ask(service, Question(terms=[term]), Question(terms=[Term(image=upload.id)]))
    assert ids_and_scores(again) == ids_and_scores(first)
    assert whole.hits  # the processor opens it itself, as `fafa search` does: a large one at a part of its size


def test_all_that_is_asked_at_one_time_is_encoded_in_one_batch(service, gallery, monkeypatch):
    sizes, encode = [], type(gallery).encode_pairs

    def count(self, pairs):
        sizes.append(len(pairs))
        return encode(self, pairs)

    held, answer_all = threading.Event(), service._batches._answer

    def hold(asked):
        assert held.wait(10)
        return answer_all(asked)

    monkeypatch.setattr(type(gallery), "encode_pairs", count)
    monkeypatch.setattr(service._batches, "_answer", hold)

    async def scene():
        tasks = [asyncio.ensure_future(service.search(Question(terms=[RED, BLUE]), "me"))]
        await asyncio.sleep(0.05)
        tasks += [
            asyncio.ensure_future(service.search(Question(terms=[RED], where=f"left != {number}"), "me"))
            for number in range(5)
        ]
        await asyncio.sleep(0.05)
        held.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())
    assert sizes == [2, 5]


def test_one_question_that_cannot_be_answered_spoils_no_other(service):
    answers = ask(
        service,
        Question(terms=[RED], top=2),
        Question(terms=[Term(caption="zzz")]),
        Question(terms=[Term()]),
        Question(terms=[RED], where="colour = 3"),
        Question(terms=[RED], where='colour == "x"'),
        Question(terms=[RED], wrong=[77]),
        Question(terms=[RED], right=[1], wrong=[1]),
        Question(terms=[RED], false_alarm_rate=0.01),
        Question(terms=[Term(image="result:77")]),
        Question(terms=[Term(image="result:../../etc/passwd")]),
        Question(terms=[Term(image="/etc/passwd")]),
        Question(terms=[Term(caption="a red coat", weight=-1)]),
        Question(terms=[Term(image="result:1", box=(500, 500, 600, 600))]),
        Question(terms=[RED], top=3),
    )
    first, *refused, last = answers
    assert len(first.hits) == 2 and len(last.hits) == 3
    for one in refused:
        assert isinstance(one, Refused) and one.status in (400, 404), one
        assert "\n" not in one.sentence and "Error" not in one.sentence


def test_a_result_marked_wrong_or_asked_by_or_below_the_cut_off_is_not_found(service):
    wrong, like, cut = ask(
        service,
        Question(terms=[RED], wrong=[1, 2]),
        Question(terms=[Term(image="result:3")]),
        Question(terms=[RED], least_score=0.99),
    )
    assert {1, 2}.isdisjoint(hit.id for hit in wrong.hits)
    assert 3 not in [hit.id for hit in like.hits] and like.searched == 8
    assert cut.hits == [] and "Nobody is found" in cut.notes[0]
    [similar] = ask(service, Likeness(id=3, top=2).question())
    assert ids_and_scores(similar) == ids_and_scores(like)[:2]


def test_what_is_not_read_of_a_caption_is_noted_beside_the_results(service):
    """The same scores came without a word for a caption and for its beginning."""
    plain, odd, odder = ask(
        service,
        Question(terms=[RED]),
        Question(terms=[Term(caption="a red qqqq coat")]),
        Question(terms=[RED], minus=[Minus(caption="a qqqq")]),
    )
    assert plain.notes == []
    assert all(any("qqqq" in note for note in answer.notes) for answer in (odd, odder))


def test_no_path_of_this_machine_is_told(service, photos, gallery, monkeypatch):
    broken = f"{photos} is damaged"
    monkeypatch.setattr(type(gallery), "allowed", lambda *_, **__: (_ for _ in ()).throw(ValueError(broken)))
    [refused] = ask(service, Question(terms=[RED]))
    assert refused.status == 500 and str(photos) not in refused.sentence
    monkeypatch.undo()
    [answer] = ask(service, Question(terms=[RED]))
    assert str(photos.parent) not in answer.model_dump_json() and str(photos.parent) not in str(service.facts())


def test_a_fault_is_logged_and_told_without_what_it_is(service, gallery, monkeypatch, caplog):
    monkeypatch.setattr(type(gallery), "search_many", lambda *_, **__: 1 / 0)
    [refused] = ask(service, Question(terms=[RED]))
    assert (refused.status, refused.sentence) == (500, service_module.FAILED)
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    [answer] = ask(service, Question(terms=[RED]))
    assert answer.hits


@pytest.fixture
def followed(photos, gallery, tmp_path, monkeypatch):
    """A gallery in a folder that another one writes to, and the service over it."""
    monkeypatch.setattr(service_module, "_FOLLOWED_EVERY", 0.0)
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    place = tmp_path / "photos.index"
    writer = Gallery.from_folder(gallery.model, gallery.processor, own, features_dir=place, progress=False)
    service = SearchService(Gallery.load(place, gallery.model, gallery.processor))
    yield service, writer, own
    service.close()


def test_a_gallery_that_is_written_meanwhile_is_followed(followed):
    service, writer, own = followed
    [before] = ask(service, Question(terms=[RED]))
    paint(own / "new.png", 99)
    writer.add([own / "new.png"], [Entry(camera="gate", box=(1, 2, 8, 9))])
    [after] = ask(service, Question(terms=[RED], where='camera == "gate"'))
    assert (len(before.hits), after.searched, after.hits[0].name) == (9, 1, "new.png")
    assert after.generation > before.generation
    assert [field.name for field in service.facts().fields] == ["path", "camera", "left", "top", "right", "bottom"]
    writer.delete([after.hits[0].id])
    [gone] = ask(service, Question(terms=[Term(image=f"result:{after.hits[0].id}")]))
    assert gone.status == 404


def test_a_gallery_that_cannot_be_read_anew_answers_as_it_was_and_says_so(followed):
    service, writer, _ = followed
    (writer.place.path / "gallery.json").write_text("{")
    [answer] = ask(service, Question(terms=[RED]))
    assert len(answer.hits) == 9 and "cannot be read now" in answer.notes[0]


def test_an_empty_gallery_says_so(followed):
    service, writer, _ = followed
    writer.delete(writer.ids.tolist())
    [answer] = ask(service, Question(terms=[RED]))
    assert answer.hits == [] and "no image yet" in answer.notes[0]
    assert service.facts().images == 0 and service.examples() == []


def test_a_photo_that_is_gone_is_told_in_one_sentence(followed):
    service, _, own = followed
    [answer] = ask(service, Question(terms=[RED], top=1))
    (own / answer.hits[0].name).unlink()
    for box in ((0, 0, 4, 4), None):
        [refused] = ask(service, Question(terms=[Term(image=f"result:{answer.hits[0].id}", box=box)]))
        assert refused.status == 404 and "gone" in refused.sentence


def test_an_image_is_looked_up_in_one_state_of_the_gallery(followed, monkeypatch):
    """Requests look images up while the thread that answers follows the folder: rows of two states name others."""
    service, writer, _ = followed
    number, name = int(service.gallery.ids[3]), name_of(service.result(int(service.gallery.ids[3])))
    state, rows_of_ids = service.gallery.state, type(service.gallery.state).rows_of_ids
    writer.delete(writer.ids[:2].tolist())
    writer.compact()

    def follow(self, ids):
        rows = rows_of_ids(self, ids)
        service.gallery.refresh()
        return rows

    monkeypatch.setattr(type(state), "rows_of_ids", follow)
    assert name_of(service.result(number)) == name and service.gallery.state is not state


def test_an_example_that_is_deleted_is_left_out(followed):
    service, writer, _ = followed
    kept, deleted = writer.ids[:2].tolist()
    service.begin_with = [(deleted, "a red coat"), (kept, None)]
    writer.delete([deleted])
    ask(service, Question(terms=[RED]))
    assert [one.image for one in service.examples()] == [f"result:{kept}"]


def test_nobody_asks_filters_where_images_lie(gallery, photos):
    """Of a gallery whose images lie in no one folder, paths say where on this machine they lie."""
    files = [photos / "0.png", photos / "1.png"]
    service = SearchService(Gallery(gallery.model, gallery.processor, gallery.features[:2], files))
    facts = service.facts()
    for where in (f'path > "{photos}"', 'not ("/home" in path)', 'camera == "x" or path'):
        [refusal] = ask(service, Question(terms=[RED], where=where))
        assert isinstance(refusal, Refused) and "common folder" in refusal.sentence
    service.close()
    assert "path" not in [field.name for field in facts.fields] and str(photos) not in facts.model_dump_json()


def test_whoever_goes_away_lets_no_second_detector_begin(gallery, photos):
    """A search for people goes on in its thread when its asker has gone: the next one waits for it."""
    at_once, most, go_on = [], [], threading.Event()

    def find_people(photo):
        at_once.append(photo)
        most.append(len(at_once))
        go_on.wait(60)
        at_once.pop()
        return []

    service = SearchService(gallery, find_people=find_people)
    number = f"result:{gallery.ids[0]}"

    async def ask_and_go():
        first = asyncio.ensure_future(service.people_in(number, "me"))
        while not most:
            await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.ensure_future(service.people_in(number, "me"))
        await asyncio.sleep(0.2)
        go_on.set()
        return await second

    assert asyncio.run(ask_and_go()) == [] and most == [1, 1]
    service.close()


def test_heat_maps_are_of_the_person(service):
    question = Question(terms=[Term(image="result:4", caption="a red coat")])
    heat = asyncio.run(service.heat_map(question, 2, "me"))
    assert heat.size == (12, 24)


def test_what_cannot_be_noted_is_not_answered(service, tmp_path):
    from fafa.app.audit import Audit

    file = tmp_path / "log" / "audit.jsonl"
    file.parent.mkdir()
    service.audit = Audit(file)
    ask(service, Question(terms=[RED], top=2))
    [line] = file.read_text().splitlines()
    assert '"found": [' in line and '"a red coat"' in line and file.stat().st_mode & 0o77 == 0
    shutil.rmtree(file.parent)
    [refused] = ask(service, Question(terms=[RED]))
    assert refused.status == 503
