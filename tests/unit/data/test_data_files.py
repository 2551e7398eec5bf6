"""Image files of every format, and folders of them."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from arinv import data
from arinv.data import decoding
from arinv.data.decoding import decode_image
from arinv.data.image_files import suffixes
from arinv.errors import UserError


@pytest.fixture
def image():
    """uint8 [24, 40, 3]: a smooth image that JPEG keeps well."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([y * 10, x * 6, (x + y) * 3], axis=-1).astype(np.uint8)


def _saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_read_image_is_exact(tmp_path, image):
    for name in ("a.png", "b.bmp", "c.ppm", "d.tif"):
        Image.fromarray(image).save(tmp_path / name)
        np.testing.assert_array_equal(data.read_image(tmp_path / name), image)


def test_decode_image_converts_grey_and_16_bit_to_rgb(image):
    grey = image[..., 0]
    for image in (Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)):
        decoded = decode_image(_saved(image, "PNG"), name="grey")
        np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=-1))


def test_decode_image_passes_on_what_is_no_fault_of_the_file(monkeypatch):
    def fail(*args):
        raise ImportError("a module of Pillow is missing")

    monkeypatch.setattr(decoding, "_load_upright", fail)
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(ImportError, match="a module of Pillow"):
        decoding.decode_image(file.getvalue(), name="a.png")


def test_decode_image_makes_transparent_pixels_white(image):
    alpha = np.full((24, 40, 1), 255, np.uint8)
    alpha[:, :20] = 0
    rgba = Image.fromarray(np.concatenate([image, alpha], axis=-1))
    decoded = decode_image(_saved(rgba, "PNG"), name="rgba")
    assert (decoded[:, :20] == 255).all()
    np.testing.assert_array_equal(decoded[:, 20:], image[:, 20:])
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert (decode_image(_saved(palette, "PNG"), name="p") == [200, 100, 50]).all()
    assert (decode_image(_saved(palette, "PNG", transparency=1), name="p") == 255).all()


def test_decode_image_converts_cmyk_jpeg(image):
    cmyk = _saved(Image.fromarray(image).convert("CMYK"), "JPEG", quality=95)
    difference = decode_image(cmyk, name="cmyk").astype(int) - image
    assert abs(difference).mean() < 8


def _png(depth, color, row, transparent):
    """A PNG of two pixels, written by hand: Pillow writes no transparent color of 2, 4 or 16 bits."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "color", "row", "transparent", "other"),
    [
        (1, 0, bytes([0b01000000]), (1,), 0),
        (2, 0, bytes([0b01100000]), (1,), 170),
        (4, 0, bytes([0x3A]), (3,), 170),
        (8, 0, bytes([3, 170]), (3,), 170),
        (16, 0, struct.pack(">2H", 1000, 170 * 257), (1000,), 170),
        (8, 2, bytes([1, 2, 3, 170, 170, 170]), (1, 2, 3), 170),
        (16, 2, struct.pack(">6H", 1000, 2000, 3000, *[170 * 257] * 3), (1000, 2000, 3000), 170),
    ],
)
def test_decode_image_makes_a_transparent_color_white_at_every_depth(depth, color, row, transparent, other):
    first, second = decode_image(_png(depth, color, row, transparent), name="x")[0].tolist()
    if depth == 1:  # the second is the transparent one
        first, second = second, first
    assert first == [255] * 3 and second == [other] * 3


def test_decode_image_rejects_32_bits_and_reads_16_bit_pgm():
    for values in (np.arange(4, dtype=np.int32), np.linspace(0, 1, 4, dtype=np.float32)):
        image = Image.fromarray(values.reshape(2, 2))
        with pytest.raises(UserError, match="^a.tif has 32 bits a pixel, values 0 to .* no standard range"):
            decode_image(_saved(image, "TIFF"), name="a.tif")
    pgm = b"P5 2 1 65535\n" + struct.pack(">2H", 170 * 257, 65535)
    assert decode_image(pgm, name="x").tolist() == [[[170] * 3, [255] * 3]]


def _tiff(row, bits, photometric=1, sample_format=1):
    """A grey TIFF of one row, written by hand: Pillow writes neither 12 bits nor a white of 0."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(row)}
    tags |= {339: sample_format}
    row = row.ljust(4, b"\0")
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(row)) + row + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (struct.pack("<2H", 0, 170 * 257), {"bits": 16}),
        (struct.pack("<2H", 65535, 85 * 257), {"bits": 16, "photometric": 0}),
        (bytes([0x00, 0x0A, 0xAA]), {"bits": 12}),
        (bytes([255, 85]), {"bits": 8, "photometric": 0}),
    ],
)
def test_decode_image_reads_grey_tiff_of_any_depth_and_white(row, options):
    assert decode_image(_tiff(row, **options), name="x").tolist() == [[[0] * 3, [170] * 3]]


def test_decode_image_rejects_signed_bytes():
    with pytest.raises(UserError, match="^a.tif has signed values"):
        decode_image(_tiff(bytes([0, 200]), 8, sample_format=2), name="a.tif")


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_decode_image_rejects_raw_planes_of_16_bits(channels, tile):
    buffer, options = io.BytesIO(), {"photometric": "rgb", "tile": tile}
    pixels = np.arange(16 * 16 * channels, dtype=np.uint16).reshape(channels, 16, 16)
    tifffile.imwrite(buffer, pixels, planarconfig="separate", **options)
    with pytest.raises(UserError, match="^a.tif has planes of 16 bits without compression; save it with 8 bits"):
        decode_image(buffer.getvalue(), name="a.tif")
    for content, name in ((pixels >> 8).astype(np.uint8), "bytes"), (pixels, "zlib"):
        buffer, compression = io.BytesIO(), "zlib" if name == "zlib" else None
        tifffile.imwrite(buffer, content, planarconfig="separate", compression=compression, **options)
        assert decode_image(buffer.getvalue(), name=name).shape == (16, 16, 3)


def test_decode_image_applies_orientation_of_text_chunks_and_xmp(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    raw, stored = exif.tobytes(), Image.fromarray(np.ascontiguousarray(image.transpose(1, 0, 2)[::-1]))
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n")
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    for chunks in (text, xmp):
        np.testing.assert_array_equal(decode_image(_saved(stored, "PNG", pnginfo=chunks), name="x"), image)
    broken = PngImagePlugin.PngInfo()
    broken.add_text("Raw profile type exif", "\nexif\n 4\nzz\n")
    np.testing.assert_array_equal(decode_image(_saved(stored, "PNG", pnginfo=broken), name="x"), np.asarray(stored))


def test_decode_image_returns_first_frame_of_an_animation():
    frames = [Image.new("RGB", (5, 6), color) for color in ("red", "blue")]
    gif = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(gif, name="gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_applies_exif_orientation(image, orientation):
    turned = {  # how a camera stores the image under this orientation
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x.transpose(1, 0, 2)[::-1],
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    }[orientation](image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(_saved(stored, kind, exif=exif), name="x"), image)
        grey = decode_image(_saved(stored.convert("L"), kind, exif=exif), name="x")
        np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(image).convert("L").convert("RGB")))


def test_read_image_reads_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one.png")
    one = data.read_image(tmp_path / "one.png")
    for mode in ("squash", "crop"):
        assert (data.resize_u8(one, 4, mode) == [9, 8, 7]).all()


def test_read_image_names_damaged_file(tmp_path, image):
    jpeg = _saved(Image.fromarray(image), "JPEG")
    png = _saved(Image.fromarray(image), "PNG")
    for content in (jpeg[: len(jpeg) // 2], png[: len(png) // 2], b"", b"no image", jpeg[:20]):
        (tmp_path / "bad.jpg").write_bytes(content)
        with pytest.raises(UserError, match="bad.jpg") as error:
            data.read_image(tmp_path / "bad.jpg")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="none.png"):
        data.read_image(tmp_path / "none.png")


def test_decode_image_rejects_decompression_bombs():
    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    for side in (10_000, 20_000):  # Pillow warns at the first and refuses the second
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(UserError, match="pixels, more than the .* allowed"):
            decode_image(bomb, name="bomb.png")


def test_resize_u8_squashes_and_crops(image):
    squashed, cropped = data.resize_u8(image, 12), data.resize_u8(image, 12, "crop")
    assert squashed.shape == cropped.shape == (12, 12, 3)
    expected = Image.fromarray(image).resize((20, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(cropped, np.asarray(expected)[:, 4:16])
    assert squashed[0, -1, 1] > 220 and cropped[0, -1, 1] < 200  # the right edge is at 234
    with pytest.raises(UserError, match="crop"):
        data.resize_u8(image, 12, "pad")


def _fill(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"{i:03}.png")


def _keys(source):
    return {source[i]["image"].tobytes() for i in range(len(source))}


@pytest.mark.parametrize(("height", "width"), [(90, 120), (133, 77), (64, 64), (20, 31)])
def test_resize_u8_crop_7_8_equals_resizing_then_cropping(height, width):
    """Torchvision's Resize(256), CenterCrop(224), here at 56 px."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    long = int(64 * max(height, width) / min(height, width))
    size = (64, long) if height >= width else (long, 64)  # Pillow: width, height
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (round((side - 56) / 2) for side in resized.shape[:2])
    expected = resized[top : top + 56, left : left + 56].astype(int)
    assert np.abs(decoding.resize_u8(image, 56, "crop_7_8") - expected).max() <= 1


def test_random_resized_crop_returns_windows_of_the_image():
    """Areas, shapes and places as asked for, and detail that a squashed image would not have."""
    rows, columns = np.mgrid[:200, :250]
    original = np.stack([rows, columns, 255 * ((rows // 2 + columns // 2) % 2)], -1).astype(np.uint8)
    areas, shapes, details, squashed = [], [], [], []
    for seed in range(200):
        window = decoding.random_resized_crop([seed], original, size=50).astype(float)
        height, width = (np.ptp(window[:, :, i]) / 0.98 for i in range(2))  # from center to center of its pixels
        areas.append(height * width / original[:, :, 0].size)
        shapes.append(width / height)
        details.append(window[:, :, 2].std())
        again = decoding.random_resized_crop([seed], decoding.resize_u8(original, 50), size=50)
        squashed.append(again[:, :, 2].std())
    assert 0.07 < min(areas) < 0.15 and 0.8 < max(areas) < 1.1 and 0.45 < np.mean(areas) < 0.6
    assert 0.72 < min(shapes) < 0.85 and 1.15 < max(shapes) < 1.4
    assert np.mean(details) > 2 * np.mean(squashed)


def test_random_resized_crop_falls_back_to_the_center():
    image = np.random.default_rng(0).integers(0, 256, (10, 400, 3), dtype=np.uint8)
    result = decoding.random_resized_crop([0], image, size=10, scale=(0.9, 1.0))
    expected = Image.fromarray(image[:, 193:206]).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.abs(result.astype(int) - np.asarray(expected)).max() <= 1


def test_folder_original_keeps_sizes(tmp_path):
    for name, size in (("a", (30, 50)), ("b", (41, 23))):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", size).save(tmp_path / name / f"{i}.png")
    source = data.open_source(f"folder:{tmp_path}", split="all", image_size=8, resize="original")
    assert [example["image"].shape for example in source] == [(50, 30, 3)] * 2 + [(23, 41, 3)] * 2
    assert data.open_source("photos", image_size=8, resize="original")[0]["image"].shape[0] > 8


def test_folder_has_a_class_per_subfolder_and_disjoint_splits(tmp_path):
    _fill(tmp_path / "dog", 20, seed=1)
    _fill(tmp_path / "cat", 10, seed=2)
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("not an image")
    name = f"folder:{tmp_path}"
    train, test = (data.open_source(name, split=s, image_size=8) for s in ("train", "test"))
    assert train.info.class_names == ("cat", "dog") and train[0]["image"].shape == (8, 8, 3)
    assert np.bincount(train.read_labels()).tolist() == [8, 16]
    assert np.bincount(test.read_labels()).tolist() == [2, 4]
    every = data.open_source(name, split="all", image_size=8)
    assert len(every) == 30 and not _keys(train) & _keys(test)
    assert _keys(train) | _keys(test) == _keys(every)
    assert _keys(data.open_source(name, split="test", image_size=8)) == _keys(test)
    dogs = data.open_source(name, split="all", image_size=8, classes=["dog"], num_examples=5)
    assert dogs.read_labels().tolist() == [1] * 5 and dogs[0]["label"] == 1
    spread = data.open_source(name, split="all", image_size=8, num_examples=6)
    assert np.bincount(spread.read_labels()).tolist() == [2, 4]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_folder_splits_share_classes(tmp_path, validation):
    for split, classes in {"train": ("a", "b"), validation: ("b",)}.items():
        for seed, name in enumerate(classes):
            _fill(tmp_path / split / name, 3, seed=10 * len(split) + seed)
    val = data.open_source(f"folder:{tmp_path}", split="val")
    assert val.info.class_names == ("a", "b") and val.read_labels().tolist() == [1, 1, 1]
    assert len(data.open_source(f"folder:{tmp_path}", split="all")) == 9
    assert _keys(data.open_source(f"folder:{tmp_path}", split="test")) == _keys(val)  # stands in for it
    _fill(tmp_path / "test" / "a", 2)
    assert len(data.open_source(f"folder:{tmp_path}", split="test")) == 2
    with pytest.raises(UserError, match="known: all, test, train, val"):
        data.open_source(f"folder:{tmp_path}", split="valid")


def test_folder_rejects_ambiguous_split_folders(tmp_path):
    _fill(tmp_path / "train" / "a", 3)
    _fill(tmp_path / "train" / "b", 3)
    with pytest.raises(UserError, match="holds only train.*/train'"):
        data.open_source(f"folder:{tmp_path}")
    assert data.open_source(f"folder:{tmp_path}/train").info.class_names == ("a", "b")
    _fill(tmp_path / "tram", 3)
    with pytest.raises(UserError, match="train, tram, which may be splits or classes"):
        data.open_source(f"folder:{tmp_path}")
    for name in ("train", "tram"):  # beside other vehicles a train is one
        _fill(tmp_path / "vehicles" / name, 3)
    assert data.open_source(f"folder:{tmp_path}/vehicles").info.class_names == ("train", "tram")
    _fill(tmp_path / "two" / "train", 3)
    for name in ("val", "valid"):
        _fill(tmp_path / "two" / name, 3)
    with pytest.raises(UserError, match="val and valid, two folders of one split"):
        data.open_source(f"folder:{tmp_path}/two")


def test_folder_skips_hidden_folders(tmp_path):
    _fill(tmp_path / "cat", 4)
    _fill(tmp_path / "cat" / ".thumbnails", 2, seed=1)
    _fill(tmp_path / ".ipynb_checkpoints", 2, seed=2)
    assert len(data.open_source(f"folder:{tmp_path}", split="all")) == 4
    assert len(data.open_images(tmp_path)) == 4


SPELLINGS = [
    ("Train", "Test"), ("TRAINING", "testing"), ("train_set", "test_set"), ("Training Images", "eval"),
    ("tr", "te"), ("train2017", "val2017"), ("trainset", "dev"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), SPELLINGS)
def test_folder_recognises_split_names_in_any_spelling(train, test, tmp_path):
    for seed, (split, count) in enumerate({train: 3, test: 2}.items()):
        for i, name in enumerate(("cat", "dog")):
            _fill(tmp_path / split / name, count, seed=10 * seed + i)
    sources = [data.open_source(f"folder:{tmp_path}", split=split, image_size=4) for split in ("train", "test")]
    assert [len(source) for source in sources] == [6, 4]
    assert all(source.info.class_names == ("cat", "dog") for source in sources)


@pytest.mark.parametrize(
    "folders",
    [
        ("Train/cat", "train/cat"),
        ("seg_train/cat", "seg_test/cat"),
        ("Training/cat", "my_test/cat"),
        ("tr", "te", "de", "en"),
        ("test/cat", "val/cat", "cat"),
    ],
)
def test_folder_rejects_unclear_splits(folders, tmp_path):
    for folder in folders:
        _fill(tmp_path / folder, 1)
    with pytest.raises(UserError, match="two folders of one split|may be splits or classes") as error:
        data.open_source(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)


def test_folder_reports_entries_beside_splits(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "unlabeled"):
        _fill(tmp_path / folder, 2)
    (tmp_path / "train" / "cow").mkdir()
    info = data.open_source(f"folder:{tmp_path}").info
    assert info.class_names == ("cat", "dog")
    assert "folder 'unlabeled' beside train and test (1)" in info.left_out
    assert "folder 'cow' without images (1)" in info.left_out


@pytest.mark.parametrize(
    ("test", "message"), [("test", "images without classes"), ("test/unknown", "classes that train lacks: unknown")]
)
def test_folder_rejects_classes_without_training_images(test, message, tmp_path):
    for folder in ("train/cat", "train/dog", test):
        _fill(tmp_path / folder, 2)
    for split in ("train", "test"):
        with pytest.raises(UserError, match=f"test holds {message}.*/train'"):
            data.open_source(f"folder:{tmp_path}", split=split)


def test_folder_rejects_a_test_split_that_links_to_the_training_split(tmp_path):
    _fill(tmp_path / "train" / "cat", 2)
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(UserError, match="test is train, through a link"):
        data.open_source(f"folder:{tmp_path}")


def test_folder_errors_are_one_line_for_any_name(tmp_path):
    for folder in ("train/cat\nb", "test/dog\nc"):
        _fill(tmp_path / folder, 1)
    with pytest.raises(UserError, match="dog.*nc") as error:
        data.open_source(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)


def test_folder_counts_system_folders_and_other_files(tmp_path):
    _fill(tmp_path / "cat", 3)
    for folder in ("@eaDir/a.png", "__MACOSX/cat", "$RECYCLE.BIN", "lost+found", "System Volume Information", ".a"):
        _fill(tmp_path / folder, 2)
    _fill(tmp_path / "cat" / "@eaDir" / "000.png", 2)
    for name in ("a.heic", "b.HEIC", "notes.txt", "._000.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "itself").symlink_to(tmp_path / "cat" / "itself")
    source, images = data.open_source(f"folder:{tmp_path}", split="all"), data.open_images(tmp_path)
    assert source.info.class_names == ("cat",) and len(source) == len(images) == 3
    for left_out in (source.info.left_out, images.left_out):
        assert "folder '@eaDir' (2)" in left_out and ".heic (2)" in left_out
        assert "broken link (2)" in left_out and "link to an outer folder (1)" in left_out
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.heic").write_bytes(b"x")
    for opened in (lambda: data.open_images(tmp_path / "only"), lambda: data.open_source(f"folder:{tmp_path}/only")):
        with pytest.raises(UserError, match=r"holds no image.*found .heic \(1\)"):
            opened()


def test_folder_follows_links(tmp_path):
    _fill(tmp_path / "store" / "cats", 3)
    (tmp_path / "set" / "dog").mkdir(parents=True)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "set" / "dog" / "a.png").symlink_to(tmp_path / "store" / "cats" / "000.png")
    source = data.open_source(f"folder:{tmp_path}/set", split="all")
    assert source.info.class_names == ("cat", "dog") and source.read_labels().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.JPG", "a.Jpe", "a.avif", "a.webp", "a.jp2", "a.tga", "a.qoi", "a.dib", "a.pnm", "a.apng"]
)
def test_open_images_reads_every_format_of_pillow(name, tmp_path):
    kinds = {".jfif": "JPEG", ".jpg": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".apng": "PNG"}
    ending = "." + name.split(".")[1].lower()
    if ending not in suffixes():
        pytest.skip("this Pillow has no decoder for it")
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / name, kinds.get(ending))
    assert len(data.open_source(f"folder:{tmp_path}", split="all")) == 1


def test_folder_without_subfolders_is_one_class(tmp_path):
    _fill(tmp_path, 5)
    train = data.open_source(f"folder:{tmp_path}")
    assert (len(train), train.info.num_classes) == (4, 1)
    assert len(data.open_source(f"folder:{tmp_path}", split="test")) == 1


def test_folder_names_unusable_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        data.open_source(f"folder:{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        data.open_source(f"folder:{tmp_path}/empty")
    _fill(tmp_path / "mixed", 2)
    _fill(tmp_path / "mixed" / "cat", 2)
    with pytest.raises(UserError, match="mixed"):
        data.open_source(f"folder:{tmp_path}/mixed")
    _fill(tmp_path / "single", 1)
    with pytest.raises(UserError, match="single.*test"):
        data.open_source(f"folder:{tmp_path}/single", split="test")
    with pytest.raises(UserError, match="squash"):
        data.open_source(f"folder:{tmp_path}/single", resize="fit")
    with pytest.raises(UserError, match="error, skip"):
        data.open_source(f"folder:{tmp_path}/single", on_bad_image="ignore")


def test_folder_raises_at_damaged_images_or_counts_them(tmp_path):
    _fill(tmp_path, 6)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    name = f"folder:{tmp_path}"
    with pytest.raises(UserError, match="cut.jpg.*skip"):
        data.open_source(name, split="all", image_size=4)
    calls = []
    source = data.open_source(name, split="all", on_bad_image="skip", progress=lambda *c: calls.append(c))
    assert (len(source), source.num_skipped) == (6, 1) and calls[-1] == (7, 7)
    assert [path.name for path in source.bad_files] == ["cut.jpg"]
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 7 images in .* can be read: .* is empty: 0 bytes"):
        data.open_source(name, split="all", on_bad_image="skip")


def test_read_image_min_side_keeps_the_image(tmp_path):
    y, x = np.mgrid[0:600, 0:800]
    wave = 127 + 100 * np.sin(x / 40) * np.cos(y / 30)
    large = np.repeat(wave[..., None], 3, axis=-1).astype(np.uint8)
    Image.fromarray(large).save(tmp_path / "large.jpg", quality=95)
    small = data.read_image(tmp_path / "large.jpg", min_side=64)
    assert small.shape[0] < 600 and min(small.shape[:2]) >= 64
    difference = data.resize_u8(small, 32).astype(int) - data.resize_u8(large, 32)
    assert abs(difference).max() < 12


def test_window_of_a_folder_is_cropped_from_the_full_size(tmp_path):
    """A large JPEG is decoded at a reduced size otherwise, where the window would be another part."""
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[300:364, 400:464] = 255
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", quality=95)
    source = data.open_source(f"folder:{tmp_path}", split="all", image_size=16, window=(432, 332, 64))
    assert source[0]["image"].shape == (16, 16, 3) and source[0]["image"].mean() > 250
    with pytest.raises(UserError, match="800 x 600 px: the window of 64 px around x=10, y=332 is not inside"):
        data.open_source(f"folder:{tmp_path}", split="all", image_size=16, window=(10, 332, 64))


@pytest.mark.parametrize("kind", ["class", "file", "flat"])
def test_links_from_one_split_to_files_of_another_are_images_in_common(tmp_path, kind):
    for name in ("a", "b"):
        folder = tmp_path / ("" if kind == "flat" else f"train/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(5):
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(folder / f"{name}{i}.png")
    if kind == "flat":
        for i in range(8):
            (tmp_path / f"copy{i}.png").symlink_to(tmp_path / "a0.png")
    for name in ("a", "b") if kind != "flat" else ():
        (tmp_path / "test").mkdir(exist_ok=True)
        if kind == "class":
            (tmp_path / "test" / name).symlink_to(tmp_path / "train" / name)
        else:
            (tmp_path / "test" / name).mkdir()
            (tmp_path / "test" / name / "x.png").symlink_to(tmp_path / "train" / name / f"{name}0.png")
    train, test = (data.open_source(f"folder:{tmp_path}", split=split).info for split in ("train", "test"))
    assert data.share_images(train, test)


def test_links_inside_of_a_split_and_between_test_and_val_are_none(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / split / name / f"{i}.png")
    (tmp_path / "test").symlink_to("val")
    (tmp_path / "train" / "a" / "again.png").symlink_to("0.png")
    infos = {split: data.open_source(f"folder:{tmp_path}", split=split).info for split in ("train", "test", "val")}
    assert not data.share_images(infos["train"], infos["test"]) and not data.share_images(infos["train"], infos["val"])


def test_folder_notes_folders_of_classes_that_have_folders_themselves(tmp_path):
    for fold in ("fold1", "fold2"):
        for name in ("cat", "dog"):
            _fill(tmp_path / "folds" / fold / name, 3)
    for name in ("cat", "dog"):
        _fill(tmp_path / "plain" / name / "images", 3)
    note = data.open_source(f"folder:{tmp_path / 'folds'}", image_size=8).info.note
    assert "fold1 (cat, dog), fold2 (cat, dog)" in note
    assert not data.open_source(f"folder:{tmp_path / 'plain'}", image_size=8).info.note


def test_copies_and_absent_classes_of_a_test_split(tmp_path):
    for name, seed in (("cat", 1), ("dog", 2)):
        _fill(tmp_path / "train" / name, 4, seed=seed)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / "train" / "cat").iterdir())[:2]):
        shutil.copy(path, tmp_path / "test" / "cat" / f"copy{i}.png")
    _fill(tmp_path / "test" / "cat", 1, seed=3)
    train, test = (data.open_source(f"folder:{tmp_path}", split=s, image_size=8) for s in ("train", "test"))
    assert data.count_copies(train, test) == 2 and data.count_copies(test, train) == 2
    assert "1 of the 2 classes have no image in split 'test'" in data.report_absent(test)
    assert ": dog;" in data.report_absent(test) and not data.report_absent(train)
    one = data.open_source(f"folder:{tmp_path}", split="train", image_size=8, classes=["dog"])
    assert data.count_copies(one, test) == 0
    photographs = data.open_source("photos", image_size=8)
    assert data.count_copies(photographs, test) == 0 and not data.report_absent(photographs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.resize_u8(np.zeros((4, 4, 3), np.float32), 2), "must be uint8 .*; got float32"),
        (lambda: data.resize_u8([[1]], 2), "got list"),
        (lambda: data.to_grey(np.full((4, 4, 3), 0.5, np.float32)), "must be uint8 .H, W, 3. in .*; got float32"),
        (lambda: data.to_grey(np.zeros((4, 4), np.uint8)), r"got uint8 \(4, 4\)"),
        (lambda: data.resize_u8(np.zeros((4, 4, 3), np.uint8), 0), "size must be at least 1; got 0"),
        (lambda: data.means_u8(np.zeros((4, 4, 3), np.uint8), 0), "size must be at least 1; got 0"),
        (lambda: data.limit_side(np.zeros((4, 4, 3), np.uint8), -4), "max_side must be at least 0; got -4"),
        (lambda: data.read_image(None), "cannot read image None"),
        (lambda: data.open_images(None), "cannot open images None"),
        (lambda: data.open_source("tfds:cifar10", data_dir=3), "data_dir must be a directory.*; got 3"),
        (lambda: data.open_source("photos", classes="12"), "classes must be a list of labels or names.*; got '12'"),
        (lambda: data.open_source("photos", classes=1), "classes must be a list of labels or names.*; got 1"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_random_resized_crop_of_grey_images_keeps_their_channel():
    image = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30, 1)
    grey = decoding.random_resized_crop([1], image, size=8)
    assert grey.shape == (8, 8, 1)
    np.testing.assert_array_equal(
        np.repeat(grey, 3, -1), decoding.random_resized_crop([1], np.repeat(image, 3, -1), size=8)
    )


def test_classes_refuse_a_label_that_is_the_name_of_another_class(tmp_path):
    """Folders are numbered in the order of their names as text."""
    for name in ("0", "1", "10", "2"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    options = {"split": "all", "image_size": 8}
    with pytest.raises(UserError, match="2 is the label of class '10' .*, and class 2 has the label 3"):
        data.open_source(f"folder:{tmp_path}", classes=[2], **options)
    assert len(data.open_source(f"folder:{tmp_path}", classes=["10"], **options)) == 3
    assert len(data.open_source(f"folder:{tmp_path}", classes=[0, 1], **options)) == 6


def test_class_folders_that_look_alike_are_named(tmp_path):
    for folder in ("train/caf\u00e9", "train/x", "test/cafe\u0301"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / folder / "a.png")
    with pytest.raises(UserError, match="another Unicode form or case"):
        data.open_source(f"folder:{tmp_path}", split="train", image_size=8)
