"""Images, label maps and contact sheets of a style transfer, on the host."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from arinv.apps.style import image_sets, label_maps
from arinv.errors import UserError

FIELDS = {
    "content": "", "style": "", "num_content": 0, "num_style": 0, "content_labels": "", "style_labels": "", "size": 0,
    "resize": "squash", "max_side": 0, "border": 0, "on_bad_image": "error",
}  # fmt: skip


def fields(**changes):
    return ConfigDict(FIELDS | {name: str(value) if name == "content" else value for name, value in changes.items()})


def save(path, shape, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return values


def test_collection_shortens_names(tmp_path):
    for name in ("a.png", "b.png", "b.jpg", "deep/c.png"):
        save(tmp_path / name, (6, 7, 3))
    collection = image_sets.Collection(fields(content=tmp_path), "content")
    assert collection.names == ("a", "b.jpg", "b.png", "deep_c")
    assert [image.shape for image in collection] == [(6, 7, 3)] * 4
    assert len(image_sets.Collection(fields(content=tmp_path, num_content=2), "content")) == 2
    save(tmp_path / "deep_c.png", (6, 7, 3))
    names = image_sets.Collection(fields(content=tmp_path), "content").names
    assert len(set(names)) == 5


@pytest.mark.parametrize(
    ("changes", "shape", "reduced"),
    [
        ({}, (20, 45, 3), False),
        ({"max_side": 15}, (7, 15, 3), True),
        ({"max_side": 45}, (20, 45, 3), False),
        ({"size": 16}, (16, 16, 3), False),
        ({"size": 16, "resize": "crop", "max_side": 8}, (16, 16, 3), False),
    ],
)
def test_collection_resizes_images(tmp_path, changes, shape, reduced):
    save(tmp_path / "wide.png", (20, 45, 3))
    collection = image_sets.Collection(fields(content=tmp_path, **changes), "content")
    assert collection[0].shape == shape and collection[0].dtype == np.uint8
    assert bool(collection.reduced) == reduced


def test_collection_identity_differs_for_other_or_rewritten_images(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (6, 7, 3))

    def identity(**changes):
        return image_sets.Collection(fields(content=tmp_path, **changes), "content").identity()

    first, of_one = identity(), identity(num_content=1)
    assert identity() == first != of_one
    save(tmp_path / "b.png", (7, 6, 3))
    assert identity() != first and identity(num_content=1) == of_one
    photographs = [
        image_sets.Collection(fields(content=f"photos:{names}"), "content").identity()
        for names in ("coffee+chelsea", "coffee", "coffee")
    ]
    assert photographs[0] != photographs[1] == photographs[2]


def test_collection_reads_the_photographs_of_arinv():
    collection = image_sets.Collection(fields(content="photos:chelsea+coffee+chelsea", max_side=32), "content")
    assert collection.names == ("chelsea", "coffee") and max(collection[1].shape) == 32
    with pytest.raises(UserError, match="unknown photograph 'cofee'.*Did you mean 'coffee'"):
        image_sets.check(fields(content="photos:cofee", style="photos:"))


@pytest.mark.parametrize(
    ("shape", "padded"), [((1, 1, 3), (64, 64, 3)), ((64, 100, 3), (64, 128, 3)), ((65, 7), (96, 64))]
)
def test_pad_mirrors_and_keeps_the_image(shape, padded):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    got = image_sets.pad(image, multiple=32, smallest=64)
    assert got.shape == padded
    np.testing.assert_array_equal(got[: shape[0], : shape[1]], image)
    np.testing.assert_array_equal(got[: shape[0], shape[1]], image[:, -1])
    framed = image_sets.pad(image, multiple=32, smallest=64, border=5)
    assert all(side % 32 == 0 and side >= 64 for side in framed.shape[:2])
    np.testing.assert_array_equal(framed[5 : 5 + shape[0], 5 : 5 + shape[1]], image)
    np.testing.assert_array_equal(framed[4, 5 : 5 + shape[1]], image[0])


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"content": ""}, "data.content is empty"),
        ({"content": "no/such"}, "data.content='no/such' does not exist"),
        ({"style": "{empty}"}, "empty' holds no image"),
        ({"resize": "stretch"}, "unknown resize 'stretch'; known: crop, squash"),
        ({"max_side": -1}, "data.max_side must be at least 0; got -1"),
        ({"content_labels": "maps"}, "label maps need both"),
    ],
)
def test_check_rejects_wrong_fields_in_one_line(tmp_path, changes, shown):
    (tmp_path / "empty").mkdir()
    given = {"content": "photos:coffee", "style": "photos:chelsea"} | changes
    given = {k: v.format(empty=tmp_path / "empty") if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(UserError, match=shown) as error:
        image_sets.check(fields(**given))
    assert "\n" not in str(error.value)


def test_collection_rejects_or_skips_a_damaged_image(tmp_path, capsys):
    save(tmp_path / "good.png", (6, 7, 3))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="bad.png"):
        image_sets.Collection(fields(content=tmp_path), "content")
    assert image_sets.Collection(fields(content=tmp_path, on_bad_image="skip"), "content").names == ("good",)
    assert "skipped 1" in capsys.readouterr().err


def test_read_numbers_the_labels_of_all_maps_together(tmp_path):
    grey = np.array([[0, 0, 255], [9, 255, 255]], np.uint8)
    for folder, name, image in (
        ("content", "a", Image.fromarray(grey)),
        ("style", "x", Image.fromarray(np.full((4, 4), 255, np.uint8))),
        ("style", "y", Image.fromarray(np.full((2, 2), 9, np.uint8))),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        image.save(tmp_path / folder / f"{name}.png")
    maps = label_maps.read(str(tmp_path / "content"), ["a"], str(tmp_path / "style"), ["x", "y.jpg"])
    assert maps.num_labels == 3
    np.testing.assert_array_equal(maps.content[0], [[0, 0, 2], [1, 2, 2]])
    assert (maps.style[0] == 2).all() and (maps.style[1] == 1).all()
    assert [path.relative_to(tmp_path).as_posix() for path in maps.files] == [
        "content/a.png", "style/x.png", "style/y.png",
    ]  # fmt: skip
    assert label_maps.read("", ["a"], "", ["x"]).num_labels == 0


def test_read_takes_palettes_and_colors(tmp_path):
    save_palette(tmp_path / "p.png", [0, 1, 1, 2], [(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    save_palette(tmp_path / "q.png", [2, 1, 1, 0], [(0, 0, 2), (0, 0, 1), (0, 0, 0), (0, 0, 0)])  # the last is unused
    colors = np.zeros((2, 2, 3), np.uint8)
    colors[0, 0], colors[1, 1] = (0, 0, 1), (0, 0, 2)
    Image.fromarray(colors).save(tmp_path / "c.png")
    maps = label_maps.read(str(tmp_path), ["p", "q"], str(tmp_path), ["c"])
    np.testing.assert_array_equal(maps.content[0], [[0, 1], [1, 2]])
    np.testing.assert_array_equal(maps.content[1], maps.content[0])
    np.testing.assert_array_equal(maps.style[0], [[1, 0], [0, 2]])


def test_read_compares_visible_colors_of_different_kinds(tmp_path):
    grey = np.array([[0, 255], [255, 7]], np.uint8)
    images = {
        "eight": Image.fromarray(grey),
        "sixteen": Image.fromarray(grey.astype(np.uint16)),
        "rgb": Image.fromarray(np.stack([grey] * 3, axis=-1)),
        "one": Image.fromarray(np.where(grey == 7, 0, grey).astype(np.uint8)).convert("1"),
        "beyond": Image.fromarray(grey.astype(np.uint16) + 257),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "sixteen.png") as sixteen:
        assert one.mode == "1" and sixteen.mode in ("I", "I;16")
    save_palette(tmp_path / "palette.png", [2, 0, 0, 1], [(255,) * 3, (7,) * 3, (0,) * 3])
    maps = label_maps.read(str(tmp_path), ["eight", "sixteen", "rgb", "palette"], str(tmp_path), ["one"])
    assert maps.num_labels == 3
    for one in maps.content:
        np.testing.assert_array_equal(one, [[0, 2], [2, 1]])
    np.testing.assert_array_equal(maps.style[0], [[0, 2], [2, 0]])
    with pytest.raises(UserError, match="content 'eight' and style 'beyond' have no label in common"):
        label_maps.read(str(tmp_path), ["eight"], str(tmp_path), ["beyond"])


def test_read_names_the_first_pair_without_a_common_label(tmp_path):
    for name, values in {"ab": [1, 2], "c": [3, 3], "bc": [2, 3]}.items():
        Image.fromarray(np.uint8([values])).save(tmp_path / f"{name}.png")
    assert label_maps.read(str(tmp_path), ["ab", "c"], str(tmp_path), ["bc"]).num_labels == 3
    with pytest.raises(UserError, match="content 'c' and style 'ab' have no label in common") as error:
        label_maps.read(str(tmp_path), ["bc", "c"], str(tmp_path), ["bc", "ab"])
    assert "\n" not in str(error.value)


def test_read_ignores_the_ending_of_an_image_only(tmp_path):
    Image.fromarray(np.uint8([[1, 2]])).save(tmp_path / "a.png")
    assert label_maps.read(str(tmp_path), ["a.JPG", "a.webp"], str(tmp_path), ["a"]).num_labels == 2
    with pytest.raises(UserError, match="holds no label map a.1.png"):
        label_maps.read(str(tmp_path), ["a.1"], str(tmp_path), ["a"])


def save_palette(path, entries, colors):
    image = Image.new("P", (2, 2))
    image.putpalette([value for color in colors for value in color])
    image.putdata(entries)
    image.save(path)


@pytest.mark.parametrize(
    ("prepare", "shown"),
    [
        (lambda folder: None, "holds no label map a.png"),
        (lambda folder: (folder / "a.png").write_bytes(b"?"), "a.png is damaged"),
        (lambda folder: save(folder / "a.png", (9, 9, 3)), "more than 32"),
        (lambda folder: save(folder / "a.png", (2, 2, 3), "RGBA"), "has mode RGBA"),
        (
            lambda folder: save_palette(folder / "a.png", [0, 1, 2, 2], [(9, 9, 9), (0, 0, 0), (9, 9, 9)]),
            "color #090909 twice in its palette, as entries 0 and 2",
        ),
        (
            lambda folder: save_palette(folder / "a.png", [0, 3, 1, 1], [(9, 9, 9), (0, 0, 0), (1, 1, 1)]),
            "no color for entry 3",
        ),
    ],
)
def test_read_reports_a_wrong_map_in_one_line(tmp_path, prepare, shown):
    prepare(tmp_path)
    with pytest.raises(UserError, match=shown) as error:
        label_maps.read(str(tmp_path), ["a"], str(tmp_path), ["a"])
    assert "\n" not in str(error.value)


def test_resize_crops_label_maps_like_their_images():
    labels = np.zeros((4, 8), np.int32)
    labels[:, 4:] = 70_000
    np.testing.assert_array_equal(label_maps.resize(labels, 2, 4), [[0, 0, 70_000, 70_000]] * 2)
    [middle] = label_maps.fit([labels], ["a"], [np.zeros((40, 80, 3))], crop=True)
    np.testing.assert_array_equal(label_maps.resize(middle, 2, 2), [[0, 70_000]] * 2)
    stripes = np.repeat(np.arange(4, dtype=np.int32)[None], 100, axis=0).repeat(25, axis=1)
    [middle] = label_maps.fit([stripes], ["a"], [np.zeros((100, 200, 3))], crop=True)  # a square map of all of it
    assert np.unique(middle).tolist() == [1, 2] and middle.shape == (100, 50)
    [whole] = label_maps.fit([stripes], ["a"], [np.zeros((100, 200, 3))])
    assert whole is stripes


def test_contact_sheet_has_a_row_for_each_content_and_a_column_for_each_style():
    def flat(*color):
        return np.broadcast_to(np.uint8(color), (9, 9, 3))

    contents = [flat(250, 0, 0), flat(0, 250, 0)]
    styles = [flat(0, 0, 250), flat(250, 250, 0), flat(0, 250, 250)]
    sheet = image_sets.contact_sheet(
        contents,
        ["one", "two"],
        styles,
        ["a", "b_long_name_of_a_style", "c"],
        lambda i, j: flat(10 * i, 20 * j, 100),
        tile=64,
    )
    cells = sheet[-3 * 66 - 2 :, -4 * 66 - 2 :]

    def middle(i, j):
        return tuple(int(x) for x in cells[2 + 66 * i + 32, 2 + 66 * j + 32])

    assert middle(0, 0) == (255, 255, 255)
    assert [middle(0, j) for j in (1, 2, 3)] == [(0, 0, 250), (250, 250, 0), (0, 250, 250)]
    assert [middle(i, 0) for i in (1, 2)] == [(250, 0, 0), (0, 250, 0)]
    assert [[middle(i, j) for j in (1, 2, 3)] for i in (1, 2)] == [
        [(10 * i, 20 * j, 100) for j in range(3)] for i in range(2)
    ]


def test_contact_sheet_of_many_images_has_smaller_tiles():
    many = [np.zeros((2, 3, 3), np.uint8)] * 99
    names = [str(i) for i in range(99)]
    sheet = image_sets.contact_sheet(many[:1], names[:1], many, names, lambda i, j: many[0], tile=500)
    assert sheet.shape[1] < 100 * 125 + 300
    assert image_sets.square(np.zeros((4, 9, 3), np.uint8), 20).shape == (20, 20, 3)
    assert (image_sets.square(np.zeros((4, 9, 3), np.uint8), 20) == 0).all(-1).sum() == 8 * 18


def test_label_map_of_another_shape_than_its_image_is_refused():
    maps = [np.zeros((64, 96), np.int32), np.zeros((33, 50), np.int32), np.zeros((8, 8), np.int32)]
    sides = (128, 192), (427, 640), (37, 50)
    label_maps.fit(maps, ["a", "b", "c"], [np.zeros((*shape, 3)) for shape in sides])
    with pytest.raises(UserError, match="label map of 'a' has 96x64 px and its image, as it is shown, 64x96 px"):
        label_maps.fit(maps[:1], ["a"], [np.zeros((96, 64, 3))])


def test_long_names_are_shortened_and_stay_apart():
    names = image_sets._short_names([f"{folder}/{'c' * 200}.png" for folder in ("p" * 150, "q" * 150)])
    assert len(set(names)) == 2 and all(len(f"{name}.png") < 256 for name in names)
