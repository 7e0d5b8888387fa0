"""The page by keyboard alone, at a phone's width, light and dark, and for those who cannot see its pictures."""

import re

import pytest
from browser_steps import SENTENCE, hits, new_answer, search

PHONE = {"width": 390, "height": 844}
READABLE = 4.5  # contrast of text to what is behind it, by WCAG 2's level AA


def test_by_keyboard_alone(page):
    """From the sentence to a result in full, and a mark, without a mouse."""
    page.keyboard.press("/")
    page.keyboard.type(SENTENCE)
    with new_answer(page):
        page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('look')"):
            break
    before = hits(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Result 3 of").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.id") == str(before[2])
    with new_answer(page):
        page.keyboard.press("r")
    assert page.get_by_role("group", name="Your marks").get_by_role("button", name="is right").count() == 1


def test_at_a_phones_width(opened, browser):
    """Nothing is wider than a phone, results come into view by themselves, and a result fills the screen."""
    phone = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = opened(phone)

    def is_too_wide():
        return page.evaluate("document.documentElement.scrollWidth > innerWidth")

    assert not is_too_wide()
    for name in ("Also wanted, not wanted", "Filters", "Number of results, cut-off"):
        page.get_by_role("button", name=name).tap()
    page.get_by_label("Filter in words of its own").wait_for()
    assert not is_too_wide()
    with new_answer(page):
        page.get_by_role("button", name="Example 1").tap()
    page.wait_for_function("document.querySelector('.told').getBoundingClientRect().top < innerHeight / 2")
    assert not is_too_wide()
    page.locator(".hit .look").first.tap()
    box = page.get_by_role("dialog").bounding_box()
    assert box["width"] == PHONE["width"] and box["x"] == 0
    page.get_by_role("button", name="Close").tap()
    page.get_by_role("dialog").wait_for(state="hidden")
    page.close()
    phone.close()


def test_every_picture_and_button_has_a_name(page):
    """Pictures say what they show, and buttons what they do, also those that are only a sign."""
    with new_answer(page):
        page.get_by_role("button", name="Example 1").click()
    with new_answer(page):
        page.get_by_role("button", name="Result 2 is right").click()
    page.locator(".hit .look").first.click()
    page.get_by_role("dialog").wait_for()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll(".fafa img, .fafa button, .fafa a")].filter((part) => {
            const name = part.getAttribute("aria-label") || part.getAttribute("alt") || part.innerText
                || [...part.querySelectorAll("img")].map((image) => image.alt).join("");
            const is_decoration = part.tagName === "IMG" && part.closest("button[aria-label]");
            return !name.trim() && !is_decoration;
        }).map((part) => part.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(page, scheme):
    """In light and dark all text of ours stands out from what is behind it."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
    search(page, SENTENCE)
    with new_answer(page):
        page.get_by_role("button", name="Result 2 is right").click()
    page.locator(".hit .look").first.click()
    page.get_by_role("dialog").wait_for()
    seen = page.evaluate(
        """() => [...document.querySelectorAll(".fafa *")]
            .filter((part) => [...part.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .map((part) => {
                let behind = part, colour;
                do colour = getComputedStyle(behind).backgroundColor;
                while (/rgba?\\(0, 0, 0, 0\\)|transparent/.test(colour) && (behind = behind.parentElement));
                return [part.textContent.trim().slice(0, 40), getComputedStyle(part).color, colour];
            })"""
    )
    faint = {(text, ink, behind) for text, ink, behind in seen if _contrast(ink, behind) < READABLE}
    assert len(seen) > 50 and not faint


def _contrast(ink, behind):
    """As WCAG 2 defines it, for colours without transparency."""
    first, second = (_luminance(colour) for colour in (ink, behind))
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def _luminance(colour):
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_the_page_says_of_itself(page, demo):
    """Model and gallery, what the tiny model is worth, and lawful use."""
    text = page.locator("body").inner_text()
    sentences = "over real photographs mean nothing", "For lawful use alone"
    for part in ("painted people", f"{len(demo.gallery)} images", "tiny", *sentences):
        assert part in text


def test_what_folds_says_whether_it_is_open(page):
    """To who cannot see its arrow."""
    button = page.get_by_role("button", name="Number of results, cut-off")
    for is_open in ("false", "true", "false"):
        assert button.get_attribute("aria-expanded") == is_open
        button.click()
        page.wait_for_timeout(200)
