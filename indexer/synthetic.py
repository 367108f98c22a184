"""Owns the drawn flukes: individuals, encounters, negatives, and the demo catalogue made of them.

A drawn individual is a humpback-like tail seen from behind: its outline, the notches of its
trailing edge, the pigmentation of its underside and its scars stay the same for ever. An encounter
(`Scene`) changes everything else: light, tilt, perspective, distance, blur, grain, spray, cropping,
water.
Only numpy and Pillow are used, and every drawing follows from its seeds alone.

Lengths on the animal are in half-spans (centre to tip = 1); u runs to the right, v upwards. Lengths
in a photo are fractions of its width or height, so a drawing looks the same at every size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Rgb = tuple[float, float, float]
Point = tuple[float, float]
FloatImage = NDArray[np.float32]
Shape = tuple[tuple[Point, ...], Rgb]
NegativeKind = Literal["sea", "boat", "bird", "text", "blank"]

NEGATIVE_KINDS: Final[tuple[NegativeKind, ...]] = get_args(NegativeKind)
PHOTO_SIZE_PX: Final = (640, 480)

# What a texture covers, in half-spans, and the shape of the pigment lattice over it.
_U_MAX: Final = 1.15
_V_MIN: Final = -0.85
_V_MAX: Final = 0.60
_PIGMENT_ROWS: Final = 6
_PIGMENT_COLS: Final = 14

# Separate streams for separate purposes, so that no seed of one is ever a seed of another.
_STREAM_FLUKE: Final = 1
_STREAM_ENCOUNTER: Final = 2
_STREAM_PHOTO: Final = 3
_STREAM_NEGATIVE: Final = 4
_STREAM_TEXTURE: Final = 6


def stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


# --- individual


@dataclass(frozen=True, slots=True)
class Notch:
    """A bite out of the trailing edge; `at` in 0 (median notch) … 1 (tip), sizes in half-spans."""

    lobe: Literal[-1, 1]
    at: float
    width: float
    depth: float


@dataclass(frozen=True, slots=True)
class Scar:
    """A curved line through three points; `tone` 0 is dark, 1 is white."""

    points: tuple[Point, Point, Point]
    width: float
    tone: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A round mark (a barnacle scar when `ring`); `tone` 0 is dark, 1 is white."""

    centre: Point
    radius: float
    tone: float
    ring: bool


@dataclass(frozen=True, slots=True)
class Lobe:
    """The outline of one half of the tail, all in half-spans."""

    length: float
    tip: float
    shoulder: float
    fullness: float
    sweep: float
    curl: float


@dataclass(frozen=True, slots=True)
class Fluke:
    """One individual: everything about it that never changes.

    `pigment` is a lattice (6 rows top to bottom × 14 columns left to right, unit variance) of what
    is white and what is dark; where the interpolated lattice exceeds `darkness` the skin is white.
    """

    seed: int
    left: Lobe
    right: Lobe
    median_notch: float
    stock: float
    scallop: float
    pigment: tuple[tuple[float, ...], ...]
    darkness: float
    white_tone: float
    notches: tuple[Notch, ...]
    scars: tuple[Scar, ...]
    spots: tuple[Spot, ...]

    @classmethod
    def from_seed(cls, seed: int) -> Fluke:
        """The individual of this seed, the same on every machine."""
        rng = stream(_STREAM_FLUKE, seed)
        shape = rng.normal(0.0, 1.0, 6)
        lobes = [_lobe(shape + 0.25 * rng.normal(0.0, 1.0, 6)) for _ in range(2)]
        both = rng.normal(0.0, 1.0, (_PIGMENT_ROWS, _PIGMENT_COLS // 2))
        own = rng.normal(0.0, 1.0, (_PIGMENT_ROWS, _PIGMENT_COLS))
        lattice = math.sqrt(0.3) * np.concatenate([both[:, ::-1], both], axis=1)
        lattice += math.sqrt(0.7) * own
        return cls(
            seed=seed,
            left=lobes[0],
            right=lobes[1],
            median_notch=float(rng.uniform(0.05, 0.17)),
            stock=float(rng.uniform(0.075, 0.11)),
            scallop=float(rng.uniform(0.004, 0.02)),
            pigment=tuple(tuple(float(value) for value in row) for row in lattice),
            darkness=float(rng.uniform(-0.4, 0.35)),
            white_tone=float(rng.uniform(0.78, 0.95)),
            notches=tuple(_notches(rng)),
            scars=tuple(_scars(rng)),
            spots=tuple(_spots(rng)),
        )


def _lobe(z: NDArray[np.float64]) -> Lobe:
    z = np.clip(z, -2.0, 2.0)
    return Lobe(
        length=float(1.0 + 0.03 * z[0]),
        tip=float(0.17 + 0.06 * z[1]),
        shoulder=float(0.29 + 0.03 * z[2]),
        fullness=float(4.5 + 1.2 * z[3]),
        sweep=float(1.25 + 0.12 * z[4]),
        curl=float(0.03 * z[5]),
    )


def _notches(rng: np.random.Generator) -> Iterator[Notch]:
    sides: tuple[Literal[-1, 1], Literal[-1, 1]] = (-1, 1)
    for side in sides:
        for _ in range(int(rng.integers(0, 4))):
            yield Notch(
                lobe=side,
                at=float(rng.uniform(0.14, 0.82)),
                width=float(rng.uniform(0.03, 0.07)),
                depth=float(rng.uniform(0.05, 0.13)),
            )


def _on_lobe(rng: np.random.Generator) -> Point:
    u = float(rng.uniform(0.12, 0.82)) * (1 if rng.random() < 0.5 else -1)
    low, high = -0.30 + 0.48 * abs(u), 0.24
    return u, float(rng.uniform(low, high))


def _scars(rng: np.random.Generator) -> Iterator[Scar]:
    """Long single scars, and rakes: a few parallel lines as killer whales' teeth leave them."""
    for _ in range(int(rng.integers(1, 4))):
        (u, v), angle = _on_lobe(rng), float(rng.uniform(0.0, math.pi))
        length, bow = float(rng.uniform(0.12, 0.3)), float(rng.uniform(-0.05, 0.05))
        yield _scar((u, v), angle, length, bow, float(rng.uniform(0.008, 0.02)), rng.random() < 0.7)
    for _ in range(int(rng.integers(0, 3))):
        (u, v), angle = _on_lobe(rng), float(rng.uniform(0.0, math.pi))
        gap, light = float(rng.uniform(0.022, 0.035)), rng.random() < 0.6
        length, bow = float(rng.uniform(0.12, 0.24)), float(rng.uniform(-0.03, 0.03))
        for line in range(int(rng.integers(3, 6))):
            start = (u - gap * line * math.sin(angle), v + gap * line * math.cos(angle))
            yield _scar(start, angle, length * float(rng.uniform(0.75, 1.0)), bow, 0.008, light)


def _scar(
    centre: Point, angle: float, length: float, bow: float, width: float, light: bool
) -> Scar:
    along = (0.5 * length * math.cos(angle), 0.5 * length * math.sin(angle))
    middle = (centre[0] - bow * math.sin(angle), centre[1] + bow * math.cos(angle))
    return Scar(
        points=(
            (centre[0] - along[0], centre[1] - along[1]),
            middle,
            (centre[0] + along[0], centre[1] + along[1]),
        ),
        width=width,
        tone=0.85 if light else 0.05,
    )


def _spots(rng: np.random.Generator) -> Iterator[Spot]:
    for _ in range(int(rng.integers(3, 9))):
        yield Spot(
            centre=_on_lobe(rng),
            radius=float(rng.uniform(0.018, 0.055)),
            tone=0.85 if rng.random() < 0.5 else 0.05,
            ring=bool(rng.random() < 0.4),
        )


# --- encounter

# Sky above, sky at the horizon, deep water, lit water, colour of the light.
_LIGHTS: Final[tuple[tuple[Rgb, Rgb, Rgb, Rgb, Rgb], ...]] = (
    ((146, 158, 168), (205, 210, 212), (52, 70, 82), (136, 150, 158), (1.0, 1.0, 1.0)),
    ((92, 142, 198), (190, 212, 228), (20, 62, 104), (86, 142, 184), (1.03, 1.01, 0.96)),
    ((128, 130, 160), (244, 196, 150), (44, 54, 78), (196, 160, 136), (1.12, 0.98, 0.82)),
    ((150, 178, 186), (214, 226, 222), (22, 78, 84), (96, 158, 158), (0.98, 1.02, 1.0)),
    ((176, 180, 184), (196, 199, 202), (84, 94, 100), (150, 158, 162), (0.97, 0.99, 1.03)),
    ((70, 92, 130), (150, 160, 178), (16, 30, 52), (70, 90, 116), (0.90, 0.97, 1.10)),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """The conditions of one photo: those of its encounter, and a little of its own.

    Angles in degrees, `span` and `blur` in fractions of the photo's width, `centre` and `horizon`
    in fractions of width and height, `grain` in grey levels of a 640 px wide photo, `rise` in
    half-spans between the water and the middle of the tail.
    """

    seed: int
    photo: int
    sky_top: Rgb
    sky_low: Rgb
    water_deep: Rgb
    water_lit: Rgb
    light: Rgb
    sun: float
    exposure: float
    contrast: float
    horizon: float
    waves: float
    span: float
    centre: Point
    rise: float
    roll_deg: float
    yaw_deg: float
    pitch_deg: float
    foam: float
    spray: float
    haze: float
    blur: float
    grain: float

    @classmethod
    def from_seed(cls, seed: int, *, photo: int = 0, difficulty: float = 1.0) -> Scene:
        """Conditions of photo number `photo` of encounter `seed`.

        `difficulty` scales what makes matching hard: pose, light, haze, blur, spray, cropping
        (0 = a calm, centred, square view; 1 = the demo; above 1 = worse than the demo).
        """
        day = stream(_STREAM_ENCOUNTER, seed)
        shot = stream(_STREAM_PHOTO, seed, photo)
        hard = float(difficulty)

        def vary(encounter: float, own: float) -> float:
            """A value around 0: uniform over the encounters, plus a share of this photo's own."""
            return hard * float(day.uniform(-encounter, encounter) + shot.uniform(-own, own))

        weights = day.dirichlet(np.full(len(_LIGHTS), 0.35))
        mixed = np.tensordot(weights, np.asarray(_LIGHTS), axes=1)
        mixed[:4] *= 1.0 + 0.12 * day.uniform(-1.0, 1.0, (4, 1))
        mixed[:4] += day.uniform(-8.0, 8.0, (4, 3))
        colours = [_rgb(row) for row in mixed]
        return cls(
            seed=seed,
            photo=photo,
            sky_top=colours[0],
            sky_low=colours[1],
            water_deep=colours[2],
            water_lit=colours[3],
            light=colours[4],
            sun=float(day.uniform(-1.0, 1.0)),
            exposure=math.exp(vary(0.22, 0.06)),
            contrast=1.0 + vary(0.12, 0.03),
            horizon=0.22 + float(day.uniform(-0.3, 0.2)) + float(shot.uniform(-0.03, 0.03)),
            waves=float(day.uniform(0.5, 1.4)),
            span=0.44 + vary(0.03, 0.012),
            centre=(0.5 + vary(0.025, 0.015), 0.45 + vary(0.025, 0.015)),
            rise=0.50 + vary(0.06, 0.03),
            roll_deg=vary(4.5, 2.0),
            yaw_deg=vary(14.0, 4.0),
            pitch_deg=vary(11.0, 4.0),
            foam=float(day.uniform(0.4, 1.0)),
            spray=hard * float(day.uniform(0.0, 0.5) * shot.uniform(0.2, 1.0)),
            haze=hard * float(day.uniform(0.0, 0.25)),
            blur=hard * float(day.uniform(0.0, 0.0025) + shot.uniform(0.0, 0.0012)),
            grain=float(day.uniform(1.0, 6.0)),
        )


def _rgb(values: NDArray[np.float64]) -> Rgb:
    return float(values[0]), float(values[1]), float(values[2])


# --- drawing


def _noise(
    rng: np.random.Generator, cells: tuple[int, int], size_px: tuple[int, int]
) -> FloatImage:
    """Smooth noise of about unit variance, (H, W) float32; `cells` are (columns, rows)."""
    lattice = rng.standard_normal((cells[1], cells[0]), dtype=np.float32)
    return _enlarge(lattice, size_px)


def _enlarge(lattice: FloatImage, size_px: tuple[int, int]) -> FloatImage:
    resized = Image.fromarray(lattice).resize(size_px, Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)


def _ramp(values: FloatImage) -> FloatImage:
    """Smoothstep of values clipped to 0…1."""
    clipped = np.clip(values, 0.0, 1.0)
    return clipped * clipped * (3.0 - 2.0 * clipped)


def _edges(fluke: Fluke, u: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Trailing and leading edge (v of each) over the columns `u` (W,) float32."""
    trailing, leading = np.empty_like(u), np.empty_like(u)
    for side, lobe in ((-1, fluke.left), (1, fluke.right)):
        half = (u * side) >= 0.0
        a = np.clip(np.abs(u[half]) / lobe.length, 0.0, 1.0)
        curl = lobe.curl * a**3
        inner = lobe.shoulder - fluke.median_notch * np.exp(-a / 0.045)
        edge = lobe.tip + (inner - lobe.tip) * (1.0 - a**lobe.fullness) + curl
        edge -= 0.07 * np.sin(np.pi * np.clip((a - 0.15) / 0.85, 0.0, 1.0)) * (a > 0.15)
        teeth = stream(_STREAM_TEXTURE, fluke.seed, side + 1).uniform(0.0, 1.0, 23)
        ripple = np.interp(a * 22.0, np.arange(23), teeth)
        edge -= fluke.scallop * ripple * (1.0 - a)
        for notch in fluke.notches:
            if notch.lobe == side:
                bite = np.clip(1.0 - np.abs(a - notch.at) / notch.width, 0.0, 1.0)
                edge -= notch.depth * bite**0.8 * np.clip((1.0 - a) / 0.45, 0.0, 1.0)
        lead = lobe.tip - (lobe.tip + 0.40) * (1.0 - a) ** lobe.sweep + curl
        lead -= 0.05 * np.sin(np.pi * a**1.3)
        trailing[half], leading[half] = edge, lead
    return trailing, leading


@lru_cache(maxsize=64)
def flat_tail(fluke: Fluke, width_px: int) -> Image.Image:
    """The tail laid flat, as an RGB image: coverage, pigment (0 dark … 255 white), depth inside."""
    height_px = round(width_px * (_V_MAX - _V_MIN) / (2.0 * _U_MAX))
    per_unit = width_px / (2.0 * _U_MAX)
    u = ((np.arange(width_px, dtype=np.float32) + 0.5) / per_unit - _U_MAX).astype(np.float32)
    v = (_V_MAX - (np.arange(height_px, dtype=np.float32) + 0.5) / per_unit).astype(np.float32)
    trailing, leading = _edges(fluke, u)
    depth = np.minimum(v[:, None] - leading[None, :], trailing[None, :] - v[:, None])
    thin = np.clip((1.0 - np.abs(u) / np.where(u < 0, fluke.left.length, fluke.right.length)), 0, 1)
    depth = np.where(thin[None, :] > 0.0, depth, np.float32(-1.0))
    girth = fluke.stock + 0.25 * np.clip(-0.38 - v, 0.0, 1.0)[:, None]
    stock = np.minimum(girth - np.abs(u)[None, :], 0.1 - v[:, None])
    inside = np.maximum(depth, stock)
    coverage = np.clip(inside * per_unit + 0.5, 0.0, 1.0)

    fine = _noise(stream(_STREAM_TEXTURE, fluke.seed, 3), (64, 40), (width_px, height_px))
    field = _enlarge(np.asarray(fluke.pigment, dtype=np.float32), (width_px, height_px))
    field = field + 0.16 * fine - np.float32(fluke.darkness)
    field -= 2.0 * np.exp(-((u / 0.11) ** 2))[None, :] + 2.5 * np.clip(-0.25 - v, 0.0, 1.0)[:, None]
    white = _ramp(field / 0.30 + 0.5)
    pigment = 0.05 + (fluke.white_tone - 0.05) * white + 0.03 * fine
    marks, cover = _marks(fluke, width_px, height_px)
    pigment = pigment + (marks - pigment) * cover
    rim = np.clip(inside / 0.10, 0.0, 1.0)
    planes = np.stack([coverage, np.clip(pigment, 0.0, 1.0), rim], axis=-1)
    return Image.fromarray((planes * 255.0 + 0.5).astype(np.uint8))


def _marks(fluke: Fluke, width_px: int, height_px: int) -> tuple[FloatImage, FloatImage]:
    """Tone of the scars and spots, and how much they cover, both (H, W) float32 in 0…1."""
    fine = 3
    canvas = Image.new("RGB", (width_px * fine, height_px * fine))
    pen = ImageDraw.Draw(canvas)
    per_unit = width_px * fine / (2.0 * _U_MAX)

    def place(point: Point) -> Point:
        return (point[0] + _U_MAX) * per_unit, (_V_MAX - point[1]) * per_unit

    for spot in fluke.spots:
        x, y = place(spot.centre)
        radius, tone = spot.radius * per_unit, round(spot.tone * 255)
        box = (x - radius, y - radius * 0.8, x + radius, y + radius * 0.8)
        if spot.ring:
            pen.ellipse(box, outline=(tone, 235, 0), width=max(1, round(radius * 0.4)))
        else:
            pen.ellipse(box, fill=(tone, 235, 0))
    for scar in fluke.scars:
        first, middle, last = scar.points
        steps = np.linspace(0.0, 1.0, 9)
        curve = [
            place(
                (
                    (1 - t) ** 2 * first[0] + 2 * t * (1 - t) * middle[0] + t * t * last[0],
                    (1 - t) ** 2 * first[1] + 2 * t * (1 - t) * middle[1] + t * t * last[1],
                )
            )
            for t in steps.tolist()
        ]
        fill = (round(scar.tone * 255), 225, 0)
        pen.line(curve, fill=fill, width=max(1, round(scar.width * per_unit)), joint="curve")
    planes = np.asarray(canvas.reduce(fine), dtype=np.float32) / np.float32(255.0)
    cover = planes[..., 1]
    tone = planes[..., 0] * np.float32(0.92) / np.maximum(cover, 0.02)
    return np.clip(tone, 0.0, 1.0), cover


def _homography(scene: Scene, size_px: tuple[int, int], texture_px: tuple[int, int]) -> FloatImage:
    """3 × 3 map from photo pixels to texture pixels: the tail plane, turned, seen from a boat."""
    width, height = size_px
    roll, yaw, pitch = (
        math.radians(angle) for angle in (scene.roll_deg, scene.yaw_deg, scene.pitch_deg)
    )
    turn_z = np.array(
        [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    )
    turn_y = np.array(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    )
    turn_x = np.array(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    )
    turned = turn_z @ turn_y @ turn_x
    away = 3.2
    focal = scene.span * width * away
    eye = np.column_stack([turned[:, 0], turned[:, 1], np.array([0.0, 0.0, away])])
    camera = np.array(
        [
            [focal, 0.0, scene.centre[0] * width],
            [0.0, -focal, scene.centre[1] * height],
            [0.0, 0.0, 1.0],
        ]
    )
    per_unit = texture_px[0] / (2.0 * _U_MAX)
    to_texture = np.array(
        [[per_unit, 0.0, _U_MAX * per_unit], [0.0, -per_unit, _V_MAX * per_unit], [0, 0, 1.0]]
    )
    plane_to_photo = camera @ eye
    rows = plane_to_photo
    inverse = np.column_stack(
        [np.cross(rows[1], rows[2]), np.cross(rows[2], rows[0]), np.cross(rows[0], rows[1])]
    )
    mapped = to_texture @ inverse
    return np.asarray(mapped / mapped[2, 2], dtype=np.float32)


def _blend(low: Rgb, high: Rgb, share: FloatImage) -> FloatImage:
    """(…,) shares in 0…1 → (…, 3) colours between two colours, float32."""
    first, second = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    return first + (second - first) * share[..., None]


def _backdrop(scene: Scene, size_px: tuple[int, int]) -> FloatImage:
    """Sky and sea without anything in it, (H, W, 3) float32 in grey levels."""
    width, height = size_px
    rng = stream(_STREAM_TEXTURE, scene.seed, scene.photo, 7)
    line = min(height - 2, round(scene.horizon * height))
    photo = np.empty((height, width, 3), dtype=np.float32)
    far = np.linspace(scene.horizon, 1.0, 2)[0]
    if line > 0:
        cloud = _noise(rng, (5, 4), (width, line))
        up = np.linspace(1.0, 0.0, line, dtype=np.float32)[:, None]
        photo[:line] = _blend(scene.sky_low, scene.sky_top, np.clip(up + 0.13 * cloud, 0.0, 1.0))
    top = max(line, 0)
    rows = height - top
    # Rows crowd towards the horizon, as waves do.
    near = np.linspace(max(0.0, -far), 1.0, rows, dtype=np.float32)
    source = np.minimum((near**0.5 * rows).astype(np.intp), rows - 1)
    swell = _noise(rng, (7, 16), (width, rows))
    chop = _noise(rng, (22, 48), (width, rows))
    ripple = _noise(rng, (64, 90), (width, rows))
    waves = (0.55 * swell + 0.5 * chop)[source] * (0.5 + 0.5 * near)[:, None]
    waves += 0.32 * ripple[source]
    lit = 0.36 + 0.22 * np.float32(scene.waves) * waves + 0.34 * np.exp(-near / 0.1)[:, None]
    sea = _blend(scene.water_deep, scene.water_lit, np.clip(lit, 0.0, 1.15))
    glint = _ramp((waves * np.float32(scene.waves) - 1.05) / 0.6) * 0.55
    sea += (np.asarray(scene.sky_low, dtype=np.float32) - sea) * glint[..., None]
    photo[top:] = sea
    return photo


def _develop(photo: FloatImage, scene: Scene) -> NDArray[np.uint8]:
    """Exposure, contrast, blur and grain: from light to a photo, (H, W, 3) uint8."""
    height, width = photo.shape[:2]
    rng = stream(_STREAM_TEXTURE, scene.seed, scene.photo, 8)
    photo = (photo * np.float32(scene.exposure) - 118.0) * np.float32(scene.contrast) + 118.0
    sharp = Image.fromarray(np.clip(photo + 0.5, 0.0, 255.0).astype(np.uint8))
    soft = sharp.filter(ImageFilter.GaussianBlur(scene.blur * width))
    grain = rng.standard_normal((height, width), dtype=np.float32)
    grain *= np.float32(scene.grain * math.sqrt(width / 640.0))
    final: FloatImage = np.asarray(soft, dtype=np.float32) + grain[..., None] + np.float32(0.5)
    return np.clip(final, 0.0, 255.0).astype(np.uint8)


def draw_fluke(
    fluke: Fluke, scene: Scene, *, size_px: tuple[int, int] = PHOTO_SIZE_PX
) -> NDArray[np.uint8]:
    """One photo of one individual: (H, W, 3) uint8 RGB, `size_px` as (W, H)."""
    width, height = size_px
    rng = stream(_STREAM_TEXTURE, scene.seed, scene.photo, 9)
    photo = _backdrop(scene, size_px)

    texture = flat_tail(fluke, 16 * max(4, round(width * 0.9 / 16)))
    mapped = _homography(scene, size_px, texture.size)
    planes = texture.transform(
        size_px,
        Image.Transform.PERSPECTIVE,
        tuple(mapped.ravel()[:8].tolist()),
        resample=Image.Resampling.BILINEAR,
    )
    warped = np.asarray(planes, dtype=np.float32) * np.float32(1.0 / 255.0)
    coverage, pigment, rim = warped[..., 0], warped[..., 1], warped[..., 2]

    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    y = (np.arange(height, dtype=np.float32) + 0.5) / width
    level = scene.centre[1] * height / width + scene.span * scene.rise
    across: FloatImage = ((x - scene.centre[0]) / scene.span).astype(np.float32)
    below: FloatImage = ((y - level) / scene.span).astype(np.float32)
    lap = _noise(rng, (14, 1), (width, 1))[0]
    surface = np.float32(level) + 0.006 * lap + 0.012 * np.exp(-((across / 0.25) ** 2))
    above = np.clip((surface[None, :] - y[:, None]) * width * 0.5 + 0.5, 0.0, 1.0)
    coverage = coverage * above

    _shadow_and_drips(photo, rng, coverage, (across, below))
    sheen = _noise(rng, (9, 7), (width, height))
    box = _box(coverage)
    skin = _skin(scene, sheen[box], pigment[box], rim[box], across[box[1]])
    photo[box] += (skin - photo[box]) * coverage[box][..., None]
    _foam(photo, scene, rng, (across, below))
    if scene.haze > 0.0:
        veil = np.float32(scene.haze)
        photo += (np.asarray(scene.sky_low, dtype=np.float32) - photo) * veil
    return _develop(photo, scene)


def _box(cover: FloatImage) -> tuple[slice, slice]:
    """The rows and columns of (H, W) outside which `cover` is zero."""
    spans = []
    for axis in (1, 0):
        there = np.flatnonzero(cover.any(axis=axis))
        spans.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0))
    return spans[0], spans[1]


def _skin(
    scene: Scene, sheen: FloatImage, pigment: FloatImage, rim: FloatImage, across: FloatImage
) -> FloatImage:
    """Colour of wet skin under this light, (H, W, 3) float32."""
    side = 1.0 + 0.26 * np.float32(scene.sun) * np.clip(across, -1.2, 1.2)
    shade = (0.70 + 0.30 * rim) * side[None, :] + 0.05 * sheen
    colour: FloatImage = (
        _blend((26.0, 29.0, 34.0), (226.0, 230.0, 230.0), pigment) * shade[..., None]
    )
    colour *= np.asarray(scene.light, dtype=np.float32)
    gloss = 0.10 * np.clip(0.4 + 0.5 * sheen, 0.0, 1.0) * (1.0 - 0.6 * pigment)
    colour += np.asarray(scene.sky_low, dtype=np.float32) * gloss[..., None]
    return colour


def _shadow_and_drips(
    photo: FloatImage,
    rng: np.random.Generator,
    coverage: FloatImage,
    place: tuple[FloatImage, FloatImage],
) -> None:
    """Darken the water under the tail and let water run off its lower edge, in place."""
    height, width = coverage.shape
    across, below = place
    # Rows above this one keep their light, rows from `surface` on get no drop.
    top, surface = np.searchsorted(below, (-0.04, 0.0))
    row = below[top:]
    dark = np.exp(-((across / 0.75) ** 2))[None, :] * np.exp(-np.abs(row - 0.1) / 0.25)[:, None]
    photo[top:] *= (1.0 - 0.38 * dark * np.clip(row / 0.08 + 0.5, 0.0, 1.0)[:, None])[..., None]
    strands = _noise(rng, (70, 4), (width, height))
    air, skin = photo[:surface], coverage[:surface]
    under = np.maximum.accumulate(skin, axis=0) - skin
    fall = np.clip(-below[:surface] / 0.5, 0.0, 1.0)[:, None] * np.clip(
        4.0 - 5.0 * np.abs(across), 0.0, 1.0
    )
    drops = _ramp((strands[:surface] - 0.7) / 1.2) * under * fall * 0.25
    air += (np.float32(225.0) - air) * drops[..., None]


def _foam(
    photo: FloatImage,
    scene: Scene,
    rng: np.random.Generator,
    place: tuple[FloatImage, FloatImage],
) -> None:
    """White water where the tail leaves the sea, and spray in the air around it, in place."""
    height, width = photo.shape[:2]
    across, below = place
    lather = _noise(rng, (40, 60), (width, height)) + 0.7 * _noise(rng, (12, 22), (width, height))
    # Beyond these rows the ring is thinner than a thousandth.
    first, last = np.searchsorted(below, (0.02 - 0.26, 0.02 + 0.26))
    belt = photo[first:last]
    ring = (
        np.exp(-((across / 0.42) ** 2))[None, :]
        * np.exp(-(((below[first:last] - 0.02) / 0.07) ** 2))[:, None]
    )
    thick = 0.8 * lather[first:last] + 3.6 * ring * np.float32(scene.foam)
    white = _ramp((thick - 1.6) / 1.5) * np.sqrt(ring)
    belt += (np.asarray((236.0, 240.0, 242.0), dtype=np.float32) - belt) * white[..., None]
    if scene.spray > 0.02:
        mist = _noise(rng, (6, 5), (width, height))
        drops = _noise(rng, (110, 84), (width, height))
        thick = (
            np.exp(-((across / 1.1) ** 2))[None, :] * np.exp(-np.abs(below + 0.15) / 0.4)[:, None]
        )
        cover = thick * (0.35 * _ramp((mist + 0.4) / 2.0) + 0.8 * _ramp((drops - 1.5) / 0.7))
        cover = cover * np.float32(scene.spray)
        photo += (np.float32(232.0) - photo) * np.clip(cover, 0.0, 0.85)[..., None]


# --- negatives


def draw_negative(
    kind: NegativeKind, seed: int, *, size_px: tuple[int, int] = PHOTO_SIZE_PX
) -> NDArray[np.uint8]:
    """A photo without a whale: (H, W, 3) uint8 RGB, `size_px` as (W, H)."""
    rng = stream(_STREAM_NEGATIVE, NEGATIVE_KINDS.index(kind), seed)
    if kind == "text":
        return _page(rng, size_px)
    scene = Scene.from_seed(int(rng.integers(2**40)) | 1 << 41)
    if kind == "blank":
        return _develop(_wall(rng, size_px), scene)
    photo = _backdrop(scene, size_px)
    if kind == "boat":
        _add_shapes(photo, _boat(rng, scene))
    elif kind == "bird":
        _add_shapes(photo, _birds(rng))
    return _develop(photo, scene)


def _add_shapes(photo: FloatImage, shapes: list[Shape]) -> None:
    """Filled polygons (points in fractions of the width), drawn smooth-edged, in place."""
    height, width = photo.shape[:2]
    fine = 3
    scale = width * fine
    colour = Image.new("RGB", (width * fine, height * fine))
    cover = Image.new("L", colour.size)
    paint, stencil = ImageDraw.Draw(colour), ImageDraw.Draw(cover)
    for points, rgb in shapes:
        outline = [(x * scale, y * scale) for x, y in points]
        paint.polygon(outline, fill=(round(rgb[0]), round(rgb[1]), round(rgb[2])))
        stencil.polygon(outline, fill=255)
    share = np.asarray(cover.reduce(fine), dtype=np.float32)[..., None] / np.float32(255.0)
    paint_mean = np.asarray(colour.reduce(fine), dtype=np.float32) / np.maximum(share, 0.01)
    photo += (np.minimum(paint_mean, 255.0) - photo) * share


_PAINTS: Final[tuple[Rgb, ...]] = (
    (232, 232, 226),
    (38, 52, 84),
    (164, 48, 40),
    (46, 96, 84),
    (210, 158, 58),
    (96, 104, 112),
    (86, 136, 180),
    (44, 42, 44),
)


def _boat(rng: np.random.Generator, scene: Scene) -> list[Shape]:
    length = float(rng.uniform(0.25, 0.75))
    side = 1.0 if rng.random() < 0.5 else -1.0
    x0, y0 = float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.32, 0.55))
    y0 = max(y0, 0.75 * scene.horizon + 0.04)
    deep = length * float(rng.uniform(0.10, 0.2))

    def at(*points: Point) -> tuple[Point, ...]:
        return tuple((x0 + side * length * x, y0 + length * y) for x, y in points)

    hull, stripe, house = (_PAINTS[int(rng.integers(len(_PAINTS)))] for _ in range(3))
    drop = deep / length
    cabin, tall = float(rng.uniform(-0.3, 0.05)), float(rng.uniform(0.1, 0.22))
    wide = float(rng.uniform(0.15, 0.3))
    shapes: list[Shape] = [
        (at((-0.48, -drop), (0.52, -1.25 * drop), (0.38, 0.0), (-0.44, 0.0)), hull),
        (at((-0.45, -0.3 * drop), (0.42, -0.3 * drop), (0.38, 0.0), (-0.44, 0.0)), stripe),
        (
            at(
                (cabin, -drop),
                (cabin, -drop - tall),
                (cabin + wide, -drop - tall),
                (cabin + wide * 1.25, -drop),
            ),
            house,
        ),
    ]
    for pane in range(3):
        left = cabin + wide * (0.12 + 0.3 * pane)
        glass = at(
            (left, -drop - 0.8 * tall),
            (left + 0.2 * wide, -drop - 0.8 * tall),
            (left + 0.2 * wide, -drop - 0.45 * tall),
            (left, -drop - 0.45 * tall),
        )
        shapes.append((glass, (40.0, 52.0, 64.0)))
    if rng.random() < 0.6:
        mast, top = cabin + wide * 0.5, -drop - tall - float(rng.uniform(0.15, 0.5))
        pole = at((mast, -drop), (mast, top), (mast + 0.012, top), (mast + 0.012, -drop))
        shapes.append((pole, (70.0, 70.0, 72.0)))
        if rng.random() < 0.5:
            sail = at((mast + 0.02, top), (mast + 0.4, -drop - 0.05), (mast + 0.02, -drop - 0.05))
            shapes.append((sail, (236.0, 232.0, 224.0)))
    return shapes


def _birds(rng: np.random.Generator) -> list[Shape]:
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, 4))):
        x0, y0 = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.15, 0.6))
        reach, lean = float(rng.uniform(0.07, 0.26)), float(rng.uniform(-0.5, 0.5))
        lift, body = float(rng.uniform(-0.1, 0.5)), float(rng.uniform(0.06, 0.1))
        shade = float(rng.uniform(60.0, 235.0))
        colour = (shade, shade, shade * 1.01)
        for side in (-1.0, 1.0):
            wing = (
                (0.0, -body),
                (0.5 * side, -lift - 0.10),
                (1.0 * side, -0.35 * lift),
                (0.5 * side, -lift + 0.10),
                (0.1 * side, body),
            )
            turned = [(x - lean * y, y + lean * x) for x, y in wing]
            shapes.append((tuple((x0 + reach * x, y0 + reach * y) for x, y in turned), colour))
        oval = np.linspace(0.0, 2.0 * math.pi, 17)
        trunk = [(0.14 * math.cos(a), 2.6 * body * math.sin(a)) for a in oval.tolist()]
        shapes.append((tuple((x0 + reach * x, y0 + reach * y) for x, y in trunk), colour))
    return shapes


def _wall(rng: np.random.Generator, size_px: tuple[int, int]) -> FloatImage:
    """Nothing at all: one colour, at most a soft gradient."""
    width, height = size_px
    share = 0.5 + 0.5 * _noise(rng, (3, 3), (width, height))
    first = rng.uniform(5.0, 250.0, 3)
    second = first + rng.uniform(-25.0, 25.0, 3)
    return _blend(_rgb(first), _rgb(second), np.clip(share, 0.0, 1.0))


def _page(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """A page of invented words."""
    width, height = size_px
    paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 90))
    page = Image.new("RGB", (width, height), (paper, paper, max(0, paper - int(rng.integers(25)))))
    pen = ImageDraw.Draw(page)
    size = max(6.0, width * float(rng.uniform(0.022, 0.05)))
    font = ImageFont.load_default(size)
    margin = width * float(rng.uniform(0.03, 0.14))
    y = height * float(rng.uniform(-0.03, 0.1))
    while y < height:
        x = margin
        if rng.random() < 0.1:
            y += size
        end = width - margin if rng.random() < 0.85 else width * float(rng.uniform(0.3, 0.9))
        while x < end:
            word = spoken_word(rng, int(rng.integers(1, 5)))
            pen.text((x, y), word, fill=(ink, ink, ink), font=font)
            x += pen.textlength(word + " ", font=font)
        y += size * 1.35
    return np.asarray(page, dtype=np.uint8)


# --- words

_ONSETS: Final = ("b", "d", "f", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "tr")
_VOWELS: Final = ("a", "e", "i", "o", "u")
_ENDINGS: Final = ("", "", "", "n", "r", "l")


def _pick(rng: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]


def spoken_word(rng: np.random.Generator, syllables: int) -> str:
    spoken = "".join(_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(syllables))
    return spoken + _pick(rng, _ENDINGS)
