"""Whether a face can be animated well, judged before anything is made: the reasons why not, each in a few words.

The bundled models have seen people who look towards the camera. Thresholds are from the held-out pictures of the corpus (train/corpus).
Non-goals: a face too small (portrait_crop refuses it), a covered mouth, which the mesh does not see. No section of the paper.
"""

from __future__ import annotations

import numpy as np

from .networks import Face

CHEEK_BONES, ENDS = (234, 454), (10, 152)
TURNED, RAISED = 50.0, 40.0  # degrees, as the mesh measures them: it sees profiles of 60 to 80 degrees as 51 to 65
SURE = 0.9  # the mesh's score: people had 0.92 and more, a puppy's, a ghost's and a comic's 0.57 to 0.89


def doubts(face: Face) -> tuple[str, ...]:
    """Why a face will hardly talk well; nothing where it should."""
    yaw, pitch = face_turn(face.landmarks)
    found = []
    if face.score < SURE:
        found.append(f"hardly looks like a human face (certainty {face.score:.2f})")
    if abs(yaw) >= TURNED:
        found.append(f"is turned about {abs(yaw):.0f} degrees to the side")
    if abs(pitch) >= RAISED:
        found.append(f"looks about {abs(pitch):.0f} degrees {'down' if pitch > 0 else 'up'}")
    return tuple(found)


def face_turn(landmarks: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch of landmarks (468, 3) in degrees, positive to the picture's right and down."""
    across = landmarks[CHEEK_BONES[1]] - landmarks[CHEEK_BONES[0]]
    down = landmarks[ENDS[1]] - landmarks[ENDS[0]]
    return float(np.degrees(np.arctan2(across[2], across[0]))), float(np.degrees(np.arctan2(down[2], down[1])))
