"""What tests do on the page in a browser."""

from contextlib import contextmanager

SENTENCE = "now in a red coat"
_ANSWER = "document.querySelector('[data-answer]')?.dataset.answer ?? '0'"


@contextmanager
def new_answer(page):
    """Waits until what is done within has been answered by a search."""
    before = page.evaluate(_ANSWER)
    yield
    page.wait_for_function(f"before => ({_ANSWER}) !== before", arg=before)


def search(page, sentence=None):
    """Asks; returns the ids of the hits."""
    if sentence is not None:
        page.get_by_label("Sentence").fill(sentence)
    with new_answer(page):
        page.locator("#fafa-search").click()
    return hits(page)


def hits(page):
    """The ids of the hits, in their order."""
    return page.locator(".hit").evaluate_all("hits => hits.map(hit => Number(hit.dataset.id))")


def set_slider(page, place, value):
    """Types a slider's number; where gradio has just drawn it, it may still put back the one that stood there."""
    number, slider = page.get_by_role("spinbutton").nth(place), page.get_by_role("slider").nth(place)
    for _ in range(50):
        number.fill(value)
        number.press("Tab")
        page.wait_for_timeout(200)
        if number.input_value() == slider.input_value() == value:
            return
    raise AssertionError(f"the slider does not take {value}")


def told(page, part):
    """Waits for a sentence that says what is wrong, and holds this part."""
    page.get_by_role("alert").filter(has_text=part).wait_for()


def dropped(page, name, size_or_bytes, kind="drop"):
    """Drops a file on the page, or pastes it."""
    page.evaluate(
        """([name, contents, kind]) => {
            const transfer = new DataTransfer();
            const data = typeof contents === "number" ? new Uint8Array(contents) : Uint8Array.from(contents);
            transfer.items.add(new File([data], name, {type: "image/png"}));
            const how = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(
                kind === "drop"
                    ? new DragEvent("drop", {dataTransfer: transfer, ...how})
                    : new ClipboardEvent("paste", {clipboardData: transfer, ...how})
            );
        }""",
        [name, size_or_bytes if isinstance(size_or_bytes, int) else list(size_or_bytes), kind],
    )
