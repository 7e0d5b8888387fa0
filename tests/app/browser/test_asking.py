"""Photos, sentences, wishes, filters and what is said when something is wrong, in a browser."""

import pytest
from browser_steps import SENTENCE, dropped, hits, new_answer, search, set_slider, told
from PIL import Image

MARKUP = "a <img src=x onerror=alert(1)> ${alert(2)} {{alert}} `coat`"


def test_upload_and_choose_a_person(page, three_people):
    """Who is chosen in a photo of several people is who is searched: their own image comes first."""
    file, people = three_people
    page.set_input_files("input[type=file]", file)
    page.get_by_role("button", name="Person 3 of 3").click()
    page.locator('.person[aria-pressed="true"][aria-label="Person 3 of 3"]').wait_for()
    assert search(page)[0] == people[2]
    page.get_by_role("button", name="Remove photo").click()
    page.get_by_text("choose a file").wait_for()


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_drop_and_paste_a_photo(page, three_people, kind):
    """A photo dropped anywhere on the page, or pasted, becomes the reference photo."""
    dropped(page, "dropped.png", three_people[0].read_bytes(), kind)
    page.get_by_alt_text("Reference photo: dropped.png").wait_for()


def test_begin_with_an_example(page, demo):
    """An example is asked at once, photo and sentence; the person sought is among the first results."""
    with new_answer(page):
        page.get_by_role("button", name="Example 1").click()
    assert page.get_by_label("Sentence").input_value() == demo.begin_with[0][1]
    assert len(hits(page)) == 20 and demo.begin_with[0][0] not in hits(page)


def test_a_sentence_is_text_wherever_it_is_shown(page):
    """What a sentence holds is shown as it is typed, and never run, in results, history and chips."""
    page.get_by_role("button", name="Also wanted, not wanted").click()
    page.get_by_label("One more wish").fill(MARKUP)
    page.get_by_role("button", name="− Not wanted").click()
    page.locator(".wish.minus").get_by_text(MARKUP).wait_for()
    assert search(page, MARKUP)
    assert page.locator(".asked").inner_text().count(MARKUP) == 2
    page.get_by_role("tab", name="History").click()
    assert MARKUP in page.get_by_role("list", name="Searches of this session").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_wishes_change_the_order(page):
    """Chips, wanted and not, change the order of results by their weights; taken away, it is as before."""
    before = search(page, SENTENCE)
    page.get_by_role("button", name="Also wanted, not wanted").click()
    for name, sign, wish in (("+ Wanted", "plus", "a blue hat"), ("− Not wanted", "minus", "a red coat")):
        page.get_by_label("One more wish").fill(wish)
        page.get_by_role("button", name=name).click()
        page.locator(f".wish.{sign}").wait_for()
    weight = page.get_by_label("Weight of a red coat")
    assert weight.input_value() == "0.3"
    weight.fill("0.9")
    weight.press("Enter")
    page.locator('input[data-weight="1"][value="0.9"]').wait_for()
    assert search(page) != before
    weight.fill("0")  # what is no weight is not shown as one
    weight.press("Tab")
    told(page, "A weight is a number above 0")
    assert page.get_by_label("Weight of a red coat").input_value() == "0.9"
    for left in (1, 0):
        page.get_by_role("button", name="Take away").first.click()
        page.wait_for_function(f"document.querySelectorAll('.wish').length === {left}")
    assert search(page) == before


def test_filters(page, demo):
    """A list of values and a filter in words let through what they say, and what they say together."""
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("combobox", name="Camera").click()
    page.get_by_role("option", name="LAST").click()
    found = search(page, SENTENCE)
    assert found and {demo.result(number).entry.camera for number in found} == {"LAST"}
    page.get_by_label("Filter in words of its own").fill("person == 1")
    entries = [demo.result(number).entry for number in search(page)]
    assert entries and {(entry.camera, entry.tags["person"]) for entry in entries} == {("LAST", 1)}
    column = page.locator("#fafa-question")
    assert column.evaluate("column => column.scrollWidth <= column.clientWidth")  # what is long does not lie beside it


def test_number_of_results_and_cut_off(page):
    """No more results than are wanted, and none below the least score."""
    page.get_by_role("button", name="Number of results, cut-off").click()
    set_slider(page, 0, "3")
    assert len(search(page, SENTENCE)) == 3
    set_slider(page, 1, "0.99")
    assert search(page) == []
    page.get_by_text("Nobody found among").wait_for()


def test_errors_are_one_sentence(page, tmp_path):
    """What is wrong is said in one sentence, without a trace of the program; the page goes on working."""
    page.locator("#fafa-search").click()
    told(page, "Choose a reference photo or write a sentence")
    (tmp_path / "no_photo.jpg").write_text("this is text")
    page.set_input_files("input[type=file]", tmp_path / "no_photo.jpg")
    told(page, "This file")
    dropped(page, "large.png", 34_000_000)
    told(page, "large.png has 34 MB")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    page.set_input_files("input[type=file]", tmp_path / "bomb.png")
    told(page, "20,000 x 20,000 pixels")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Filter in words of its own").fill("camra == 3")
    page.get_by_label("Sentence").fill(SENTENCE)
    page.locator("#fafa-search").click()
    told(page, "did you mean 'camera'?")
    assert "Traceback" not in page.content() and "Error" not in page.locator("#fafa-answer").inner_text()
    page.get_by_label("Filter in words of its own").fill("")
    assert search(page)
    assert page.get_by_role("alert").filter(visible=True).count() == 0
