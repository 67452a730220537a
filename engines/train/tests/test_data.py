"""Lists of clips, class maps, and UCF-Crime as it is distributed."""
from pathlib import Path

import pytest
from conftest import KIT

from vedette_train import classmap, clips, ucf
from vedette_train.errors import KitError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.fixture
def ucf_tree(tmp_path: Path) -> Path:
    touch(tmp_path, "Anomaly-Videos-Part-1/Abuse/Abuse001_x264.mp4", "Anomaly-Videos-Part-1/Abuse/Abuse028_x264.mp4",
          "Anomaly-Videos-Part-3/RoadAccidents/RoadAccidents001_x264.mp4", "Anomaly-Videos-Part-4/Stealing/Stealing002_x264.mp4",
          "Normal_Videos_event/Normal_Videos_015_x264.mp4", "Testing_Normal_Videos_Anomaly/Normal_Videos_015_x264.mp4",
          "Training-Normal-Videos-Part-1/Normal_Videos001_x264.mp4")
    (tmp_path / "Anomaly_Train.txt").write_text(
        "Abuse/Abuse001_x264.mp4\nRoadAccidents/RoadAccidents001_x264.mp4\nStealing/Stealing002_x264.mp4\n"
        "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n")
    (tmp_path / "Anomaly_Test.txt").write_text("Abuse/Abuse028_x264.mp4\nTesting_Normal_Videos_Anomaly/Normal_Videos_015_x264.mp4\n\n")
    splits = tmp_path / "Action_Regnition_splits"
    splits.mkdir()
    (splits / "train_001.txt").write_text("Abuse/Abuse001_x264.mp4  \nNormal_Videos_event/Normal_Videos_015_x264.mp4\n")
    (splits / "test_001.txt").write_text("Abuse/Abuse028_x264.mp4\n")
    (tmp_path / ucf.ANNOTATION).write_text(
        "Abuse028_x264.mp4  Abuse  165  240  -1  -1  \nNormal_Videos_015_x264.mp4  Normal  -1  -1  -1  -1\n")
    return tmp_path


def test_ucf_crime_is_read_as_it_is_distributed(ucf_tree):
    found = {c.path.name: c for c in ucf.read(ucf_tree, classmap.read("seed-ten"))}
    assert {n: c.label for n, c in found.items()} == {
        "Abuse001_x264.mp4": "Abuse", "Abuse028_x264.mp4": "Abuse", "RoadAccidents001_x264.mp4": "Road Accidents",
        "Normal_Videos_015_x264.mp4": "Normal", "Normal_Videos001_x264.mp4": "Normal"}, "Stealing is dropped, a double is one"
    assert found["Abuse028_x264.mp4"].events_ms == ((5500.0, 8000.0),)
    assert found["Abuse001_x264.mp4"].events_ms == found["Normal_Videos_015_x264.mp4"].events_ms == ()
    assert len(ucf.read(ucf_tree, classmap.read("ucf-fourteen"))) == 6
    assert {c.label for c in ucf.read(ucf_tree, classmap.read("fighting-normal"))} == {"Normal"}


def test_ucf_crimes_own_splits(ucf_tree):
    found = ucf.read(ucf_tree, classmap.read("seed-ten"), "anomaly")
    assert sorted(c.path.name for c in found if c.split == "test") == ["Abuse028_x264.mp4", "Normal_Videos_015_x264.mp4"]
    assert sum(c.split == "train" for c in found) == 3
    assert [c.split for c in ucf.read(ucf_tree, classmap.read("seed-ten"), "action-1")] == ["train", "train", "test"]
    with pytest.raises(KitError, match="split action-2 needs train_002.txt"):
        ucf.read(ucf_tree, classmap.read("seed-ten"), "action-2")


def test_what_is_wrong_with_ucf_crime_is_said_by_file_and_line(ucf_tree):
    (ucf_tree / "Anomaly_Test.txt").write_text("Abuse/Abuse028_x264.mp4\nAbuse/Abuse030_x264.mp4\n")
    with pytest.raises(KitError, match="Anomaly_Test.txt, line 2: no video Abuse/Abuse030"):
        ucf.read(ucf_tree, classmap.read("seed-ten"), "anomaly")
    (ucf_tree / ucf.ANNOTATION).write_text("Abuse028_x264.mp4 Abuse 165 x -1 -1\n")
    with pytest.raises(KitError, match="line 1: .* is not `name class"):
        ucf.read(ucf_tree, classmap.read("seed-ten"))
    with pytest.raises(KitError, match="give the folder above"):
        ucf.read(ucf_tree / "Action_Regnition_splits", classmap.read("seed-ten"))


def test_a_csv_says_all_that_is_wrong_with_it(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    path, classes = tmp_path / "clips.csv", classmap.read("fighting-normal")
    path.write_text("\ufeffclip,label,source_video\na.mp4, Fighting ,v1\nb.mp4,Normal,\n")
    found = clips.read_csv(path, classes)
    assert [(c.label, c.source) for c in found] == [("Fighting", "v1"), ("Normal", "b.mp4")]
    path.write_text("clip,label\nc.mp4,Normal\na.mp4,Dancing\na.mp4,Normal\nb.mp4\n")
    with pytest.raises(KitError) as e:
        clips.read_csv(path, classes)
    for said in ("line 2: no file", "line 3: class map fighting-normal does not know the label 'Dancing'", "line 4: a.mp4 is listed twice", "line 5: 1 fields"):
        assert said in str(e.value)
    path.write_text("file,class\n")
    with pytest.raises(KitError, match="line 1: the header must name"):
        clips.read_csv(path, classes)


def test_a_written_list_is_read_again(tmp_path):
    touch(tmp_path, "x/a.mp4")
    made = [clips.Clip(tmp_path / "x/a.mp4", "a", "Normal", "v")]
    clips.write_csv(tmp_path / "out.csv", made)
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "x/a.mp4,Normal,v"
    assert clips.read_csv(tmp_path / "out.csv", classmap.identity(("Fighting", "Normal")))[0].path == tmp_path / "x/a.mp4"


@pytest.mark.parametrize("name", [p.stem for p in (KIT / "classmaps").glob("*.toml")])
def test_class_maps_know_every_folder_of_ucf_crime(name):
    found = classmap.read(name)
    for label in (*ucf.FOLDERS, "Normal"):
        assert found.of(label) in (None, *found.classes)


def test_a_wrong_class_map_is_refused(tmp_path):
    path = tmp_path / "m.toml"
    for text, said in [('classes = ["A", "Normal"]\n[labels]\nx = "B"', "leads to 'B'"), ('classes = ["A"]\n[labels]\nx = "A"', "have no 'Normal'"),
                       ('classes = ["Normal"]\ndropped = ["x"]\n[labels]\nx = "Normal"', "both mapped and dropped"), ("clases = []", "has the keys")]:
        path.write_text(text)
        with pytest.raises(KitError, match=said):
            classmap.read(str(path))
