from __future__ import annotations

import builtins
import io
import os
import tarfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harden.data import DataSource, Entry, Format, open_data, pictures
from harden.data.folder import open_folder
from harden.errors import DataError, UsageError

WriteImage = Callable[..., Path]
RGB8 = Format(channels=3, size=(8, 8))
REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("HARDEN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def files(source: DataSource, split: str) -> list[str]:
    return [entry.file for entry in source.listings[split]]


def single(root: Path, image_format: Format = RGB8) -> torch.Tensor:
    """Decode class "a"'s only image; class "b" is there to make the folder a data set."""
    source = open_folder(str(root))
    images, unreadable = source.decode([e for e in source.listings["all"] if e.label == 0], image_format)
    assert unreadable == ()
    return images.images[0]


# ---------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "VALID", "Testing"), ("train", "val", "test")),
        (("train", "validation"), ("train", "val")),
        (("train", "dev"), ("train", "val")),
    ],
)
def test_split_folders_and_their_synonyms(
    names: tuple[str, ...], expected: tuple[str, ...], write_image: WriteImage, tmp_path: Path
) -> None:
    for name in names:
        for label in ("a", "b"):
            write_image(f"{name}/{label}/0.png", 0)
    source = open_folder(str(tmp_path / "data"))
    assert tuple(source.listings) == expected
    for name, split in zip(names, expected, strict=True):
        assert source.listings[split] == (Entry(f"{name}/a/0.png", 0), Entry(f"{name}/b/0.png", 1))


def test_without_splits_everything_is_listed_under_all(write_image: WriteImage, tmp_path: Path) -> None:
    for name in ("b", "a", "train"):  # trains are a class here: the folder has images and no class folders
        write_image(f"{name}/0.png", 0)
    source = open_folder(str(tmp_path / "data"))
    assert source.classes == ("a", "b", "train")
    assert source.listings == {"all": (Entry("a/0.png", 0), Entry("b/0.png", 1), Entry("train/0.png", 2))}
    assert source.location == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("10", "9", "0", "2"), ("0", "2", "9", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("b", "B", "a"), ("B", "a", "b")),
    ],
)
def test_class_order(
    names: tuple[str, ...], expected: tuple[str, ...], write_image: WriteImage, tmp_path: Path
) -> None:
    for name in names:
        write_image(f"{name}/0.png", 0)
    assert open_folder(str(tmp_path / "data")).classes == expected


def test_only_visible_image_files_count_at_any_depth(write_image: WriteImage, tmp_path: Path) -> None:
    for file in ("a/1.PNG", "a/deep/er/2.JpEg", "a/.hidden.png", "a/._3.jpg", "a/.git/4.png", "b/5.tif", ".c/6.png"):
        write_image(file, 0)
    (tmp_path / "data/a/notes.txt").write_text("no image")
    source = open_folder(str(tmp_path / "data"))
    assert files(source, "all") == ["a/1.PNG", "a/deep/er/2.JpEg", "b/5.tif"]


def test_links_are_followed_and_loops_end(write_image: WriteImage, tmp_path: Path) -> None:
    write_image("a/0.png", 0)
    write_image("../elsewhere/0.png", 0)
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data/a")
    assert files(open_folder(str(tmp_path / "data")), "all") == ["a/0.png", "b/0.png"]


def test_listing_opens_no_file(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    source = open_folder(str(photos))
    assert len(source.listings["test"]) == 4
    assert source.fingerprint(source.listings["test"])


# ---------------------------------------------------------------------------------------------- refusals


def test_missing_folder_names_the_near_miss(photos: Path) -> None:
    with pytest.raises(DataError, match=r"no folder at .*did you mean 'data'"):
        open_folder(str(photos.parent / "dta"))


@pytest.mark.parametrize(
    ("name", "command"), [("x.tar.gz", "tar xzf"), ("x.ZIP", "unzip"), ("x.tgz", "tar xzf"), ("x.tar", "tar xf")]
)
def test_an_archive_is_to_be_unpacked_first(name: str, command: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="is an archive") as caught:
        open_folder(str(tmp_path / name))
    assert command in str(caught.value.hint)


def test_a_plain_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="is a file; a folder"):
        open_folder(str(tmp_path / "x.npz"))


def test_a_class_without_images(photos: Path) -> None:
    (photos / "train/eel").mkdir()
    with pytest.raises(DataError, match="class 'eel' has no images"):
        open_folder(str(photos))


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_class_that_train_does_not_know(split: str, photos: Path, write_image: WriteImage) -> None:
    write_image(f"{split}/cats/0.png", 0)
    with pytest.raises(DataError, match=r"class 'cats' of .* is unknown in train; did you mean 'cat'"):
        open_folder(str(photos))


def test_one_class_is_too_few(write_image: WriteImage, tmp_path: Path) -> None:
    write_image("only/0.png", 0)
    with pytest.raises(DataError, match="has 1 class folder; at least 2"):
        open_folder(str(tmp_path / "data"))


def test_a_folder_of_data_sets_is_not_a_data_set(write_image: WriteImage, tmp_path: Path) -> None:
    for data_set in ("flowers", "digits"):
        for name in ("a", "b"):
            write_image(f"{data_set}/train/{name}/0.png", 0)
    with pytest.raises(DataError, match="whole data set in 'digits'") as caught:
        open_folder(str(tmp_path / "data"))
    assert caught.value.hint == f"give {tmp_path / 'data/digits'}"


def test_two_folders_for_one_split(photos: Path, write_image: WriteImage) -> None:
    write_image("testing/cat/0.png", 0)
    with pytest.raises(DataError, match="two folders for the test split: 'test' and 'testing'"):
        open_folder(str(photos))


def test_folders_beside_a_test_split_are_not_left_out(write_image: WriteImage, tmp_path: Path) -> None:
    for folder in ("test/a", "test/b", "a", "b"):
        write_image(f"{folder}/0.png", 0)
    with pytest.raises(
        DataError, match=r"folder 'test' of class folders, no folder 'train', .* folders a, b"
    ) as caught:
        open_folder(str(tmp_path / "data"))
    assert str(tmp_path / "data/train") in str(caught.value.hint)


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("Validation", "val"), ("train", "all")])
def test_a_folder_that_is_a_split_by_its_own_name(
    name: str, split: str, write_image: WriteImage, tmp_path: Path
) -> None:
    for label in ("a", "b"):
        for number in range(5):
            write_image(f"{name}/{label}/{number}.png", 0)
    source = open_folder(str(tmp_path / "data" / name))
    assert [*source.listings] == [split]
    assert source.listings[split][0] == Entry("a/0.png", 0)


@pytest.mark.parametrize("spec", ["sklear:digits", "keras:cifar10", "https://example.org/x"])
def test_unknown_scheme_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError, match="unknown data layout") as caught:
        open_data(spec)
    assert "sklearn" in str(caught.value.hint)


def test_open_data_takes_a_path_with_and_without_scheme(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    for spec in ("data", str(photos), f"folder:{photos}"):
        assert open_data(spec).location == str(photos)


# ---------------------------------------------------------------------------------------------- probe


def test_probe_reads_train_only(photos: Path) -> None:
    for path in (photos / "test").rglob("*.png"):
        path.write_bytes(b"")
    probe = open_folder(str(photos)).probe()
    assert (probe.channels, probe.size, probe.uniform) == (3, (8, 8), True)


def test_probe_finds_the_commonest_size_and_every_class(write_image: WriteImage, tmp_path: Path) -> None:
    for index in range(100):
        write_image(f"a/{index:03}.png", 0, mode="L", size=(6, 4))
    write_image("b/0.png", 0, mode="RGB", size=(9, 9))
    probe = open_folder(str(tmp_path / "data")).probe()
    assert (probe.channels, probe.size, probe.uniform) == (3, (6, 4), False)


@pytest.mark.parametrize(
    ("mode", "colour", "channels"),
    [("L", 7, 1), ("1", 1, 1), ("LA", (7, 255), 1), ("I;16", 700, 1), ("RGB", (7, 7, 7), 3), ("RGBA", (7, 7, 7, 9), 3)],
)
def test_probe_counts_only_gray_modes_as_gray(
    mode: str, colour: object, channels: int, write_image: WriteImage, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_image(f"{name}/0.png", colour, mode=mode)
    assert open_folder(str(tmp_path / "data")).probe().channels == channels


@pytest.mark.parametrize(("palette", "channels"), [([0, 0, 0, 9, 9, 9], 1), ([0, 0, 0, 9, 9, 8], 3)])
def test_probe_looks_into_palettes(palette: list[int], channels: int, write_image: WriteImage, tmp_path: Path) -> None:
    write_image("a/0.png", 0, mode="L")
    image = Image.new("P", (8, 8), 1)
    image.putpalette(palette)
    (tmp_path / "data/b").mkdir()
    image.save(tmp_path / "data/b/0.png")
    assert open_folder(str(tmp_path / "data")).probe().channels == channels


def test_probe_of_junk_alone_is_an_error(photos: Path) -> None:
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match="none of 10 image files"):
        open_folder(str(photos)).probe()


# ---------------------------------------------------------------------------------------------- decode


def test_decode_is_exact_and_in_order(photos: Path) -> None:
    source = open_folder(str(photos))
    entries = source.listings["train"][::-1]
    calls: list[tuple[int, int]] = []
    images, unreadable = source.decode(entries, RGB8, lambda done, total: calls.append((done, total)))
    expected = np.stack([np.asarray(Image.open(photos / entry.file)).transpose(2, 0, 1) for entry in entries])
    assert images.images.dtype == torch.uint8
    assert np.array_equal(images.images.numpy(), expected)
    assert images.labels.tolist() == [entry.label for entry in entries]
    assert images.files == tuple(entry.file for entry in entries)
    assert unreadable == ()
    assert calls[-1] == (10, 10)


def test_threads_give_the_same_result(write_image: WriteImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(150):
        write_image(f"{'ab'[index % 2]}/{index:03}.png", seed=index)
    for index in (0, 70, 149):
        (tmp_path / "data" / "ab"[index % 2] / f"{index:03}.png").write_bytes(b"")
    source = open_folder(str(tmp_path / "data"))
    monkeypatch.setattr(pictures, "SLOW_FILE_SECONDS", 1e9)
    serial, serial_bad = source.decode(source.listings["all"], RGB8)
    monkeypatch.setattr(pictures, "SLOW_FILE_SECONDS", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    threaded, threaded_bad = source.decode(source.listings["all"], RGB8)
    assert len(serial) == 147
    assert [item.file for item in serial_bad] == ["a/000.png", "a/070.png", "b/149.png"]
    assert torch.equal(serial.images, threaded.images)
    assert (serial.files, serial_bad) == (threaded.files, threaded_bad)


def test_exif_orientation_is_applied(write_image: WriteImage, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    write_image("b/0.png", 0)
    (tmp_path / "data/a").mkdir()
    stored = np.zeros((4, 8), np.uint8)
    stored[:, :4] = 255
    Image.fromarray(stored).save(tmp_path / "data/a/0.png", exif=exif)
    upright = single(tmp_path / "data", Format(1, (8, 4)))
    assert (upright[0, :4] == 255).all()
    assert (upright[0, 4:] == 0).all()
    assert pictures.look(lambda entry: tmp_path / "data" / entry.file, Entry("a/0.png", 0))[1] == (8, 4)


def test_gray_and_colour_are_converted_as_asked(write_image: WriteImage, tmp_path: Path) -> None:
    write_image("a/0.png", (255, 0, 0))
    write_image("b/0.png", 7, mode="L")
    source = open_folder(str(tmp_path / "data"))
    gray, _ = source.decode(source.listings["all"], Format(1, (8, 8)))
    colour, _ = source.decode(source.listings["all"], RGB8)
    assert gray.images[:, 0, 0, 0].tolist() == [76, 7]
    assert colour.images[:, :, 0, 0].tolist() == [[255, 0, 0], [7, 7, 7]]


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), "png", [10, 20, 30]),
        ("LA", (10, 0), "png", [10, 10, 10]),
        ("CMYK", (0, 255, 255, 0), "tif", [255, 0, 0]),
        ("1", 1, "png", [255, 255, 255]),
        ("RGB", (10, 20, 30), "webp", [10, 20, 30]),
        ("RGB", (10, 20, 30), "bmp", [10, 20, 30]),
        ("RGB", (10, 20, 30), "ppm", [10, 20, 30]),
        ("RGB", (10, 20, 30), "gif", [10, 20, 30]),
    ],
)
def test_modes_and_formats(
    mode: str, colour: object, suffix: str, expected: list[int], write_image: WriteImage, tmp_path: Path
) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    write_image(f"a/0.{suffix}", colour, mode=mode, **options)
    write_image("b/0.png", 0)
    assert single(tmp_path / "data")[:, 3, 3].tolist() == expected


def test_transparent_palettes_do_not_warn(write_image: WriteImage, tmp_path: Path) -> None:
    write_image("b/0.png", 0)
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    (tmp_path / "data/a").mkdir()
    image.save(tmp_path / "data/a/0.png", transparency=bytes([255, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert single(tmp_path / "data")[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("stored", [(32, 96), (96, 32), (320, 960), (16, 48)])
def test_another_size_is_resized_by_the_short_side_and_cropped_in_the_middle(
    suffix: str, stored: tuple[int, int], write_image: WriteImage, tmp_path: Path
) -> None:
    """Three squares side by side, black, white, black: only the white one in the middle is to remain."""
    write_image("b/0.png", 0)
    pixels = np.zeros(stored, np.uint8)
    if stored[1] > stored[0]:
        pixels[:, stored[0] : 2 * stored[0]] = 255
    else:
        pixels[stored[1] : 2 * stored[1]] = 255
    (tmp_path / "data/a").mkdir()
    Image.fromarray(pixels).save(tmp_path / f"data/a/0.{suffix}", quality=95)
    image = single(tmp_path / "data", Format(1, (32, 32)))
    assert image.shape == (1, 32, 32)
    assert (image[0, 2:-2, 2:-2] > 245).all()


def test_a_large_jpeg_is_decoded_close_to_the_exact_resize(write_image: WriteImage, tmp_path: Path) -> None:
    """The decoder's own reduction (draft) is a short cut, not another picture."""
    write_image("b/0.png", 0)
    rows, columns = np.mgrid[0:512, 0:640]
    pixels = np.stack([128 + 100 * np.sin(rows / 5), 128 + 100 * np.cos(columns / 7), (rows + columns) / 5], axis=2)
    (tmp_path / "data/a").mkdir()
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data/a/0.jpg", quality=95)
    image = single(tmp_path / "data", Format(3, (128, 160)))
    with Image.open(tmp_path / "data/a/0.jpg") as whole:
        exact = np.asarray(whole.resize((160, 128), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(image.numpy().astype(int) - exact).max() <= 4


# ---------------------------------------------------------------------------------------------- unreadable files


def test_unreadable_files_are_listed_with_a_reason(
    photos: Path, write_image: WriteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_image("train/cat/cut.jpg", seed=3, size=(64, 64)).read_bytes()
    (photos / "train/cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    whole = write_image("train/cat/cut.png", seed=3, size=(64, 64)).read_bytes()
    (photos / "train/cat/cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "train/cat/empty.png").write_bytes(b"")
    (photos / "train/cat/page.jpg").write_text("<html>404</html>")
    (photos / "train/cat/script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    (photos / "train/dog/broken.png").symlink_to(photos / "nowhere.png")
    write_image("train/dog/deep.png", 700, mode="I;16")
    write_image("train/dog/huge.png", 0, size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)  # between a warning (here) and Pillow's own error (18,000)
    source = open_folder(str(photos))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, unreadable = source.decode(source.listings["train"], RGB8)
        filters = list(warnings.filters)
    assert filters[0][0] == "error", "the caller's warning filters are put back"
    reasons = {item.file.removeprefix("train/"): item.reason for item in unreadable}
    assert set(reasons) == {
        *("cat/cut.jpg", "cat/cut.png", "cat/empty.png", "cat/page.jpg", "cat/script.jpg"),
        *("dog/broken.png", "dog/deep.png", "dog/huge.png"),
    }
    assert reasons["cat/cut.jpg"].startswith("damaged or cut short")
    assert reasons["cat/cut.png"].startswith("damaged or cut short")
    assert reasons["cat/empty.png"] == "empty file (0 bytes)"
    assert reasons["cat/page.jpg"].startswith("not an image")
    assert reasons["cat/script.jpg"].startswith("not an image")
    assert reasons["dog/broken.png"] == "cannot be read: no such file or directory"
    assert "8 bits" in reasons["dog/deep.png"]
    assert "million pixels" in reasons["dog/huge.png"]
    good = [entry for entry in source.listings["train"] if entry.file.removeprefix("train/") not in reasons]
    assert images.files == tuple(entry.file for entry in good)
    assert torch.equal(images.images, source.decode(good, RGB8)[0].images), "the gaps are closed with the right rows"


def test_nothing_readable_is_an_error(photos: Path) -> None:
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"")
    source = open_folder(str(photos))
    with pytest.raises(DataError, match=r"none of the 10 image files .*empty file"):
        source.decode(source.listings["train"], RGB8)


def test_damaged_metadata_do_not_cost_the_image(write_image: WriteImage, tmp_path: Path) -> None:
    write_image("a/0.jpg", (10, 10, 10), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    write_image("b/0.png", 0)
    assert single(tmp_path / "data")[:, 0, 0].tolist() == [10, 10, 10]


# ---------------------------------------------------------------------------------------------- real data


def test_real_photos(tmp_path: Path) -> None:
    archive = REAL_DATA / "flowers5.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no real data: {archive} does not exist; set HARDEN_TEST_DATA to the folder that holds it")
    taken: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in islice(tar, 5000):
            folder = os.path.dirname(member.name)
            if member.isfile() and taken.get(folder, 0) < 4:
                taken[folder] = taken.get(folder, 0) + 1
                tar.extract(member, tmp_path, filter="data")
    (root,) = {path.parent for path in tmp_path.rglob("train")}
    source = open_folder(str(root))
    assert source.classes == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    assert [len(source.listings[split]) for split in ("train", "test")] == [20, 20]
    probe = source.probe()
    assert probe.channels == 3
    assert min(probe.size) == 128
    images, unreadable = source.decode(source.listings["train"], Format(3, (64, 64)))
    assert unreadable == ()
    assert images.images.shape == (20, 3, 64, 64)
    assert images.images.float().std(dim=(1, 2, 3)).min() > 10, "photos, not blanks"


@pytest.mark.parametrize("scheme", ["", "csv:", "npz:", "webdataset:", "parquet:"])
@pytest.mark.parametrize("name", ["x" * 5000, "loop", "loop/below"])
def test_paths_that_the_system_refuses_are_errors_of_the_data(
    scheme: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"cannot be read: (file name too long|too many levels)") as caught:
        open_data(f"{scheme}{name}")
    assert len(caught.value.message) < 400
    assert caught.value.hint
