"""The one reader of films: what a player shows, at which times, of sound, odd, broken and hostile films."""

import logging
import struct

import numpy as np
import pytest
from films import SIZE, av, corners, corners_of, number_of, spoil, write_film
from PIL import Image

from fafa import film_reading
from fafa.film_reading import Film, UnreadableFilmError, frame_at, is_film

UPRIGHT = ["red", "green", "blue", "grey"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three seconds, ten frames a second."""
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4", [corners(number) for number in range(30)])


def read(file, rate=10.0, start=0.0):
    with Film(file) as film:
        return list(film.frames(rate, start)), film


def turned(file, target, a, b, c, d):
    """A copy of an MP4 whose header says how to turn its frames."""
    data = file.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = data.index(plain, data.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data[:place] + matrix + data[place + len(plain) :])
    return target


def test_frames_come_at_the_chosen_rate_with_their_times(film):
    frames, opened = read(film, rate=5)
    assert [frame.time for frame in frames] == pytest.approx([number / 5 for number in range(15)])
    assert [number_of(frame.image) for frame in frames] == list(range(0, 30, 2))
    assert (frames[0].image.mode, frames[0].image.size) == ("RGB", SIZE)
    assert opened.seconds == pytest.approx(3, abs=0.2)
    assert len(read(film, rate=100)[0]) == 30  # each frame once, however fast the clock beats


def test_who_goes_on_from_the_middle_sees_what_they_would_have_seen(film):
    """A killed run goes on there, and must not find other people."""
    whole, part = read(film, 5)[0], read(film, 5, start=1.2)[0]
    assert [frame.time for frame in part] == [frame.time for frame in whole if frame.time >= 1.2]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(part, whole[-len(part) :], strict=True))


@pytest.mark.parametrize(
    ("seconds", "number"), [(0, 0), (0.05, 0), (0.1, 1), (1.19, 11), (1.2, 12), (2.95, 29), (99, 29)]
)
def test_a_moment_shows_the_last_frame_that_is_not_later(film, seconds, number):
    assert number_of(frame_at(film, seconds)) == number


def test_several_moments_of_one_open_film_in_any_order(film):
    with Film(film) as opened:
        assert [number_of(opened.frame_at(seconds)) for seconds in (2.5, 0.3, 0.0, 2.9)] == [25, 3, 0, 29]


def test_a_variable_frame_rate_gives_the_frames_that_there_are(tmp_path):
    """A clock of equal steps would put them at wrong times."""
    times = [0, 0.04, 0.08, 1.5, 1.54, 4.0]
    file = write_film(tmp_path / "odd.mkv", [corners(number) for number in range(6)], rate=25, times=times)
    frames, _ = read(file, rate=5)
    assert [frame.time for frame in frames] == pytest.approx([0, 1.5, 4.0])
    assert [number_of(frame.image) for frame in frames] == [0, 3, 5]
    assert [number_of(frame_at(file, seconds)) for seconds in (1.0, 1.52, 3.99, 4.0)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((0, 1, -1, 0), ["blue", "red", "grey", "green"]),  # a phone held upright
        ((0, -1, 1, 0), ["green", "grey", "red", "blue"]),
        ((-1, 0, 0, -1), ["grey", "blue", "green", "red"]),
        ((-1, 0, 0, 1), ["green", "red", "grey", "blue"]),  # a mirrored selfie
        ((0, 0, 0, 0), UPRIGHT),  # none at all
    ],
)
def test_frames_are_turned_as_the_film_says(film, tmp_path, matrix, seen):
    file = turned(film, tmp_path / "turned.mp4", *matrix)
    image = read(file)[0][0].image
    assert corners_of(image) == corners_of(frame_at(file, 0)) == seen
    assert image.size == (SIZE[::-1] if matrix[1] else SIZE)


def test_a_film_with_sound_and_one_without(tmp_path, film):
    loud = write_film(tmp_path / "loud.mp4", [corners(number) for number in range(5)], sound=True)
    assert [number_of(frame.image) for frame in read(loud)[0]] == [0, 1, 2, 3, 4]
    assert corners_of(read(film)[0][0].image) == UPRIGHT  # it has none


def test_broken_packets_are_skipped_counted_and_told(film, tmp_path, caplog):
    frames, opened = read(spoil(film, tmp_path / "broken.mp4", (5, 6, 20)))
    shown = [*range(5), *range(12, 20), *range(24, 30)]  # those after a broken one show what is left of it
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in shown])
    assert opened.num_broken == 30 - len(shown)
    assert "broken.mp4: packets or frames that are broken, and were skipped: 11" in caplog.text


def test_frames_that_ffmpeg_painted_over_are_not_shown(tmp_path, caplog):
    """It hides what it cannot decode, without an error: a film of green and grey was indexed as if it were whole."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 96, 3), dtype=np.uint8)
    film = write_film(tmp_path / "noise.mp4", noise, group=8)
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        place, size = next((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size)
    for at in range(place + size // 2, place + size, 37):  # its second half: the first one is decoded
        data[at] ^= 0xFF
    film.write_bytes(data)
    frames, opened = read(film)
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(8, 16)])
    assert opened.num_broken == 8 and "that are broken, and were skipped: 8" in caplog.text


def test_a_film_of_one_group_is_shown_again_ten_seconds_after_a_broken_packet(tmp_path):
    whole = write_film(tmp_path / "whole.mp4", [corners(number) for number in range(60)], rate=4, group=1_000)
    frames, _ = read(spoil(whole, tmp_path / "broken.mp4", (8,)))
    assert [frame.time for frame in frames] == pytest.approx([n / 4 for n in (*range(8), *range(49, 60))])


@pytest.mark.parametrize("form", ["mkv", "mp4", "ts"])
def test_a_film_whose_clock_begins_late_lasts_as_long_as_it_is_shown(tmp_path, form, caplog):
    """Where the clock stood at 100 s at the beginning, a whole film was called cut off."""
    times = [100 + number / 5 for number in range(30)]
    late = write_film(tmp_path / f"late.{form}", [corners(number) for number in range(30)], times=times, rate=5)
    frames, opened = read(late, rate=5)
    assert opened.seconds == pytest.approx(frames[-1].time + 0.2, abs=0.25) and caplog.text == ""


def test_a_film_that_is_cut_off_is_read_as_far_as_it_goes_and_told(tmp_path, caplog):
    whole = write_film(tmp_path / "whole.mkv", [corners(number) for number in range(60)], rate=5)
    frames, _ = read(spoil(whole, tmp_path / "cut.mkv", (), cut=0.6))
    assert 20 < len(frames) < 50
    assert "though it says that it lasts 0:00:1" in caplog.text


def test_a_sound_film_tells_nothing(film, caplog):
    read(film)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("spoilt", "cause"),
    [
        ("no_index", "it holds no pictures|Invalid data"),
        ("all_broken", "none of its frames can be decoded \\(30 are broken\\)"),
        ("sound", "it holds no pictures, but audio"),
        ("text", "it is none by its first bytes"),
        ("empty", "it is none by its first bytes"),
        ("head", "Invalid data|no pictures"),
    ],
)
def test_a_film_without_frames_is_one_clear_error(film, tmp_path, spoilt, cause):
    file = tmp_path / "film.mp4"
    if spoilt == "no_index":  # as of a camera that lost its power
        spoil(film, file, (), cut=0.5)
    elif spoilt == "all_broken":
        spoil(film, file, range(30))
    elif spoilt == "sound":
        with av.open(str(file), "w") as container:
            write_sound(container)
    else:
        file.write_bytes({"text": b"no film" * 99, "empty": b"", "head": film.read_bytes()[:40]}[spoilt])
    with pytest.raises(UnreadableFilmError, match=f"film.mp4 cannot be read as a film: ({cause}).*Remedy"):
        read(file)


def write_sound(container):
    stream = container.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(__import__("numpy").zeros((1, 8000), "float32"), "fltp", "mono")
    frame.sample_rate, frame.pts = 8000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def test_a_film_is_one_by_its_contents(film, tmp_path):
    for name, is_one in (("film.txt", True), ("film.jpg", True)):
        (tmp_path / name).write_bytes(film.read_bytes())
        assert is_film(tmp_path / name) is is_one
    Image.new("RGB", (4, 4)).save(tmp_path / "image.mp4", format="PNG")
    (tmp_path / "iphone.mp4").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))  # a photograph in a film's container
    others = [tmp_path / "image.mp4", tmp_path / "iphone.mp4", tmp_path, tmp_path / "absent", "nul\0"]
    assert not any(map(is_film, others))
    assert len(read(tmp_path / "film.txt")[0]) == 30


@pytest.mark.parametrize(
    "lists",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {film}\n",
        "<?xml version='1.0'?><MPD><BaseURL>{film}</BaseURL></MPD>",
    ],
)
def test_a_list_of_other_files_opens_none_of_them(film, tmp_path, lists, monkeypatch):
    """FFmpeg follows playlists wherever they lead: to any file here, or into the network."""
    file = film.with_name("list.mp4")
    file.write_text(lists.format(film=film.name))
    with pytest.raises(UnreadableFilmError, match="none by its first bytes"):
        Film(file)
    monkeypatch.setattr(film_reading, "is_film", lambda path: True)  # nor if its beginning deceived us
    with pytest.raises(UnreadableFilmError):
        Film(file)


def test_frames_beyond_the_budget_are_refused_before_they_are_decoded(film, monkeypatch):
    monkeypatch.setattr(film_reading, "MAX_FRAME_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(UnreadableFilmError, match="its frames have 96 x 64 pixels, and may have"):
        Film(film)


def test_ten_hours_take_no_more_memory_than_a_minute(tmp_path):
    """One frame is in memory at a time, and none is kept: the first is gone when the next one comes."""
    import weakref

    hours = [3600.0 * number for number in range(11)]
    file = write_film(tmp_path / "long.mkv", [corners(number) for number in range(11)], times=hours)
    with Film(file) as film:
        assert film.seconds == pytest.approx(36_000, abs=1)
        before, seen = None, []
        for frame in film.frames(5):
            seen.append(frame.time)
            assert before is None or before() is None
            before = weakref.ref(frame.image)
            del frame
        assert seen == hours
        assert number_of(film.frame_at(5 * 3600 + 1)) == 5


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 1e9])
def test_an_impossible_rate_is_refused(film, rate):
    with pytest.raises(ValueError, match="expected up to 240 frames a second"):
        read(film, rate)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_an_impossible_moment_is_refused(film, seconds):
    with pytest.raises(ValueError, match="is none: expected seconds from a film's beginning"):
        frame_at(film, seconds)


def test_what_is_no_file_or_absent(tmp_path):
    with pytest.raises(UnreadableFilmError, match="it is no file"):
        Film(tmp_path)
    with pytest.raises(FileNotFoundError):
        Film(tmp_path / "absent.mp4")


def test_an_avi_whose_frames_refer_to_later_ones_is_whole(tmp_path, caplog):
    """FFmpeg guesses when they are shown, out of order: a third of such a film was called broken."""
    with av.open(str(tmp_path / "film.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.pix_fmt, (stream.width, stream.height) = "yuv420p", SIZE
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(number), "rgb24")))
        container.mux(stream.encode(None))
    frames, opened = read(tmp_path / "film.avi")
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert opened.num_broken == 0 and caplog.text == ""


@pytest.mark.parametrize("form", ["ts", "mpg"])
def test_joined_recordings_are_refused_with_what_to_do(tmp_path, form):
    """Their clock begins anew: a moment was looked up in the other recording, and the second one was left out."""
    joined = tmp_path / f"joined film.{form}"
    parts = [write_film(tmp_path / f"part.{form}", [corners(n) for n in range(30)]).read_bytes() for _ in range(2)]
    joined.write_bytes(b"".join(parts))
    with pytest.raises(UnreadableFilmError, match=r"its clock begins anew after 0:00:0[23].* -c copy joined\.mp4"):
        read(joined)


def test_frames_out_of_order_are_skipped_and_told(film, caplog, monkeypatch):
    """Two recordings one after another in a file: the second one's clock begins anew."""
    caplog.set_level(logging.WARNING)
    with Film(film) as opened:
        frames = list(opened._frames())
        opened._is_fresh = False
        monkeypatch.setattr(opened, "_frames", lambda: iter([*frames[:5], *frames[:3], *frames[5:7]]))
        assert len(list(opened.frames(10))) == 7
        assert opened.num_broken == 3
