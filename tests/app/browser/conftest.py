"""One server over painted people, one browser, and a page of it for each test."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple

import pytest
from PIL import Image

BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
SECONDS = 30  # for whatever is waited for: machines that run tests are busy
# All that speaks to the browser runs in one thread of its own: Playwright leaves an event loop running in the thread
# where it was started, and other tests could not run one there.
_THREAD = ThreadPoolExecutor(1, "browser")


def pytest_pyfunc_call(pyfuncitem):
    """Runs the tests of this folder there."""
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    in_thread(pyfuncitem.obj, **given)
    return True


def in_thread(call, *arguments, **options):
    """What a call returns or raises in the browser's thread."""
    return _THREAD.submit(call, *arguments, **options).result()


class Found(NamedTuple):
    """Somebody in a photo, as `people.crops.people_in` gives it."""

    box: tuple[float, float, float, float]
    score: float


def columns(image):
    """Finds somebody in each third of a wide picture, and nobody in others."""
    third = image.width / 3
    return [Found((third * n, 0, third * (n + 1), image.height), 1.0) for n in range(3)] * (image.width > image.height)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The service behind the page: 48 painted people, and one of them in a film where films can be read."""
    pytest.importorskip("gradio", reason="the page needs the extra app")
    from fafa.app.demo import demo_service
    from fafa.retrieval.metadata import Entry

    service = demo_service(tmp_path_factory.mktemp("demo"), num_queries=8, num_images=40)
    service.find_people = columns
    if find_spec("av"):
        from films import write_film

        painted = Image.open(service.result(0).path)
        late = [5 + number / 10 for number in range(40)]  # where its clock begins, by which a browser seeks
        write_film(service.gallery.folder / "walk.mp4", [painted] * 40, times=late)
        service.gallery.add([painted], [Entry("walk.mp4", time=2.0, box=(8, 4, 88, 188), camera="walk")])
    return service


@pytest.fixture(scope="session")
def address(browser, demo):
    """Of a server of the page; nothing is painted where there is no browser to show it in."""
    import uvicorn

    from fafa.app.server import create_app, open_socket

    opened = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(demo), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, or another that is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested in a browser by playwright")
    if (program := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    started = in_thread(playwright.sync_playwright().start)
    # Without its sandbox, which Chromium refuses to root: it sees nothing but this server.
    browser = in_thread(started.chromium.launch, executable_path=program, args=["--no-sandbox"])
    yield browser
    in_thread(browser.close)
    in_thread(started.stop)


@pytest.fixture(scope="session")
def session(browser):
    """One user, whose browser keeps the page's files."""
    permissions = ["clipboard-read", "clipboard-write"]
    context = in_thread(browser.new_context, viewport={"width": 1280, "height": 900}, permissions=permissions)
    in_thread(context.set_default_timeout, 1_000 * SECONDS)
    yield context
    in_thread(context.close)


@pytest.fixture
def opened(address):
    """Opens the page in a browser's context, and fails a test in which it reports an error of its own."""
    pages, faults = [], []

    def open_page(context, link=""):
        page = context.new_page()
        page.set_default_timeout(1_000 * SECONDS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"a window said {dialog.message}"), dialog.dismiss()))
        page.goto(address + link)
        page.locator("dialog").wait_for(state="attached")  # the last thing that page.js makes
        page.locator("#fafa-sentence textarea, #fafa-sentence input").wait_for()  # in its own time, gradio the fields
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        in_thread(page.close)
    assert not faults


@pytest.fixture
def page(opened, session):
    """The page, as it is when it is opened."""
    return in_thread(opened, session)


@pytest.fixture(scope="session")
def three_people(demo, tmp_path_factory):
    """A photo of three people of the gallery side by side, and their ids."""
    chosen = [int(number) for number in demo.gallery.ids[:3]]
    people = [Image.open(demo.result(number).path) for number in chosen]
    photo = Image.new("RGB", (sum(one.width for one in people), people[0].height))
    for place, one in enumerate(people):
        photo.paste(one, (place * one.width, 0))
    file = tmp_path_factory.mktemp("photos") / "three.png"
    photo.save(file)
    return file, chosen
