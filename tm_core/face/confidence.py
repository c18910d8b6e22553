"""Whether a face can be animated well, judged before anything is made: the reasons why not, each in a few words.

The bundled models have seen people who look towards the camera. Thresholds are from the corpus's held-out pictures and training stills.
Non-goals: a face too small (portrait_crop refuses it), light in which a mouth hardly moves. No section of the paper.
"""

from __future__ import annotations

import numpy as np

from .crops import Squares
from .networks import Face, FaceNetworks, squares_of
from .topology import CHIN, FOREHEAD, INNER_LIPS, OUTER_LIPS

CHEEK_BONES, ENDS = (234, 454), (FOREHEAD, CHIN)
LIPS = [*INNER_LIPS, *OUTER_LIPS]
TURNED, RAISED = 50.0, 40.0  # degrees, as the mesh measures them: it sees profiles of 60 to 80 degrees as 51 to 65
SURE = 0.9  # the mesh's score: people had 0.92 and more, a puppy's, a ghost's and a comic's 0.57 to 0.89
# crops in which the mesh looks for the lips again: larger, turned (radians), right, down (shares of the side)
FIRST_LOOKS = ((0.85, 0.0, 0.0, 0.0), (1.2, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.05), (1.0, 0.0, 0.0, -0.05))
FURTHER_LOOKS = (
    (1.0, 0.0, 0.0, 0.0), (1.0, 0.12, 0.0, 0.0), (1.0, -0.12, 0.0, 0.0), (1.0, 0.0, 0.05, 0.0), (1.0, 0.0, -0.05, 0.0),
    (1.1, 0.06, 0.03, 0.0), (1.1, -0.06, -0.03, 0.0), (0.92, 0.06, 0.0, 0.03))
# How much those looks disagree about the lips, of the face's height. Held out: mouths under paper, a hand, letters or hair, a gorilla's, a
# flat cartoon's and one in green light 0.0152 to 0.046, all others up to 0.0143. Of 112 training stills three that are not named
# otherwise are above: two men who shout (lip r 0.41, 0.53) and a doll (0.52); the next is 0.0146, a bottle before the mouth's corner.
STEADY = 0.0148


def doubts(face: Face) -> tuple[str, ...]:
    """Why a face will hardly talk well, by the face alone; nothing where it should."""
    yaw, pitch = face_turn(face.landmarks)
    found = []
    if face.score < SURE:
        found.append(f"hardly looks like a human face (certainty {face.score:.2f})")
    if abs(yaw) >= TURNED:
        found.append(f"is turned about {abs(yaw):.0f} degrees to the side")
    if abs(pitch) >= RAISED:
        found.append(f"looks about {abs(pitch):.0f} degrees {'down' if pitch > 0 else 'up'}")
    return tuple(found)


def mouth_doubts(face: Face, rgb: np.ndarray, networks: FaceNetworks) -> tuple[str, ...]:
    """Why its mouth will hardly talk well, by the picture (H, W, 3) uint8 it is in; nothing where it should."""
    lips = face.landmarks[LIPS, :2]
    if (lips < 0).any() or (lips > np.array(rgb.shape[1::-1]) - 1).any():
        return ("has a mouth that the picture's edge cuts off",)
    if mouth_unsteadiness(face, rgb, networks) > STEADY:
        return ("has a mouth that is covered or hardly looks like a human mouth",)
    return ()


def mouth_unsteadiness(face: Face, rgb: np.ndarray, networks: FaceNetworks) -> float:
    """How much the mesh's lips differ when it looks at the face through other crops, of the face's height.

    Up and down, and in shape: along the picture's other axis a turned face's lips differ too, and talk. The first few looks say enough
    about most faces.
    """
    points, _ = networks.landmarks_in(rgb[None], _looks(face, FIRST_LOOKS))
    if (few := _spread(face, points)) <= STEADY:
        return few
    more, _ = networks.landmarks_in(rgb[None], _looks(face, FURTHER_LOOKS))
    return _spread(face, np.concatenate([points, more]))


def face_turn(landmarks: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch of landmarks (468, 3) in degrees, positive to the picture's right and down."""
    across = landmarks[CHEEK_BONES[1]] - landmarks[CHEEK_BONES[0]]
    down = landmarks[ENDS[1]] - landmarks[ENDS[0]]
    return float(np.degrees(np.arctan2(across[2], across[0]))), float(np.degrees(np.arctan2(down[2], down[1])))


def _looks(face: Face, looks: tuple[tuple[float, float, float, float], ...]) -> Squares:
    square = squares_of(face.landmarks[None].astype(np.float64))
    return Squares.join([square.around(*look) for look in looks])


def _spread(face: Face, points: np.ndarray) -> float:
    """Of looks (N, 468, 3): standard deviation of the lips along the face's height, and of their shape, together."""
    down = (face.landmarks[CHIN] - face.landmarks[FOREHEAD])[:2].astype(np.float64)
    lips = points[:, LIPS, :2].astype(np.float64) / float(down @ down) ** 0.5
    along = (lips @ down / float(down @ down) ** 0.5).std(0).mean()
    shape = (lips - lips.mean(1, keepdims=True)).std(0)
    return float(np.hypot(along, np.linalg.norm(shape, axis=-1).mean()))
