"""What a user may name as input."""

from pathlib import Path

import pytest

from mtaclip.demo.sources import expand_standard_input, find_files
from mtaclip.files import output_stems


def touch(folder: Path, *names: str) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def test_folders_give_images_and_videos_and_named_files_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "a/one.JPG", "a/b/clip.mp4", "a/notes.txt", "odd.name")
    files, unmatched = find_files([str(tmp_path / "a"), str(tmp_path / "odd.name")], tmp_path / "out")
    assert [file.name for file in files] == ["clip.mp4", "one.JPG", "odd.name"]
    assert unmatched == []


def test_hidden_folders_are_left_out_and_linked_ones_are_not(tmp_path):
    touch(tmp_path, "in/x.png", "in/.thumbnails/x.png", "in/._x.png", "elsewhere/y.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    files, _ = find_files([str(tmp_path / "in")], tmp_path / "out")
    assert [str(file.relative_to(tmp_path)) for file in files] == ["in/linked/y.png", "in/x.png"]


def test_patterns_are_expanded_and_a_file_whose_name_looks_like_one_is_found(tmp_path):
    touch(tmp_path, "x1.png", "x2.png", "y[1].png", "deep/er/x3.png")
    pattern, literal, nothing = (str(tmp_path / name) for name in ("**/x*.png", "y[1].png", "z*.png"))
    files, unmatched = find_files([pattern, literal, str(tmp_path / "x1.png"), nothing], tmp_path / "out")
    assert [file.name for file in files] == ["x3.png", "x1.png", "x2.png", "y[1].png"]  # each once
    assert unmatched == [nothing]


def test_results_inside_an_input_folder_are_left_out(tmp_path):
    touch(tmp_path, "x.png", "out/x_overlay.png")
    assert [file.name for file in find_files([str(tmp_path)], tmp_path / "out")[0]] == ["x.png"]
    with pytest.raises(ValueError, match="is an input folder, too"):
        find_files([str(tmp_path / "out")], tmp_path / "out")


def test_results_that_a_link_leads_to_are_left_out_unless_they_are_named(tmp_path):
    touch(tmp_path, "in/x.png", "out/earlier/y.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    assert [file.name for file in find_files([str(tmp_path / "in")], tmp_path / "out")[0]] == ["x.png"]
    assert [file.name for file in find_files([str(tmp_path / "out" / "earlier")], tmp_path / "out")[0]] == ["y.png"]


def test_results_that_a_pattern_leads_to_are_left_out(tmp_path):
    touch(tmp_path, "shots/x.png", "shots/out/x_overlay.png", "shots/out/clip_ids/000000.png", "shots/more/y.png")
    for pattern in ("shots/*", "shots/**", "shots/**/*.png", "s*s/*"):
        found, unmatched = find_files([str(tmp_path / pattern)], tmp_path / "shots" / "out")
        assert sorted(file.name for file in found) == ["x.png", "y.png"] and unmatched == []
    with pytest.raises(ValueError, match="is an input folder, too"):
        find_files([str(tmp_path / "shots" / "*"), str(tmp_path / "shots" / "out")], tmp_path / "shots" / "out")


def test_a_pattern_for_the_files_beside_the_results_finds_them(tmp_path):
    touch(tmp_path, "x.jpg", "x_overlay.png")
    assert find_files([str(tmp_path / "*.jpg")], tmp_path)[0] == [tmp_path / "x.jpg"]


def test_lines_of_standard_input_take_the_place_of_the_dash():
    lines = ["a b.png\n", "\n", " c.png\r\n"]
    assert list(expand_standard_input(["first.png", "-", "last.png"], lines)) == [
        "first.png",
        "a b.png",
        " c.png",
        "last.png",
    ]
    assert list(expand_standard_input(["first.png"], ["not read"])) == ["first.png"]


def test_output_stems_differ_even_in_upper_and_lower_case():
    files = [Path(name) for name in ("/a/x.jpg", "/b/X.jpg", "/b/x.png", "/c/y.jpg", "/p/a/z.png", "/q/a/z.png")]
    stems = output_stems(files)
    assert stems == ["a_x", "b_X_jpg", "b_x_png", "y", "a_z_png", "a_z_png-2"]
    assert len({stem.lower() for stem in stems}) == len(files)
