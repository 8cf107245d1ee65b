"""Every mode and format that people have, and every way in which a file can be broken."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddm.data.images import FileReader, UnreadableImage, check_images, is_image_name, read_image
from ddm.errors import DdmError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


def encoded(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(height=48, width=40):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def top_is(upper, lower, width=16, height=16):
    """An image of one colour above and another below."""
    image = Image.new("RGB", (width, height), lower)
    image.paste(upper, (0, 0, width, height // 2))
    return image


def close(pixels, colour, tolerance=1):
    return np.abs(pixels.astype(int) - np.asarray(colour)).max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "a.ppm", "A.JPEG"]
)
def test_formats(tmp_path, name, channels):
    path = saved(tmp_path, Image.new("RGB", (20, 12), (200, 100, 50)), name)
    pixels = read_image(path, 8, channels)
    assert pixels.shape == (8, 8, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert close(pixels, (200, 100, 50) if channels == 3 else grey, tolerance=8)


def palette(transparent):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN, *BLUE])
    if transparent:
        image.info["transparency"] = 1
    return image


MODES = {
    "L": (Image.new("L", (8, 8), 77), "png", (77, 77, 77)),
    "1": (Image.new("1", (8, 8), 1), "png", WHITE),
    "1 black": (Image.new("1", (8, 8), 0), "tif", (0, 0, 0)),
    "LA": (Image.new("LA", (8, 8), (0, 51)), "png", (204, 204, 204)),
    "LA transparent": (Image.new("LA", (8, 8), (0, 0)), "png", WHITE),
    "RGBA": (Image.new("RGBA", (8, 8), (255, 0, 0, 51)), "png", (255, 204, 204)),
    "RGBA opaque": (Image.new("RGBA", (8, 8), (9, 8, 7, 255)), "tif", (9, 8, 7)),
    "RGBA webp": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "webp", WHITE),
    "P": (palette(transparent=False), "png", GREEN),
    "P transparent": (palette(transparent=True), "png", WHITE),
    "P transparent gif": (palette(transparent=True), "gif", WHITE),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "tif", RED),
    # Pillow writes CMYK JPEGs the way Adobe does, inverted.
    "CMYK jpeg": (Image.new("CMYK", (8, 8), (255, 0, 255, 0)), "jpg", GREEN),
    "16 bit mid": (Image.fromarray(np.full((8, 8), 32768, np.uint16)), "png", (128, 128, 128)),
    "16 bit dark": (Image.fromarray(np.full((8, 8), 257 * 3, np.uint16)), "png", (3, 3, 3)),
    "16 bit white": (Image.fromarray(np.full((8, 8), 65535, np.uint16)), "tif", WHITE),
    "16 bit pgm": (Image.fromarray(np.full((8, 8), 32768, np.int32)), "pgm", (128, 128, 128)),
    "16 bit big": (Image.new("I;16B", (8, 8), 32768), "tif", (128, 128, 128)),
    "32 bit": (Image.fromarray(np.full((8, 8), 32768, np.int32)), "tif", (128, 128, 128)),
    "F unit": (Image.fromarray(np.full((8, 8), 0.5, np.float32)), "tif", (128, 128, 128)),
    "F byte": (Image.fromarray(np.full((8, 8), 90.2, np.float32)), "tif", (90, 90, 90)),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(tmp_path, mode):
    image, extension, colour = MODES[mode]
    path = saved(tmp_path, image, f"a.{extension}")
    assert close(read_image(path, 4), colour)
    luma = np.dot(colour, (0.299, 0.587, 0.114))
    assert close(read_image(path, 4, channels=1), luma)


def test_colour_key_is_transparent(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (8, 8), RED), "a.png", transparency=RED)
    assert close(read_image(path, 4), WHITE)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((4, 4), 70_000, np.int32), "integers from 70000 to 70000"),
        (np.full((4, 4), -1, np.int32), "integers from -1 to -1"),
        (np.full((4, 4), 300, np.float32), "floats from 300 to 300"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
    ],
)
def test_no_guess_where_the_range_is_unknown(tmp_path, pixels, reason):
    path = saved(tmp_path, Image.fromarray(pixels), "a.tif")
    with pytest.raises(UnreadableImage, match=reason):
        read_image(path, 4)


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, extension, orientation):
    """The eight ways to store an image whose left upper quarter is red."""
    upright = np.full((16, 16, 3), 255, np.uint8)
    upright[:8, :8] = RED
    upright[8:, :8] = BLUE
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(back(upright)))
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    path = saved(tmp_path, stored, f"a.{extension}", exif=exif, **options.get(extension, {}))
    assert close(read_image(path, 16), upright, tolerance=4)


@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 2, 4, b"abc\0"),  # a resolution that is text
        (0x0128, 4, 1, struct.pack("<I", 2**31)),  # a unit that fits no 16 bits
        (0x0103, 11, 1, struct.pack("<f", 1.5)),  # a compression that is no integer
    ],
)
def test_an_odd_tag_beside_the_orientation_does_no_harm(tmp_path, odd):
    tags = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), odd]
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted(tags))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    stored = Image.new("RGB", (16, 16), WHITE)
    stored.paste(RED, (0, 0, 8, 16))  # left, and upright: above
    path = saved(tmp_path, stored, "a.jpg", exif=exif, quality=95)
    read = read_image(path, 16)
    assert close(read[:6], RED, 4) and close(read[10:], WHITE, 4)


def test_damaged_exif_does_no_harm(tmp_path):
    broken = b"Exif\0\0garbage"
    path = saved(tmp_path, Image.new("RGB", (8, 8), WHITE), "a.jpg", exif=broken)
    assert close(read_image(path, 4), WHITE)


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize("size", [5, 32, 64, 100])
def test_centre_crop(tmp_path, extension, size):
    """A wide image with a red middle square shows that square alone; a tall one likewise."""
    wide = Image.new("RGB", (300, 100), BLUE)
    wide.paste(RED, (100, 0, 200, 100))
    for name, image in (("wide", wide), ("tall", wide.rotate(90, expand=True))):
        options = {"quality": 95, "subsampling": 0} if extension == "jpg" else {}
        pixels = read_image(saved(tmp_path, image, f"{name}.{extension}", **options), size)
        edge = 1 + size // 16
        assert close(pixels[edge:-edge, edge:-edge], RED, tolerance=8)


def test_resize_is_antialiased(tmp_path):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert close(read_image(saved(tmp_path, Image.fromarray(board), "a.png"), 32), 127.5, 2)


def test_fast_jpeg_is_like_the_slow_way(tmp_path):
    smooth = noise(16, 16).resize((512, 512), Image.Resampling.BICUBIC)
    jpeg = read_image(saved(tmp_path, smooth, "a.jpg", quality=95), 64)
    exact = np.asarray(smooth.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(jpeg.astype(int) - exact).mean() < 3


def test_small_images_grow(tmp_path):
    assert read_image(saved(tmp_path, Image.new("RGB", (1, 3), RED), "a.png"), 64).shape == (
        64,
    ) * 2 + (3,)


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 8), WHITE), "JPEG"))
    assert close(read_image(path, 4), WHITE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"<html>404 not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (encoded(noise(), "JPEG")[:900], "truncated"),
        (encoded(noise(), "PNG")[:600], "truncated"),
    ],
)
def test_unreadable(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(path, 8)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    assert str(path) not in caught.value.reason


def test_folder_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match=r"Is a directory|Permission denied"):
        read_image(tmp_path, 8)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (64, 64)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        read_image(path, 8)


WHOLE = {
    "jpg": encoded(noise(), "JPEG"),
    "progressive jpg": encoded(noise(), "JPEG", progressive=True),
    "png": encoded(noise(), "PNG"),
    "palette png": encoded(noise().convert("P"), "PNG"),
    "webp": encoded(noise(), "WEBP"),
    "gif": encoded(noise(), "GIF"),
    "bmp": encoded(noise(), "BMP"),
    "tif": encoded(noise(), "TIFF", compression="tiff_lzw"),
}


def decodes_or_says_why(path):
    try:
        pixels = read_image(path, 8)
    except UnreadableImage as error:
        assert error.reason
        assert "\n" not in error.reason
    else:
        assert pixels.shape == (8, 8, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1))
def test_any_prefix_decodes_or_is_unreadable(tmp_path, kind, share):
    path = tmp_path / "prefix"
    path.write_bytes(WHOLE[kind][: round(share * len(WHOLE[kind]))])
    decodes_or_says_why(path)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_any_damage_decodes_or_is_unreadable(tmp_path, kind, changes):
    content = bytearray(WHOLE[kind])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "damaged"
    path.write_bytes(content)
    decodes_or_says_why(path)


def test_unreadable_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImage("a/b.png", "the file is empty")))
    assert (error.path, error.reason) == ("a/b.png", "the file is empty")
    assert str(error) == "a/b.png: the file is empty"


def test_is_image_name():
    assert is_image_name("a.JPG")
    assert is_image_name("a.b.Png")
    assert not any(map(is_image_name, ["png", ".png", "a.txt", "Thumbs.db", "a.png.bak"]))


NAMES = ["a.png", "ä ö/b c.png", "日本/🙂.png", "deep/er/c.png"]


def test_file_reader(tmp_path):
    for shade, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        saved(tmp_path, Image.new("L", (8, 8), shade), name)
    reader = pickle.loads(pickle.dumps(FileReader(tmp_path, NAMES, 4, channels=1)))
    assert len(reader) == 4
    assert [reader(i)[0, 0, 0] for i in range(4)] == [0, 1, 2, 3]
    assert reader.path_of(np.int64(1)) == str(tmp_path / NAMES[1])
    assert reader.path_of(-1) == reader.path_of(3)
    with pytest.raises(IndexError):
        reader(4)
    larger = pickle.loads(pickle.dumps(reader.resized(6)))
    assert larger(3).shape == (6, 6, 1) and larger(3)[0, 0, 0] == 3
    assert reader(3).shape == (4, 4, 1)  # Itself is as it was.
    absolute = FileReader("elsewhere", [str(tmp_path / NAMES[3])], 4)
    assert absolute(0)[0, 0, 0] == 3


path_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(path_names, max_size=20))
def test_file_reader_gives_back_every_path(names):
    reader = FileReader("root", names, 4)
    assert [reader.path_of(i) for i in range(len(reader))] == [
        os.path.join("root", n) for n in names
    ]


def test_file_reader_refuses_bad_settings():
    with pytest.raises(DdmError, match="size must be at least 1 pixel, not 0"):
        FileReader(".", [], 0)
    with pytest.raises(DdmError, match=r"channels must be 3 \(colour\) or 1 \(grey\), not 4"):
        FileReader(".", [], 64, 4)


def broken_at(*positions):
    def read(i):
        if i in positions:
            raise UnreadableImage(f"/data/{i}.png", f"reason {i}")
        return np.zeros((2, 2, 3), np.uint8)

    return read


def test_check_images(capsys):
    keys = [f"{i}.png" for i in range(1500)]
    found = check_images(broken_at(1400, 3, 64), keys, False, "Checking photos")
    assert found == ((3, "reason 3"), (64, "reason 64"), (1400, "reason 1400"))
    output = capsys.readouterr()
    assert output.out == ""
    assert "Checking photos" in output.err
    assert "1500/1500" in output.err


def test_check_images_strict():
    keys = [f"{i}.png" for i in range(1500)]
    assert check_images(broken_at(), keys, True, "") == ()
    with pytest.raises(DdmError, match=r"^2 of 1,500 images .* first '7.png' \(reason 7\): repair"):
        check_images(broken_at(9, 7), keys, True, "")


def test_check_images_hides_no_other_error():
    def read(i):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check_images(read, ["a.png"], False, "")
