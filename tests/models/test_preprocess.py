"""Decoding: every kind of photo has a declared outcome, and its pixels are the right way up."""

from __future__ import annotations

import contextlib
import io
import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from models.preprocess import (
    BadPhoto,
    DecodeLimits,
    Preprocessing,
    crop,
    decode,
    dhash64,
    resize,
    thumbnail_jpeg,
)
from tests import zoo
from tests.models.conftest import draw_photo

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", zoo.photos())
def test_every_photo_of_the_zoo_has_its_outcome(name: str) -> None:
    case = zoo.photos()[name]
    if case.code is None:
        photo = decode(case.data)
        assert photo.rgb.dtype == np.uint8
        assert photo.rgb.shape == (photo.height_px, photo.width_px, 3)
        assert photo.rgb.flags.c_contiguous
        return
    with pytest.raises(BadPhoto) as caught:
        decode(case.data)
    assert caught.value.code == case.code
    assert len(caught.value.detail) > 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(orientation: int, form: str) -> None:
    upright = np.asarray(zoo.picture(5), dtype=np.int16)
    stored = Image.open(io.BytesIO(zoo.turned(orientation, 5)))
    lossless = {"lossless": True} if form == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 95} if form == "JPEG" else {}
    data = zoo.encode(stored.copy(), form, exif=exif.tobytes(), **lossless, **quality)
    rgb = decode(data).rgb.astype(np.int16)
    assert rgb.shape == upright.shape
    assert np.abs(rgb - upright).mean() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_refuse_good_pixels() -> None:
    data = zoo.photo(exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff")
    assert decode(data).width_px == 96


def test_sixteen_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(4, 0)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "PNG")
    rgb = decode(out.getvalue()).rgb
    assert np.array_equal(rgb[0, :, 0], np.round(ramp[0] / 257).astype(np.uint8))
    assert np.array_equal(rgb[..., 0], rgb[..., 2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (200, 30, 30, 255))
    image.paste((10, 20, 30, 0), (0, 0, 4, 4))
    stored = image.convert("LA") if mode == "LA" else image
    data = zoo.encode(stored.quantize(8) if mode == "P" else stored, "PNG")
    rgb = decode(data).rgb
    assert rgb[0, 0].tolist() == [255, 255, 255]
    assert rgb[0, 7].max() < 230


def test_a_transparent_palette_entry_lies_on_white() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([0, 0, 0, 90, 90, 90])
    image.putdata([0, 1, 0, 1])
    rgb = decode(zoo.encode(image, "PNG", transparency=0)).rgb
    assert rgb[0, :, 0].tolist() == [255, 90, 255, 90]


def test_cmyk_becomes_the_colour_it_shows() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for form in ("JPEG", "TIFF"):
        assert np.abs(decode(zoo.encode(red, form)).rgb.astype(int) - (255, 0, 0)).max() <= 4


def test_a_cameras_multi_picture_jpeg_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (32, 16), "blue")
    data = zoo.encode(first, "MPO", save_all=True, append_images=[second])
    photo = decode(data)
    assert photo.media_type == "image/jpeg"
    assert photo.rgb[8, 8].tolist()[0] > 240


def test_a_tiff_of_several_pages_is_refused() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    with pytest.raises(BadPhoto, match="animated"):
        decode(zoo.encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


def test_samples_of_32_bits_are_refused_by_name() -> None:
    out = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(out, "TIFF")
    with pytest.raises(BadPhoto, match="unsupported_format") as caught:
        decode(out.getvalue())
    assert "mode F" in caught.value.detail


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_cut_file_is_never_a_photo_and_never_another_error(form: str, share: float) -> None:
    data = zoo.encode(Image.fromarray(draw_photo(1, 120, 160)), form)
    with pytest.raises(BadPhoto) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.code in ("truncated", "corrupted")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_flipped_bytes_give_a_photo_or_a_bad_photo(form: str) -> None:
    whole = zoo.encode(Image.fromarray(draw_photo(2, 40, 50)), form)
    rng = np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 900), 3):
            data[at] = int(rng.integers(256))
        with contextlib.suppress(BadPhoto):
            decode(bytes(data), DecodeLimits(max_pixels=1_000_000))


def test_the_pixel_limit_is_read_from_the_header() -> None:
    data = zoo.encode(Image.new("RGB", (300, 200)), "PNG")
    with pytest.raises(BadPhoto, match=r"300 × 200 = 60,000 pixels.*59,999"):
        decode(data, DecodeLimits(max_pixels=59_999))
    assert decode(data, DecodeLimits(max_pixels=60_000)).width_px == 300


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_webp_sizes_are_read_before_the_plug_in(lossless: bool, alpha: bool) -> None:
    image = Image.new("RGBA" if alpha else "RGB", (301, 203), (9, 9, 9, 99)[: 4 if alpha else 3])
    data = zoo.encode(image, "WEBP", lossless=lossless)
    with pytest.raises(BadPhoto, match="301 × 203"):
        decode(data, DecodeLimits(max_pixels=301 * 203 - 1))
    assert decode(data, DecodeLimits(max_pixels=301 * 203)).height_px == 203


def test_the_byte_limit_comes_first() -> None:
    with pytest.raises(BadPhoto, match="too_large_bytes"):
        decode(b"\xff\xd8\xff" + bytes(100), DecodeLimits(max_bytes=102))


def test_a_warning_about_a_bomb_is_an_error_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a server, where warnings are no errors
        with pytest.raises(BadPhoto, match="too_many_pixels"):
            decode(zoo.flat_png(12_000, 10_000))


def test_the_time_of_a_photo_has_a_zone() -> None:
    taken = "2021:07:03 14:05:06"
    assert decode(zoo.photo(exif=zoo.exif(taken=taken))).taken_at == datetime(
        2021, 7, 3, 14, 5, 6, tzinfo=UTC
    )
    tags = Image.Exif()
    tags.get_ifd(0x8769).update({0x9003: taken, 0x9011: "+02:00"})
    assert decode(zoo.photo(exif=tags.tobytes())).taken_at == datetime(
        2021, 7, 3, 12, 5, 6, tzinfo=UTC
    )
    assert decode(zoo.photo(exif=zoo.exif(taken="0000:00:00 00:00:00"))).taken_at is None
    assert decode(zoo.photo()).taken_at is None


def test_crop_is_cut_to_the_photo() -> None:
    rgb = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    assert np.array_equal(crop(rgb, (1, 2, 2, 2)), rgb[2:4, 1:3])
    assert np.array_equal(crop(rgb, (-3, -3, 5, 5)), rgb[:2, :2])
    assert np.array_equal(crop(rgb, (3, 4, 100, 100)), rgb[4:, 3:])
    with pytest.raises(ValueError, match=r"\(4, 0, 2, 2\).*4 × 5 px"):
        crop(rgb, (4, 0, 2, 2))
    with pytest.raises(ValueError, match="outside"):
        crop(rgb, (0, 0, 0, 3))


def test_thumbnails_keep_the_shape_and_nothing_else() -> None:
    data = thumbnail_jpeg(draw_photo(1, 300, 600), 200)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (200, 100))
    assert not image.getexif()
    assert Image.open(io.BytesIO(thumbnail_jpeg(draw_photo(1, 30, 20), 200))).size == (20, 30)
    assert Image.open(io.BytesIO(thumbnail_jpeg(draw_photo(1, 2, 3000), 100))).size == (100, 1)


def test_the_difference_hash_survives_scaling_and_tells_photos_apart() -> None:
    a, b = draw_photo(1), draw_photo(2)
    smaller = resize(a, (200, 300))
    distance = [((dhash64(x) ^ dhash64(a)) & (2**64 - 1)).bit_count() for x in (a, smaller, b)]
    assert distance[0] == 0
    assert distance[1] <= 4
    assert distance[2] >= 16
    assert -(2**63) <= dhash64(a) < 2**63


@pytest.mark.torch
@pytest.mark.parametrize("size", [(333, 500), (700, 512), (64, 64), (512, 512), (1500, 40)])
def test_resizing_equals_torchvision(size: tuple[int, int]) -> None:
    from models.torch_compat import load_torch

    load_torch()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    photo = draw_photo(4, *size)
    image = Image.fromarray(photo)
    plain = Preprocessing(512, 512, "bilinear", *IMAGENET)
    assert np.array_equal(plain.apply(photo), np.asarray(Resize((512, 512))(image)))
    clip = Preprocessing(224, 224, "bicubic", *IMAGENET, fit="crop")
    theirs = Compose([Resize(224, interpolation=InterpolationMode.BICUBIC), CenterCrop(224)])
    assert np.array_equal(clip.apply(photo), np.asarray(theirs(image)))


@pytest.mark.torch
def test_the_gates_preprocessing_is_that_of_open_clip() -> None:
    import torch

    from models.recipes import load_registry
    from models.torch_compat import load_open_clip

    open_clip = load_open_clip()
    transform = open_clip.image_transform(224, is_train=False)
    ours = load_registry()["openclip-vit-b-32"].preprocessing
    assert ours is not None
    photo = draw_photo(6)
    pixels = torch.from_numpy(ours.apply(photo)).permute(2, 0, 1) / 255.0
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (ours.mean, ours.std))
    assert torch.allclose((pixels - mean) / std, transform(Image.fromarray(photo)), atol=1e-6)


def test_preprocessing_survives_its_dictionary() -> None:
    clip = Preprocessing(224, 224, "bicubic", *IMAGENET, fit="crop")
    assert Preprocessing.from_dict(clip.as_dict()) == clip
    with pytest.raises(TypeError, match="unexpected"):
        Preprocessing.from_dict(clip.as_dict() | {"blur": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_px": 0}, "not positive"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"fit": "crop", "width_px": 100}, "square"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"mean": (1.0,)}, "three values"),
    ],
)
def test_impossible_preprocessing_is_refused(change: dict[str, object], message: str) -> None:
    fields = Preprocessing(64, 64, "bilinear", *IMAGENET).as_dict() | change
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(fields)


def test_a_tiff_that_lists_a_million_pages_is_answered_at_once() -> None:
    """A chain of page headers is not walked to its end."""
    head = b"II*\0" + (8).to_bytes(4, "little")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.update({256: 1, 257: 1, 258: (8,), 259: 1, 262: 1, 273: (8,), 277: 1, 278: 1, 279: (1,)})
    page = tags.tobytes(8)
    count = 40_000
    pages = b"".join(
        page[:-4] + (8 + len(page) * (i + 1)).to_bytes(4, "little") for i in range(count)
    )
    with pytest.raises(BadPhoto) as caught:
        decode(head + pages + page)
    assert caught.value.code == "animated"


# ---------------------------------------------------------------- what the header tells


def with_exif(artist: object = None, gps: dict[int, object] | None = None) -> bytes:
    exif = Image.Exif()
    if artist is not None:
        exif[0x013B] = artist
    if gps is not None:
        exif[0x8825] = gps
    return zoo.photo(exif=exif.tobytes())


HERE = {1: "S", 2: (41.0, 30.0, 36.0), 3: "E", 4: (174.0, 0.0, 9.0)}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_position_and_photographer_are_read_from_every_format(form: str) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x8825] = "Ana Kahu", HERE
    photo = decode(zoo.encode(zoo.picture(1), form, exif=exif.tobytes()))
    assert (photo.latitude, photo.longitude) == (-41.51, 174.0025)
    assert photo.photographer == "Ana Kahu"


def test_a_photo_without_exif_tells_nothing() -> None:
    photo = decode(zoo.photo())
    told = (photo.taken_at, photo.latitude, photo.longitude, photo.photographer)
    assert told == (None,) * 4


@pytest.mark.parametrize(
    "broken",
    [
        {1: "S", 2: (41.0, 30.0, 36.0)},
        HERE | {2: (95.0, 0.0, 0.0)},
        HERE | {4: (180.0, 0.0, 1.0)},
        HERE | {2: (41.0, 75.0, 0.0)},
        HERE | {1: "X"},
        HERE | {1: ""},
        HERE | {2: (41.0, 30.0)},
        HERE | {2: (TiffImagePlugin.IFDRational(0, 0), 0.0, 0.0)},
        HERE | {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
        {},
    ],
)
def test_half_a_position_or_an_impossible_one_is_none(broken: dict[int, object]) -> None:
    photo = decode(with_exif(gps=broken))
    assert (photo.latitude, photo.longitude) == (None, None)


def test_on_the_equator_is_a_position() -> None:
    photo = decode(with_exif(gps=HERE | {2: (0.0, 0.0, 0.0)}))
    assert (photo.latitude, photo.longitude) == (0.0, 174.0025)


@pytest.mark.parametrize(
    ("artist", "read"),
    [
        ("  Ana\x00", "Ana"),
        ("Jürgen".encode(), "Jürgen"),
        ("Ирина".encode(), "Ирина"),
        ("J\xfcrgen".encode("latin-1"), "Jürgen"),
        ("Ana\r\n<b>Kahu</b>\x07", "Ana <b>Kahu</b>"),
        ("\x00\x00", None),
        ("   ", None),
        ("x" * 5000, "x" * 200),
    ],
)
def test_the_photographer_is_one_clean_line(artist: object, read: str | None) -> None:
    assert decode(with_exif(artist)).photographer == read


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_anywhere_in_the_header_is_no_error() -> None:
    data = with_exif("Ana", HERE)
    start, end = data.index(b"Exif\0\0") + 6, data.index(b"\xff\xdb")
    for position in range(start, end):
        for bits in (0xFF, 0x80, 0x01):
            damaged = bytearray(data)
            damaged[position] ^= bits
            photo = decode(bytes(damaged))
            assert photo.width_px in (64, 96)
            assert (photo.latitude is None) == (photo.longitude is None)


@pytest.mark.parametrize("kind", ["thumbnail", "crop"])
def test_nothing_of_the_header_is_in_a_derived_picture(kind: str) -> None:
    """What is served tells neither where nor by whom a photo was taken."""
    photo = decode(with_exif("Ana Kahu", HERE))
    rgb = photo.rgb if kind == "thumbnail" else crop(photo.rgb, (4, 4, 40, 30))
    made = thumbnail_jpeg(rgb, 64)
    assert b"Exif" not in made
    assert b"Kahu" not in made
    assert len(Image.open(io.BytesIO(made)).getexif()) == 0
