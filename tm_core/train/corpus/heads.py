"""Renders varied heads of the CC0 model anny: run as a script inside the environment of anny and moderngl.

`python heads.py FOLDER COUNT` writes anny_00.png ... (256 px), each another person: sex, age, origin, face shape,
skin, hair, eyes, clothes, light and background are drawn from the number. Where things are on the head (hairline,
brows, iris) is said in the coordinates of the average head, which every vertex carries along. Needs EGL (Mesa's
software renderer will do). Non-goals: photographic skin or hair; expressions, the faces are at rest.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

SIDE, DRAWN = 256, 768
AVERAGE = {"gender": 0.5, "age": 0.6}  # the head whose coordinates the shader speaks of
NEAR = 1.0  # metres from eye to face
HAIR = 1  # body mesh pushed outwards, drawn only where hair grows; 0 is the body itself, 2 is the long hair's own mesh
LONG_HAIR = (18722, 19149)  # vertices of MakeHuman's base mesh
SKINS = ((0.93, 0.72, 0.62), (0.86, 0.63, 0.50), (0.72, 0.49, 0.36), (0.52, 0.33, 0.23), (0.35, 0.21, 0.15))  # light to dark
HAIRS = (  # black to blond, red, grey
    (0.04, 0.03, 0.03), (0.09, 0.06, 0.04), (0.22, 0.12, 0.06), (0.45, 0.28, 0.13), (0.72, 0.56, 0.32), (0.42, 0.14, 0.06),
    (0.55, 0.55, 0.55),
)
EYES = ((0.20, 0.11, 0.05), (0.30, 0.20, 0.10), (0.25, 0.42, 0.30), (0.25, 0.42, 0.62), (0.35, 0.40, 0.42))
# face shape targets that stay plausible at this strength; l- stands for both sides
SHAPES = {
    "l-cheek-volume-incr": 0.5, "l-cheek-bones-incr": 0.6, "l-cheek-inner-incr": 0.5, "chin-height-incr": 0.5, "chin-width-incr": 0.6,
    "chin-prominent-incr": 0.4, "chin-bones-incr": 0.5, "chin-jaw-drop-incr": 0.4, "l-eye-scale-incr": 0.5, "l-eye-height2-incr": 0.4,
    "l-eye-corner1-up": 0.5, "l-eye-corner2-up": 0.4, "l-eye-trans-out": 0.4, "l-eye-eyefold-up": 0.4, "eyebrows-angle-up": 0.5,
    "eyebrows-trans-forward": 0.5, "forehead-scale-vert-incr": 0.4, "forehead-temple-incr": 0.4, "head-fat-incr": 0.4,
    "head-scale-horiz-incr": 0.35, "head-scale-vert-incr": 0.35, "head-age-incr": 0.3, "mouth-scale-horiz-incr": 0.45,
    "mouth-trans-up": 0.4,
    "mouth-upperlip-volume-incr": 0.5, "mouth-lowerlip-volume-incr": 0.5, "mouth-upperlip-height-incr": 0.4, "mouth-cupidsbow-incr": 0.5,
    "mouth-angles-up": 0.3, "nose-scale-vert-incr": 0.4, "nose-scale-horiz-incr": 0.5, "nose-width1-incr": 0.5, "nose-width2-incr": 0.5,
    "nose-width3-incr": 0.5, "nose-hump-incr": 0.5, "nose-point-up": 0.4, "nose-point-width-incr": 0.5, "nose-trans-forward": 0.4,
    "nose-base-up": 0.4, "l-ear-scale-incr": 0.5, "l-ear-flap-incr": 0.5, "neck-scale-horiz-incr": 0.4,
}


@dataclass(frozen=True, kw_only=True)
class HeadParameters:
    """One person: model parameters, then what the shader is told."""

    phenotype: dict[str, float]
    shape: dict[str, float]
    uniforms: dict[str, tuple[float, ...]]
    long_hair: bool
    turn: tuple[float, float]  # yaw and pitch of the camera in radians


def head_parameters(number: int) -> HeadParameters:
    """The person of a number."""
    rng = np.random.default_rng([7, number])
    female, origin = number % 2 == 0, number // 2 % 3  # african, asian, caucasian
    share = rng.dirichlet([0.4, 0.4, 0.4]) * 0.3
    share[origin] += 0.7
    age = float(rng.choice([0.45, 0.55, 0.65, 0.78, 0.92]))  # 0.33 is a child, 0.67 about 25 years, 1 is old
    tone = {0: rng.uniform(2.4, 4.0), 1: rng.uniform(0.5, 1.8), 2: rng.uniform(0.0, 1.2)}[origin]
    skin = _between(SKINS, float(tone))
    colours = {0: (0, 1), 1: (0, 1, 2), 2: (1, 2, 3, 4, 5)}[origin]
    hair = HAIRS[6] if age > 0.9 else HAIRS[int(rng.choice(colours))]
    long_hair = female and rng.random() < 0.7
    eyes = EYES[int(rng.choice([0, 1] if origin < 2 else [1, 2, 3, 4]))]
    rouge = np.array([0.62, 0.22, 0.22] if female and rng.random() < 0.5 else [0.70, 0.40, 0.36])
    lips = rouge * (0.35 + 0.65 * np.array(skin))
    angle, height = rng.uniform(-1.1, 1.1), rng.uniform(0.1, 0.8)
    warm = rng.uniform(-0.08, 0.08)
    base = rng.uniform(0.08, 0.85, 3)
    return HeadParameters(
        phenotype={
            "gender": 0.05 if female else 0.95, "age": age, "muscle": float(rng.uniform(0.35, 0.65)),
            "weight": float(rng.uniform(0.3, 0.7)), "height": 0.5,
            "proportions": float(rng.uniform(0.5, 0.9)), "african": float(share[0]), "asian": float(share[1]),
            "caucasian": float(share[2]),
        },
        shape={name: float(np.clip(rng.normal(), -1.6, 1.6) * 0.7 * spread) for name, spread in SHAPES.items()},
        uniforms={
            "skin": skin, "hair": hair, "iris": eyes, "lips": tuple(lips), "shirt": tuple(rng.uniform(0.05, 0.85, 3)),
            "light": (math.sin(angle), -math.cos(angle), height), "key": (1.0 + warm, 1.0, 1.0 - warm),
            "fill": (float(rng.uniform(0.25, 0.5)),), "stubble": (0.0 if female else float(rng.uniform(0, 0.6)),),
            "hairline": (float(rng.uniform(-0.006, 0.008)),), "parting": (float(rng.uniform(-0.03, 0.03)),),
            "thick": (float(rng.uniform(0.005, 0.018)),), "seed": (float(rng.uniform(0, 50)),),
            "high": tuple(base), "low": tuple(np.clip(base * rng.uniform(0.5, 1.2), 0, 1)), "brow": (float(rng.uniform(0.6, 1.2)),),
            "reach": (float(rng.uniform(0.48, 0.62)),),
        },
        long_hair=bool(long_hair), turn=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.03))))


def _between(table: tuple[tuple[float, ...], ...], at: float) -> tuple[float, ...]:
    i = min(int(at), len(table) - 2)
    return tuple(float(v) for v in np.array(table[i]) + (at - i) * (np.array(table[i + 1]) - np.array(table[i])))


VERTEX = """
#version 330
in vec3 place; in vec3 normal; in vec3 ref; in vec2 uv; in float part;
uniform mat4 camera; uniform int layer; uniform float thick;
out vec3 at; out vec3 facing; out vec3 home; out vec2 tex; out float kind;
void main() {
    vec3 p = place + (layer == 1 ? normal * thick : vec3(0));
    at = p; facing = normal; home = ref; tex = uv; kind = part;
    gl_Position = camera * vec4(p, 1);
}
"""

FRAGMENT = """
#version 330
in vec3 at; in vec3 facing; in vec3 home; in vec2 tex; in float kind;
uniform int layer; uniform vec3 eye, skin, hair, iris, lips, shirt, light, key, pupils;
uniform float fill, stubble, hairline, parting, seed, brow, reach;
uniform sampler2D lipmap;
out vec4 colour;
float hash(vec3 p) { return fract(sin(dot(p, vec3(127.1, 311.7, 74.7)) + seed) * 43758.5453); }
float noise(vec3 p) {
    vec3 i = floor(p), f = fract(p); f = f * f * (3.0 - 2.0 * f);
    float a = mix(mix(hash(i), hash(i + vec3(1,0,0)), f.x), mix(hash(i + vec3(0,1,0)), hash(i + vec3(1,1,0)), f.x), f.y);
    float b = mix(mix(hash(i + vec3(0,0,1)), hash(i + vec3(1,0,1)), f.x), mix(hash(i + vec3(0,1,1)), hash(i + vec3(1,1,1)), f.x), f.y);
    return mix(a, b, f.z);
}
float edge(float y) {  // height at which hair begins, from the forehead (y = -0.21) to the neck
    if (y < -0.17) return mix(0.782, 0.770, clamp((y + 0.21) / 0.04, 0.0, 1.0));
    if (y < -0.135) return mix(0.770, 0.725, (y + 0.17) / 0.035);
    if (y < -0.09) return mix(0.725, 0.738, (y + 0.135) / 0.045);
    if (y < -0.04) return mix(0.738, 0.64, (y + 0.09) / 0.05);
    return 0.62;
}
float hairy(vec3 p) {
    float ragged = 0.006 * (noise(p * vec3(400, 400, 120)) - 0.5) + 0.004 * (noise(p * 90.0) - 0.5);
    if (abs(p.x) > 0.077 && p.z < 0.745 && p.y < -0.085) return -1.0;  // ears
    float side = 0.9 * abs(p.x - parting) * abs(p.x - parting);
    return p.z - edge(p.y) - hairline + side + ragged;
}
void main() {
    vec3 n = normalize(facing), v = normalize(eye - at), l = normalize(light);
    if (dot(n, v) < 0.0 && layer == 2) n = -n;
    vec3 base = skin; float shine = 0.18, rough = 18.0;
    float mottle = 0.5 * noise(home * 130.0) + 0.3 * noise(home * 420.0) + 0.2 * noise(home * 1100.0);
    float strand = noise(home * vec3(900, 300, 60)) * 0.6 + noise(home * vec3(2200, 700, 150)) * 0.4;
    if (layer > 0) {
        if (layer == 1 && (hairy(home) < 0.0 || kind > 0.5)) discard;
        if (layer == 2 && (home.z < reach + 0.03 * strand || home.y < -0.135 + 0.02 * noise(home * 40.0))) discard;
        base = hair * (0.55 + 0.9 * strand) + 0.02; shine = 0.22; rough = 14.0;
    } else if (kind > 1.5) {
        base = vec3(0.35, 0.12, 0.11);
    } else if (kind > 0.5) {
        float r = length(vec2(abs(home.x) - pupils.x, home.z - pupils.z));
        base = vec3(0.83, 0.80, 0.78) * (0.75 + 0.25 * smoothstep(0.006, -0.006, home.z - pupils.z));
        float fibre = noise(vec3(atan(home.x - sign(home.x) * pupils.x, home.z - pupils.z) * 9.0, r * 300.0, 0));
        base = mix(base, iris * (0.6 + 0.8 * fibre), smoothstep(0.0066, 0.0058, r));
        base = mix(base, vec3(0.01), smoothstep(0.0031, 0.0026, r) + 0.5 * smoothstep(0.0007, 0.0, abs(r - 0.0062)));
        shine = 0.9; rough = 90.0;
    } else if (home.z < 0.58 && length(home.xy - vec2(0, -0.1)) > 0.078) {
        base = shirt * (0.75 + 0.4 * noise(home * vec3(90, 90, 30))); shine = 0.03;
    } else {
        float cheek = exp(-pow(length((home - vec3(sign(home.x) * 0.045, -0.19, 0.677)) / vec3(0.022, 0.05, 0.018)), 2.0));
        float tip = exp(-pow(length((home - vec3(0, -0.236, 0.675)) / vec3(0.018, 0.03, 0.015)), 2.0));
        base *= 0.86 + 0.26 * mottle;
        base = mix(base, base * vec3(1.06, 0.82, 0.80), 0.55 * max(cheek, tip));
        float socket = exp(-pow(length((home.xz - vec2(sign(home.x) * 0.031, 0.714)) / vec2(0.022, 0.013)), 2.0));
        base = mix(base, base * vec3(0.80, 0.70, 0.68), 0.5 * socket);
        float lash = exp(-pow(length((home.xz - vec2(sign(home.x) * 0.0315, 0.7195)) / vec2(0.0165, 0.0032)), 4.0));
        base = mix(base, base * 0.35, 0.75 * lash);
        float beard = smoothstep(0.668, 0.655, home.z + 0.25 * max(0.0, abs(home.x) - 0.035));
        beard *= smoothstep(0.585, 0.605, home.z) * smoothstep(-0.13, -0.17, home.y);
        base = mix(base, mix(base * 0.6, hair, 0.35), stubble * beard * (0.5 + 0.5 * noise(home * 1500.0)));
        float bx = abs(home.x), arch = 0.7355 + 0.006 * sin(clamp((bx - 0.012) / 0.042, 0.0, 1.0) * 2.5) - 0.05 * max(0.0, bx - 0.045);
        float b = exp(-pow((home.z - arch) / 0.0034, 2.0)) * smoothstep(0.009, 0.016, bx) * smoothstep(0.056, 0.046, bx);
        base = mix(base, hair * 0.9 + 0.02, clamp(brow * b * (0.5 + 0.9 * noise(home * vec3(1600, 600, 500))), 0.0, 0.93));
        float lip = texture(lipmap, tex).r;
        base = mix(base, lips * (0.85 + 0.3 * noise(home * vec3(1500, 100, 200))), 0.85 * lip);
        shine += 0.15 * lip + 0.15 * tip;
        base = mix(base, hair * 0.7 + base * 0.15, 0.85 * smoothstep(-0.006, 0.004, hairy(home)));
    }
    float d = dot(n, l), wrap = clamp((d + 0.35) / 1.35, 0.0, 1.0);
    vec3 lit = key * mix(vec3(wrap), vec3(clamp(d * 0.5 + 0.5, 0.0, 1.0), wrap, wrap), 0.25);
    float sky = 0.5 + 0.5 * n.z;
    vec3 c = base * (lit * 0.85 + fill * (0.6 + 0.6 * sky));
    c += shine * key * pow(max(dot(n, normalize(l + v)), 0.0), rough) * (0.5 + 0.5 * mottle);
    c *= mix(0.72, 1.0, smoothstep(0.0, 0.45, abs(dot(n, v))));
    colour = vec4(pow(clamp(c, 0.0, 1.0), vec3(0.92)), 1);
}
"""


class HeadRenderer:
    """The anny model and a renderer."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        anny = importlib.import_module("anny")
        self.model = anny.Anny(rig="makehuman", topology="makehuman-full", local_changes="all", facial_actions="all", phenotypes="all")
        data = Path(str(anny.__file__)).parent / "data" / "mpfb2"
        quads, coordinates = self.model.faces.numpy(), self.model.face_texture_coordinate_indices.numpy()
        self.corners = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1)
        self.uv = self.model.texture_coordinates.numpy()[coordinates[:, [0, 1, 2, 0, 2, 3]].reshape(-1)]
        self.hair = long_hair_faces(data / "3dobjs" / "base.obj").reshape(-1)
        self.average = self.vertices(AVERAGE, {})
        self.context = importlib.import_module("moderngl").create_standalone_context(backend="egl")
        self.program = self.context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self.lips = self._texture(data / "textures" / "mpfb_lips.jpg")

    def vertices(self, phenotype: dict[str, float], shape: dict[str, float]) -> np.ndarray:
        """(19158, 3) metres; x to the person's left, y backwards, z up."""
        both = {**shape, **{"r" + k[1:]: v for k, v in shape.items() if k.startswith("l-")}}
        one = {k: self.torch.tensor([v]) for k, v in phenotype.items()}
        local = {k: self.torch.tensor([v]) for k, v in both.items()}
        with self.torch.no_grad():
            out = self.model(phenotype_kwargs=one, local_changes_kwargs=local)
        return np.asarray(out["vertices"][0].numpy(), np.float32)

    def draw(self, person: HeadParameters) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8."""
        places = self.vertices(person.phenotype, person.shape)
        head = _head(places)
        camera, eye = _camera(head, person.turn)
        self._set(person, camera, eye)
        target = self.context.simple_framebuffer((DRAWN, DRAWN))
        target.use()
        self.context.enable(self.context.DEPTH_TEST if hasattr(self.context, "DEPTH_TEST") else 2)
        target.clear(0, 0, 0, 0)
        normals = _normals(places, self.corners)
        body = self._mesh(places, normals, self.corners, self.uv)
        layers = [(0, body), (HAIR, body)]
        if person.long_hair:
            layers.append((2, self._mesh(places, _normals(places, self.hair), self.hair, np.zeros((len(self.hair), 2), np.float32))))
        for layer, mesh in layers:
            self.program["layer"].value = layer
            mesh.render()
        drawn = np.frombuffer(target.read(components=4), np.uint8).reshape(DRAWN, DRAWN, 4)[::-1].astype(np.float32) / 255
        target.release()
        return _composed(drawn, person)

    def _mesh(self, places: np.ndarray, normals: np.ndarray, corners: np.ndarray, uv: np.ndarray) -> Any:
        part = np.zeros(len(places), np.float32)
        part[14598:14742], part[13380:13606] = 1, 2  # eyes, tongue
        rows = np.hstack([places[corners], normals[corners], self.average[corners], uv, part[corners, None]]).astype(np.float32)
        buffer = self.context.buffer(rows.tobytes())
        return self.context.vertex_array(self.program, [(buffer, "3f 3f 3f 2f 1f", "place", "normal", "ref", "uv", "part")])

    def _set(self, person: HeadParameters, camera: np.ndarray, eye: np.ndarray) -> None:
        centre = (self.average[14598:14670].min(0) + self.average[14598:14670].max(0)) / 2
        values: dict[str, tuple[float, ...]] = {**person.uniforms, "eye": tuple(eye), "pupils": tuple(abs(centre))}
        for name, value in values.items():
            if name in self.program:
                self.program[name].value = value if len(value) > 1 else value[0]
        self.program["camera"].write(camera.T.astype(np.float32).tobytes())
        self.lips.use(0)

    def _texture(self, path: Path) -> Any:
        image = importlib.import_module("PIL.Image").open(path).convert("L")
        texture = self.context.texture(image.size, 1, np.asarray(image)[::-1].tobytes())
        texture.build_mipmaps()
        return texture


def long_hair_faces(obj: Path) -> np.ndarray:
    """(F, 3) vertex indices of the base mesh's long hair, which the model carries but does not draw."""
    quads = [[int(word.split("/")[0]) - 1 for word in line.split()[1:]] for line in obj.read_text().splitlines() if line.startswith("f ")]
    chosen = np.array([q for q in quads if len(q) == 4 and all(LONG_HAIR[0] <= v <= LONG_HAIR[1] for v in q)])
    return chosen[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def _head(places: np.ndarray) -> np.ndarray:
    """Middle of the face: between eyes and mouth."""
    eyes = places[14598:14742].mean(0)
    return np.asarray(eyes - [0, 0, 0.028], np.float32)


def _camera(head: np.ndarray, turn: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Projection (4, 4) and eye (3,) for a face that fills about half of the picture."""
    yaw, pitch = turn
    away = np.array([math.sin(yaw) * math.cos(pitch), -math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
    eye = head + away * NEAR
    right = np.cross([0, 0, 1], away)
    right /= np.linalg.norm(right)
    up = np.cross(away, right)
    view = np.eye(4)
    view[:3, :3] = [right, up, away]
    view[:3, 3] = -view[:3, :3] @ eye
    scale, near, far = NEAR / 0.155, 0.3, 3.0
    lens = np.array([[scale, 0, 0, 0], [0, scale, 0, 0], [0, 0, (near + far) / (near - far), 2 * near * far / (near - far)], [0, 0, -1, 0]])
    return lens @ view, eye


def _normals(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    a, b, c = (places[corners[i::3]] for i in range(3))
    face, out = np.cross(b - a, c - a), np.zeros_like(places)
    for i in range(3):
        np.add.at(out, corners[i::3], face)
    return np.asarray(out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-12), np.float32)


def _composed(drawn: np.ndarray, person: HeadParameters) -> np.ndarray:
    """Over a background of two colours, shrunk to SIDE."""
    ramp = np.linspace(0, 1, DRAWN)[:, None, None] ** 0.8
    back = np.array(person.uniforms["high"]) * (1 - ramp) + np.array(person.uniforms["low"]) * ramp
    rgb = drawn[..., :3] * drawn[..., 3:] + back * (1 - drawn[..., 3:])
    k = DRAWN // SIDE
    return np.asarray(np.clip(rgb.reshape(SIDE, k, SIDE, k, 3).mean((1, 3)) * 255 + 0.5, 0, 255), np.uint8)


def main(folder: Path, count: int) -> None:
    """Draw every head that is not there yet."""
    renderer, image = HeadRenderer(), importlib.import_module("PIL.Image")
    for number in range(count):
        target = folder / f"anny_{number:02d}.png"
        if not target.is_file():
            part = target.with_suffix(".part")  # this runs in another environment, without tm_core
            image.fromarray(renderer.draw(head_parameters(number))).save(part, "PNG")
            part.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
