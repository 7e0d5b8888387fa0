import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from pages import unpadded
from PIL import Image

from fafa.dataset_builders import image_checks, named_images
from fafa.dataset_builders.verify import verify_dataset
from fafa.verify import main


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened, by name."""
    files, check_image = [], image_checks.check_image

    def note(file):
        files.append(Path(file).name)
        return check_image(file)

    monkeypatch.setattr(image_checks, "check_image", note)
    return files


def check(root, **options):
    return verify_dataset(root, num_workers=1, show_progress=False, **options)


def write_image(file, shade):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8), (shade, 0, 0)).save(file)


def rewrite(file, records):
    file.write_text(json.dumps(records))


def found(report, file, problem):
    return [(one["record"], one["detail"]) for one in report["files"][file]["problems"][problem]["found"]]


def test_a_sound_training_set(syncpr_root, capsys):
    assert main([str(syncpr_root), "--num-workers", "1"]) == 0
    assert "data set: sound (12 images, 12 opened now, 12 sound; see " in capsys.readouterr().out
    report = json.loads((syncpr_root / "verify/report.json").read_text())
    assert report["sound"] and report["format"] == "SynCPR"
    images = report["images"]
    assert (images["named"], images["opened"], images["sound"]) == (12, 12, 12)
    assert (images["width"], images["height"], images["of the same content"]) == ([4, 4], [8, 8], [])
    statistics = report["files"]["SynCPR.json"]["statistics"]
    assert statistics["ids"]["cpr_id"]["sizes"] == {"2": 3}
    assert statistics["captions"]["edit_caption"]["mean"] == 4 and statistics["words"] == 13
    page = (syncpr_root / "verify/report.md").read_text()
    assert "| `cpr_id` | 3 distinct; records each: 2, mean 2.00 |" in unpadded(page) and "All is sound" in page


def test_a_sound_test_set_with_repeated_images(itcpr_root, itcpr_records):
    _, gallery = itcpr_records
    rewrite(itcpr_root / "gallery.json", [*gallery, gallery[3]])  # load_dataset accepts it; so do we
    report = check(itcpr_root)
    assert report["sound"] and report["images"]["named"] == 6
    notes = report["files"]["gallery.json"]["notes"]
    assert "Records that name an image that an earlier one names: 1." in notes
    assert "2 distractors (published: 18,285)" in notes[1]
    assert "3 matches (published: 2,225)" in report["files"]["query.json"]["notes"][0]
    (copies,) = report["images"]["of the same content"]  # all images of this fixture are black
    assert len(copies) == 6 and copies[0] == gallery[0]["file_path"]


def test_all_problems_are_told_not_just_the_first(syncpr_root, syncpr_records, capsys):
    records = syncpr_records
    missing = records[0]["reference_image_path"]
    records[0]["edit_caption"] = " "  # and its image is missing, too
    (syncpr_root / missing).unlink()
    records[1]["target_image_path"] = missing
    (syncpr_root / records[2]["target_image_path"]).write_bytes(b"")
    cut = syncpr_root / records[3]["target_image_path"]
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:2_000])
    (syncpr_root / records[3]["reference_image_path"]).write_text("<html>not found</html>")
    records[4]["cpr_id"], records[4]["target_image_path"] = "left", "../x.png"
    rewrite(syncpr_root / "SynCPR.json", [*records, 7, records[5]])

    assert main([str(syncpr_root), "--num-workers", "1"]) == 1
    report = json.loads((syncpr_root / "verify/report.json").read_text())
    file = "SynCPR.json"
    assert found(report, file, "has an empty text") == [(0, "edit_caption")]
    assert found(report, file, "names an image file that is missing") == [(0, missing), (1, missing)]
    assert found(report, file, "names an image file of 0 bytes") == [(2, records[2]["target_image_path"])]
    broken = dict(detail.split(": ", 1) for _, detail in found(report, file, "names an image file that is broken"))
    assert "truncated" in broken[records[3]["target_image_path"]]
    assert "it is a web page" in broken[records[3]["reference_image_path"]]
    assert found(report, file, "has a field of the wrong type")[0][0] == 4
    assert found(report, file, "has a path that is not below the folder") == [(4, "target_image_path: '../x.png'")]
    assert found(report, file, "is not a JSON object") == [(6, "it is a number: 7")]
    assert found(report, file, "repeats an earlier record") == [(7, "record 5")]
    assert report["files"][file]["records"] == 8
    images = report["images"]
    assert (images["named"], images["missing or empty"], images["broken"], images["sound"]) == (10, 2, 2, 6)
    page, printed = (syncpr_root / "verify/report.md").read_text(), capsys.readouterr().out
    for problem, where in report["files"][file]["problems"].items():
        assert problem in page and where["remedy"] in page and problem in printed


@pytest.fixture
def syntbpr_records():
    """Three people: two pictures of the first, the second of which is edited, and one each of the others."""
    return [
        {
            "image_path": f"images/{name}.png",
            "captions": ["A person in a red coat.", f"Somebody with bag {name[-1]}."],
            "person_id": person,
            "provenance": {"source": name.split("/")[0], "prompt": f"a person {name}"},
        }
        for name, person in (("generated/0", 0), ("edited/0-1", 0), ("generated/2", 1), ("generated/3", 2))
    ]


@pytest.fixture
def syntbpr_root(tmp_path, syntbpr_records):
    root = tmp_path / "SynTBPR"
    for number, record in enumerate(syntbpr_records):
        write_image(root / record["image_path"], shade=number)
    rewrite(root / "SynTBPR.json", syntbpr_records)
    return root


def test_a_sound_text_image_set(syntbpr_root):
    report = check(syntbpr_root)
    assert report["sound"] and report["format"] == "SynTBPR" and report["images"]["sound"] == 4
    (found_in,) = report["files"].values()
    assert found_in["notes"] == ["8 captions of 4 images of 3 people."]
    statistics = found_in["statistics"]
    assert statistics["ids"]["person_id"]["sizes"] == {"1": 2, "2": 1}  # an edited picture shows the same person
    assert statistics["values"] == {"provenance": {"generated": 3, "edited": 1}}
    assert (statistics["captions"]["captions"]["distinct"], statistics["captions"]["captions"]["mean"]) == (5, 5)
    assert statistics["words"] == 12  # a person in red coat, somebody with bag 0, 1, 2, 3
    page = unpadded((syntbpr_root / "verify/report.md").read_text())
    assert "| `person_id` | 3 distinct; records each: 1 to 2, mean 1.33 |" in page
    assert "| `captions` | 5 distinct; words each: 4 to 6, mean 5.0; 12 distinct words |" in page


def test_problems_of_a_text_image_set(syntbpr_root, syntbpr_records):
    records = syntbpr_records
    records[0]["provenance"] = {"source": "photographed"}
    records[1]["captions"] = ["A person.", " "]
    records[2]["captions"] = []
    rewrite(syntbpr_root / "SynTBPR.json", [*records, records[3] | {"captions": ["Once more."]}])
    report, file = check(syntbpr_root), "SynTBPR.json"
    wrong = dict(found(report, file, "has a field of the wrong type"))
    assert "expected an object whose source is generated or edited" in wrong[0] and "captions is a list: []" in wrong[2]
    assert found(report, file, "has an empty text") == [(1, "captions[1]")]
    assert found(report, file, "repeats an earlier record") == [(4, "record 3")]  # a picture comes once


def test_triplets_of_everyday_scenes(syncpr_root, syncpr_records):
    records = [record | {"tid": record["cpr_id"]} for record in syncpr_records]
    rewrite(syncpr_root / "CIRHS.json", [*records, records[0]])
    (syncpr_root / "SynCPR.json").unlink()
    report = check(syncpr_root)
    assert report["format"] == "CIRHS"
    assert report["files"]["CIRHS.json"]["statistics"]["ids"]["tid"]["groups"] == 3
    assert found(report, "CIRHS.json", "repeats an earlier record") == [(6, "record 0")]


def test_home_is_where_it_is_and_a_second_data_set_is_told(syncpr_root, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(syncpr_root.parent))
    monkeypatch.chdir(syncpr_root.parent)
    for name in ("gallery.json", "query.json"):
        (syncpr_root / name).write_text("[]")
    assert main([f"~/{syncpr_root.name}", "--num-workers", "1"]) == 0
    assert (syncpr_root / "verify" / "report.md").exists() and not (syncpr_root.parent / "~").exists()
    assert "holds SynCPR and ITCPR: only the first is checked" in caplog.text


def test_queries_without_a_match_are_told(itcpr_root, itcpr_records):
    _, gallery = itcpr_records
    rewrite(itcpr_root / "gallery.json", [gallery[0], gallery[3]])
    report = check(itcpr_root)
    assert found(report, "query.json", "is a query without a match in the gallery") == [(1, "instance_id 1")]
    assert not report["files"]["gallery.json"]["problems"]


def test_what_comes_before_a_break_in_the_json_is_checked(syncpr_root, opened):
    file = syncpr_root / "SynCPR.json"
    text = file.read_text()
    file.write_text(text[: text.index('"cpr_id": 2')])
    report = check(syncpr_root)
    ((number, detail),) = found(report, "SynCPR.json", "cannot be read")
    assert number == 4 and "broken JSON at record 4" in detail
    assert len(opened) == 8
    file.write_text("[]")
    assert not check(syncpr_root)["sound"]


def test_a_check_that_was_stopped_opens_only_the_other_images(syncpr_root, opened, monkeypatch):
    state, note = syncpr_root / "verify/checked.jsonl", image_checks.check_image

    def stop(file):
        if len(opened) == 7:
            raise KeyboardInterrupt
        return note(file)

    monkeypatch.setattr(image_checks, "check_image", stop)
    assert main([str(syncpr_root), "--num-workers", "1"]) == 130
    assert not (syncpr_root / "verify/report.json").exists()
    state.write_text(state.read_text()[:-20])  # as kill -9 may leave it
    monkeypatch.setattr(image_checks, "check_image", note)
    done = set(opened[:6])
    opened.clear()
    report = check(syncpr_root)
    assert len(opened) == 6 and not done & set(opened)
    assert report["sound"] and report["images"]["sound"] == 12

    opened.clear()
    assert check(syncpr_root)["images"] == report["images"] | {"opened": 0}
    assert not opened


def test_changed_and_broken_images_are_opened_again(syncpr_root, syncpr_records, opened):
    check(syncpr_root)
    opened.clear()
    changed = syncpr_root / syncpr_records[2]["target_image_path"]
    changed.write_bytes(b"x" * changed.stat().st_size)
    assert not check(syncpr_root)["sound"]
    assert opened == [changed.name]
    opened.clear()
    check(syncpr_root)
    assert opened == [changed.name]
    (syncpr_root / syncpr_records[3]["target_image_path"]).unlink()
    assert found(check(syncpr_root), "SynCPR.json", "names an image file that is missing")[0][0] == 3


def test_a_picture_changed_with_size_and_time_kept_is_opened_again(syncpr_root, syncpr_records, opened):
    """As `cp -p`, `rsync -t` and archives keep them: the first verdict used to last for ever."""
    changed = syncpr_root / syncpr_records[2]["target_image_path"]
    check(syncpr_root)
    opened.clear()
    status = changed.stat()
    changed.write_bytes(b"x" * status.st_size)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = check(syncpr_root)
    assert not report["sound"] and opened == [changed.name]
    assert report["images"]["changed since they were found sound"] == [syncpr_records[2]["target_image_path"]]
    write_image(changed, shade=99)  # sound, but another: told, though no problem
    report = check(syncpr_root)
    assert report["sound"] and report["images"]["changed since they were found sound"]
    page = (syncpr_root / "verify/report.md").read_text()
    assert f"Changed since they were found sound:\n\n- {syncpr_records[2]['target_image_path']}" in page


def test_a_copy_of_a_data_set_is_recognised_by_contents_and_only_what_changed_is_decoded(
    syncpr_root, syncpr_records, tmp_path, opened
):
    check(syncpr_root)
    copy = tmp_path / "copy"
    shutil.copytree(syncpr_root, copy, copy_function=shutil.copyfile)  # as `cp -r`: with other times
    (copy / syncpr_records[1]["target_image_path"]).write_bytes(b"no image")
    opened.clear()
    report = check(copy)
    assert report["images"]["opened"] == len(opened) == 1 and report["images"]["sound"] == 11
    opened.clear()
    assert check(copy)["images"]["sound"] == 11 and len(opened) == 1  # the broken one, which may have been mended


def test_states_of_earlier_versions_are_opened_again_and_rubbish_is_passed_over(syncpr_root, opened, caplog):
    """An earlier version judged otherwise, so its verdicts count no more."""
    check(syncpr_root)
    state = syncpr_root / "verify/checked.jsonl"
    lines = [json.loads(line) for line in filter(str.strip, state.read_text().splitlines())]
    rubbish = ["[" * 9_000, "null", '{"a": 1}', "[1, 2]", json.dumps([*lines[0][:3], "zz", 4, 8, lines[0][6]])]
    state.write_text("\n".join([*(json.dumps(line[:6]) for line in lines), *rubbish]))
    opened.clear()
    assert check(syncpr_root)["sound"] and len(opened) == 12
    assert "17 lines are broken, or of an earlier version" in caplog.text


def test_what_cannot_be_read_now_is_no_verdict_on_the_image(syncpr_root, syncpr_records, monkeypatch, capsys):
    """A disk or network drive in trouble: neither broken nor sound, and exit status 2."""
    path = syncpr_records[0]["target_image_path"]

    real = image_checks.check_image

    def check_or_fail(file):
        if file.endswith(path):
            raise OSError(errno.EIO, "Input/output error", file)
        return real(file)

    monkeypatch.setattr(image_checks, "check_image", check_or_fail)
    assert main([str(syncpr_root), "--num-workers", "1"]) == 2
    report = json.loads((syncpr_root / "verify/report.json").read_text())
    assert (report["sound"], report["images"]["broken"], report["images"]["cannot be read now"]) == (False, 0, 1)
    ((record, detail),) = found(report, "SynCPR.json", "names an image file that cannot be read now")
    assert record == 0 and detail.startswith(f"{path}: Input/output error")
    assert f"names an image file that cannot be read now: {path}" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([str(syncpr_root), "--num-workers", "1"]) == 0


def test_a_full_disk_is_told_with_the_file_and_the_next_check_goes_on(syncpr_root, opened, monkeypatch, capsys):
    def as_line(path, found):
        if len(opened) > 6:  # an error of a stream has no file's name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return image_checks.as_line(path, found)

    with monkeypatch.context() as full:
        full.setattr(named_images, "as_line", as_line)
        assert main([str(syncpr_root), "--num-workers", "1"]) == 2
    told = capsys.readouterr().err
    assert "the disk is full" in told and "Make room" in told and str(syncpr_root / "verify") in told
    assert check(syncpr_root)["sound"]


def test_several_processes_find_the_same(syncpr_root, syncpr_records):
    """More images than one task takes; the broken one is in the last."""
    records = []
    for number in range(40):
        path = f"test2/sub_img/img_left/more-{number}.png"
        Image.new("RGB", (4, 8 + number)).save(syncpr_root / path)
        records.append(syncpr_records[0] | {"reference_image_path": path})
    (syncpr_root / path).write_bytes(b"broken")
    rewrite(syncpr_root / "SynCPR.json", records)
    report = verify_dataset(syncpr_root, num_workers=2, show_progress=False)
    ((record, detail),) = found(report, "SynCPR.json", "names an image file that is broken")
    assert record == 39
    assert detail.startswith(f"{path}: cannot be read as an image: it is in none of the formats")
    assert report["images"]["sound"] == 40 and report["images"]["height"] == [8, 46]


def test_a_folder_of_no_known_format_and_one_that_is_in_use(syncpr_root, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([str(syncpr_root / "test2")]) == 2
    assert "there is no data set" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"expected SynCPR\.json, CIRHS\.json, SynTBPR\.json, reid_raw\.json"):
        verify_dataset(syncpr_root / "test2")
    with pytest.raises(SystemExit, match="2"):
        main([str(syncpr_root), "--num-workers", "0"])
    output = tmp_path / "output"
    output.mkdir()
    with FileLock(output / ".lock"):
        assert main([str(syncpr_root), "--output", str(output)]) == 2
    assert "another process is checking" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(syncpr_root), "--output", str(tmp_path / "file/below")]) == 2
    assert "Pass another folder as --output" in capsys.readouterr().err
