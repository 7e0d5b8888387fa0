"""Poses the people of the small world: where a body's joints are in an image, and how wide it is."""

from dataclasses import dataclass
from math import cos, sin

from .heads import HEAD_HEIGHT
from .pen import Point
from .people import Identity, Scene

_STATURES = {"short": 0.76, "average": 0.82, "tall": 0.88}  # crown to sole


@dataclass(frozen=True)
class Build:
    """Half widths of the body, and a factor on the thickness of arms and legs."""

    shoulder: float
    waist: float
    hip: float
    limb: float


_BUILDS = {
    "slim": Build(0.074, 0.047, 0.056, 0.80),
    "average": Build(0.090, 0.062, 0.068, 1.0),
    "athletic": Build(0.116, 0.070, 0.070, 1.14),
    "stout": Build(0.106, 0.106, 0.100, 1.25),
}


@dataclass(frozen=True)
class Limb:
    """Three joints of an arm (shoulder, elbow, hand) or of a leg (hip, knee, ankle)."""

    side: int  # -1 left ... 1 right in the image
    root: Point
    bend: Point
    end: Point


@dataclass(frozen=True)
class Figure:
    """Joints and measures of a posed body; the limb farther from the viewer comes first."""

    build: Build
    head: Point
    chin: float
    shoulder: float
    waist: float
    hip: float
    ground: float
    turn: float  # sideways displacement of the face
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]


def pose_figure(identity: Identity, scene: Scene) -> Figure:
    """Where the joints of a person are in a scene."""
    crown = scene.headroom
    ground = crown + scene.zoom * _STATURES[identity.height]
    chin = crown + 2 * HEAD_HEIGHT
    shoulder = chin + 0.022
    hip = shoulder + 0.41 * (ground - shoulder)
    build, narrowing = _BUILDS[identity.build], 1 - 0.1 * abs(scene.yaw)
    build = Build(build.shoulder * narrowing, build.waist * narrowing, build.hip * narrowing, build.limb)
    far = 1 if (scene.yaw > 0) != scene.from_behind else -1
    return Figure(
        build=build,
        head=(0.25 * scene.tilt, crown + HEAD_HEIGHT),
        chin=chin,
        shoulder=shoulder,
        waist=shoulder + 0.68 * (hip - shoulder),
        hip=hip,
        ground=ground,
        turn=0.022 * scene.yaw,
        arms=(_pose_arm(far, build, shoulder, hip, scene), _pose_arm(-far, build, shoulder, hip, scene)),
        legs=(_pose_leg(far, build, hip, ground, scene), _pose_leg(-far, build, hip, ground, scene)),
    )


def _pose_arm(side: int, build: Build, shoulder: float, hip: float, scene: Scene) -> Limb:
    swing = 0.14 * side * scene.arm_swing * (0.4 + abs(scene.yaw))
    upper, lower = {  # angles of upper arm and forearm from straight down, outwards
        "swing": (0.15 + swing, 0.03 + swing),
        "hip": (0.72, -0.85),
        "pocket": (0.34, -0.26),
        "wave": (0.62, 2.8),
    }[scene.arms[(side + 1) // 2]]
    length = 0.49 * (hip - shoulder)
    root = (side * (build.shoulder - 0.022), shoulder + 0.024)
    elbow = (root[0] + side * length * sin(upper), root[1] + length * cos(upper))
    hand = (elbow[0] + side * length * sin(lower), elbow[1] + length * cos(lower))
    return Limb(side, root, elbow, hand)


def _pose_leg(side: int, build: Build, hip: float, ground: float, scene: Scene) -> Limb:
    swing = side * scene.stride * (0.06 + 0.2 * abs(scene.yaw))
    lift = 0.016 * max(0.0, side * scene.stride)
    length = (ground - 0.03 - hip) / 2
    root = (side * 0.52 * build.hip, hip - 0.01)
    knee = (root[0] + length * (0.03 * side + swing), hip + length - 0.3 * lift)
    ankle = (knee[0] + length * (0.01 * side + 0.9 * swing), ground - 0.026 - lift)
    return Limb(side, root, knee, ankle)
