"""Results in a browser: seen in full, refined from, marked, kept, exported, and found again by a link."""

from io import BytesIO

import pytest
from browser_steps import SENTENCE, hits, new_answer, search, told
from PIL import Image

from fafa.app.links import text_of
from fafa.app.questions import Question, Term


def test_a_result_in_full(page):
    """A click shows the photograph and what is known of it; then the heat map, the next result, and the way back."""
    found = search(page, SENTENCE)
    page.locator(".hit .look").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Result 1 of").wait_for()
    photo = dialog.get_by_role("img")
    assert photo.get_attribute("src").startswith(f"/media/{found[0]}/photo.webp?")
    assert photo.evaluate("async image => { await image.decode(); return image.naturalHeight }") > 0
    assert "Camera" in dialog.inner_text()
    dialog.get_by_role("button", name="Heat map").click()
    dialog.get_by_alt_text("Heat map of result 1").wait_for()
    page.keyboard.press("ArrowRight")
    dialog.get_by_text("Result 2 of").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.id") == str(found[1])


def test_a_film_opens_at_its_moment(page):
    """A result of a film shows the film, which stands at the moment, and the frame with the person's box."""
    pytest.importorskip("av", reason="films are read by PyAV")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Filter in words of its own").fill("time == 2")
    assert len(search(page, SENTENCE)) == 1
    page.locator(".hit", has_text="walk.mp4").get_by_text("0:00:02").click()
    page.get_by_role("dialog").locator("video").wait_for()
    at_its_clock = 5 + 2  # see `demo`
    page.wait_for_function(f"Math.abs(document.querySelector('dialog video').currentTime - {at_its_clock}) < 0.2")
    page.evaluate("document.querySelector('dialog video').dispatchEvent(new Event('error'))")
    page.get_by_role("dialog").get_by_text("This browser cannot play the film").wait_for()  # but shows its picture
    frame = page.request.get(page.url.partition("?")[0] + page.locator("dialog video").get_attribute("poster")[1:])
    assert frame.ok and Image.open(BytesIO(frame.body())).size == (96, 192)


def test_refine_from_a_result(page):
    """A result becomes the reference photo, with an empty sentence for what should differ from it."""
    chosen = search(page, SENTENCE)[1]
    page.locator(".hit .look").nth(1).click()
    with new_answer(page):
        page.get_by_role("dialog").get_by_role("button", name="Refine from this").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert page.get_by_label("Sentence").input_value() == ""
    assert f"/media/{chosen}/" in page.get_by_alt_text("Reference photo").get_attribute("src")
    assert hits(page) and chosen not in hits(page)


def test_one_more_photo(page):
    """A result can be one more reference photo, as a chip."""
    before = search(page, SENTENCE)
    page.locator(".hit .look").nth(2).click()
    page.get_by_role("dialog").get_by_role("button", name="Add as one more photo").click()
    page.get_by_text("is one more photo of the query now").wait_for()
    assert search(page) != before


def test_marks(page):
    """What is marked right comes to the front, what is marked wrong goes; both can be taken back."""
    before = search(page, SENTENCE)
    with new_answer(page):
        page.get_by_role("button", name="Result 5 is right").click()
    assert hits(page)[0] == before[4]
    with new_answer(page):
        page.get_by_role("button", name="Result 2 is wrong").click()
    wrong = page.get_by_role("group", name="Your marks").locator('[data-do="wrong"]').get_attribute("data-id")
    assert int(wrong) not in hits(page)
    with new_answer(page):
        page.get_by_role("button", name="Forget all").click()
    assert hits(page) == before
    page.evaluate("document.querySelectorAll('.hit [data-do=right]').forEach((mark, n) => n < 3 && mark.click())")
    page.get_by_text("marked 3 right").wait_for()  # quick clicks all count


def test_marks_of_another_question_are_taken_back_and_that_is_said(page):
    search(page, SENTENCE)
    with new_answer(page):
        page.get_by_role("button", name="Result 2 is right").click()
    page.get_by_role("button", name="Also wanted, not wanted").click()
    page.get_by_label("One more wish").fill("a hat")
    page.get_by_role("button", name="+ Wanted").click()
    page.locator(".wish").wait_for()
    search(page)
    told = page.get_by_text("Your marks were about another question and are taken back.")
    told.wait_for()
    assert told.bounding_box()["y"] >= 0, "it is in view"
    assert page.get_by_role("group", name="Your marks").count() == 0


def test_back_leads_to_the_search_before(page):
    """And forth again; before the first one, to the empty page: one click lost the whole chain of searches."""
    first, second = search(page, SENTENCE), search(page, "a blue hat")
    assert first != second
    for go, sentence, found in ((page.go_back, SENTENCE, first), (page.go_forward, "a blue hat", second)):
        with new_answer(page):
            go()
        assert (page.get_by_label("Sentence").input_value(), hits(page)) == (sentence, found)
    assert page.evaluate("history.length") >= 3
    page.evaluate("history.go(-2)")
    page.get_by_text("Whom are you looking for?").wait_for()
    assert page.get_by_label("Sentence").input_value() == "" and "?q=" not in page.url


def test_saved_search(page, opened, session, browser):
    """A saved search is there when the page is opened again, asks the same, and is nobody else's."""
    before = search(page, SENTENCE)
    page.get_by_role("tab", name="Saved searches").click()
    page.get_by_label("Name for the last search").fill("<i>red</i>")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("list", name="Saved searches").get_by_text("<i>red</i>").wait_for()
    again = opened(session)
    again.get_by_role("tab", name="Saved searches").click()
    with new_answer(again):
        again.get_by_role("button", name="Search again: <i>red</i>").click()
    assert hits(again) == before
    assert again.get_by_label("Sentence").input_value() == SENTENCE
    stranger = browser.new_context()
    other = opened(stranger)
    other.get_by_role("tab", name="Saved searches").click()
    other.get_by_text("Nothing is saved yet").wait_for()
    again.get_by_role("tab", name="Saved searches").click()
    again.get_by_role("button", name="Forget <i>red</i>").click()
    again.get_by_text("Nothing is saved yet").wait_for()
    other.close()
    stranger.close()


def test_the_address_repeats_the_query(page, opened, session):
    """The address after a search, which is also what is copied, asks the same anew: photo, sentence, filter, marks."""
    with new_answer(page):
        page.get_by_role("button", name="Example 2").click()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Filter in words of its own").fill("'/' in path")
    search(page)
    with new_answer(page):
        page.get_by_role("button", name="Result 3 is right").click()
    sentence, before = page.get_by_label("Sentence").input_value(), hits(page)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Link copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    again = opened(session, link.rpartition("/")[2])
    again.locator("[data-answer]").wait_for()
    assert hits(again) == before
    assert again.get_by_label("Sentence").input_value() == sentence
    assert again.get_by_alt_text("Reference photo").count() == 1
    assert again.get_by_role("group", name="Your marks").get_by_role("button", name="is right").count() == 1


def test_a_link_that_cannot_be_followed_says_so(opened, session):
    """It is damaged, or its photo is not kept any more: then all else of it is there to ask again."""
    page = opened(session, "?q=abc")
    told(page, "This link is damaged")
    gone = Question(terms=[Term(image="x" * 22, caption=SENTENCE)])
    page = opened(session, f"?q={text_of(gone)}")
    told(page, "upload it again")
    assert page.get_by_label("Sentence").input_value() == SENTENCE
    assert search(page)


def test_history(page):
    """Each search of the session can be repeated; one that differs in marks alone takes the place of the one before."""
    first = search(page, SENTENCE)
    search(page, "a blue hat")
    with new_answer(page):
        page.get_by_role("button", name="Result 2 is right").click()
    page.get_by_role("tab", name="History").click()
    searches = page.get_by_role("list", name="Searches of this session").get_by_role("listitem")
    assert searches.count() == 2
    with new_answer(page):
        searches.last.get_by_role("button", name="Search again").click()
    assert hits(page) == first


def test_exports(page):
    """The table and the contact sheet hold the results that are shown."""
    found = search(page, SENTENCE)
    with page.expect_download() as download:
        page.get_by_role("link", name="Table (CSV)").click()
    header, *lines = download.value.path().read_text().splitlines()
    assert [int(line.split(",")[header.split(",").index("id")]) for line in lines] == found
    with page.expect_download() as download:
        page.get_by_role("link", name="Contact sheet").click()
    sheet = Image.open(BytesIO(download.value.path().read_bytes()))
    assert sheet.format == "PNG" and sheet.width > 1_000


def test_a_closed_tab_hurts_nobody(page, opened, session):
    """A tab that is closed while it waits for an answer leaves the next one as it was."""
    page.get_by_label("Sentence").fill(SENTENCE)
    page.locator("#fafa-search").click(no_wait_after=True)
    page.close()
    assert search(opened(session), SENTENCE)
