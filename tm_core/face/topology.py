"""Landmark numbers of the 468-point face mesh (MediaPipe's topology) that this project uses."""

from __future__ import annotations

COUNT = 468
RIGHT_EYE = (33, 133)  # the person's right: left in the picture; outer and inner corner
LEFT_EYE = (263, 362)
FOREHEAD, CHIN = 10, 152
UPPER_LIP, LOWER_LIP = 13, 14  # middle of the inner lips
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
BROWS_AND_ABOVE = (105, 66, 107, 336, 296, 334)
