"""SyncNet: confidence and distance of lip sync by a network (Sync-C and Sync-D of the paper's table 1).

The architecture is the published one (Chung and Zisserman, "Out of time", 2016; weights of joonson/syncnet_python
load by their own names), the bundled weights are ours, trained on synthetic clips (train/syncnet): values of
ours and of the official weights are not comparable. Inputs as published: 5 frames of a face crop of 224 x 224, BGR
0..255, against 20 rows of 13 MFCC at 100 Hz, video at 25 frames/s.

Shapes: N windows, T frames, R rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..face.crops import square_crops
from ..weights.files import TensorFile, fill

log = logging.getLogger(__name__)

FPS, FRAMES, SIDE, ROWS, REACH = 25, 5, 224, 20, 15
CROP = 0.4  # of half the face's box, added beside and (twice) below it, as in the published pipeline
GREY = 110  # beyond the picture, as in the published pipeline
SMOOTH = 13  # frames, median of the crop's place
BATCH = 16
ASSETS = Path(__file__).parents[1] / "assets" / "weights"
BUNDLED = ("syncnet.audio.safetensors", "syncnet.lip.safetensors")
REMEDY = "give SyncNet weights as safetensors, or reinstall"
SAMPLE_RATE, WINDOW, HOP, FFT, MELS, CEPSTRA, LIFTER, EMPHASIS = 16000, 400, 160, 512, 26, 13, 22, 0.97


def _audio_layers() -> nn.Sequential:
    def part(a: int, b: int, kernel: int | tuple[int, int], pad: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, kernel, padding=pad), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *part(1, 64, 3, 1), nn.MaxPool2d(1, 1), *part(64, 192, 3, 1), nn.MaxPool2d(3, (1, 2)), *part(192, 384, 3, 1),
        *part(384, 256, 3, 1), *part(256, 256, 3, 1), nn.MaxPool2d(3, 2), *part(256, 512, (5, 4), 0))


def _lip_layers() -> nn.Sequential:
    def part(a: int, b: int, kernel: tuple[int, int, int], stride: int, pad: int) -> list[nn.Module]:
        return [nn.Conv3d(a, b, kernel, (1, stride, stride), (0, pad, pad)), nn.BatchNorm3d(b), nn.ReLU(inplace=True)]

    def pool(pad: int = 0) -> nn.Module:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, pad, pad))

    return nn.Sequential(
        *part(3, 96, (5, 7, 7), 2, 0), pool(), *part(96, 256, (1, 5, 5), 2, 1), pool(1), *part(256, 256, (1, 3, 3), 1, 1),
        *part(256, 256, (1, 3, 3), 1, 1), *part(256, 256, (1, 3, 3), 1, 1), pool(), *part(256, 512, (1, 6, 6), 1, 0))


def _joined() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Two streams into one space of 1024 numbers, where what belongs together is near."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _audio_layers(), _joined()
        self.netcnnlip, self.netfclip = _lip_layers(), _joined()

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """(N, 1024) of MFCC windows (N, 1, 13, 20)."""
        out: Tensor = self.netfcaud(self.netcnnaud(mfcc).flatten(1))
        return out

    def embed_faces(self, faces: Tensor) -> Tensor:
        """(N, 1024) of face windows (N, 3, 5, 224, 224), BGR 0..255."""
        out: Tensor = self.netfclip(flat(self.netcnnlip, faces.flatten(1, 2).contiguous(memory_format=torch.channels_last)).flatten(1))
        return out


def flat(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The lip stream's layers, or the first of them, on (N, C, H, W): after the first, which takes 3 x 5 pictures as
    channels, no layer looks along time, and a CPU is a third faster in two dimensions than in the published three."""
    for layer in layers:
        if isinstance(layer, nn.Conv3d):
            x = F.conv2d(x, layer.weight.flatten(1, 2), layer.bias, layer.stride[1:], layer.padding[1:])
        elif isinstance(layer, nn.MaxPool3d):
            x = F.max_pool2d(x, layer.kernel_size[1:], layer.stride[1:], layer.padding[1:])  # type: ignore[index]
        else:
            x = layer(x[:, :, None])[:, :, 0]
    return x


@dataclass(frozen=True, kw_only=True)
class SyncNetScore:
    """Sync-C (larger is better), Sync-D (smaller is better), offset in frames, positive where the picture is late."""

    sync_c: float
    sync_d: float
    offset_frames: int


def load_syncnet(path: Path | None = None) -> SyncNet:
    """The bundled weights, or a .safetensors file with the official names; InputError for what is not one."""
    paths = [ASSETS / name for name in BUNDLED] if path is None else [Path(path)]
    with torch.device("meta"):
        net = SyncNet()
    wanted = net.state_dict()
    with ExitStack() as stack:
        files = [stack.enter_context(TensorFile(p, field="syncnet", remedy=REMEDY)) for p in paths]
        owner = {key: file for file in files for key in file.keys()}  # noqa: SIM118 - not a dict
        if wrong := sorted(k for k, v in wanted.items() if k not in owner or owner[k].header.shapes[k] != v.shape):
            rule = f"{len(wrong)} tensors missing or of another shape, first {wrong[0]}"
            raise InputError("syncnet", paths[0], rule, "give SyncNet weights")
        fill(net, lambda key: owner[key].get_tensor(key).to(wanted[key].dtype))
    return net.requires_grad_(False)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """(R, 13) float32 cepstra at 100 Hz of 16 kHz samples in -1..1: python_speech_features' defaults, energy first."""
    signal = np.asarray(samples, np.float64) * 32768
    signal = np.append(signal[:1], signal[1:] - EMPHASIS * signal[:-1])
    count = 1 + max(0, -(-(len(signal) - WINDOW) // HOP))
    padded = np.pad(signal, (0, max(0, (count - 1) * HOP + WINDOW - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    tiny = np.finfo(float).eps
    energy = np.log(np.maximum(power.sum(1), tiny))
    bands = np.log(np.maximum(power @ _mel_bank().T, tiny))
    k, n = np.arange(CEPSTRA)[:, None], np.arange(MELS)[None]
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * MELS)) * np.sqrt(np.where(k == 0, 1, 2) / MELS)
    cepstra = bands @ basis.T * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER))
    cepstra[:, 0] = energy
    return np.asarray(cepstra, np.float32)


def _mel_bank() -> np.ndarray:
    """(26, 257) triangles."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    bins = np.floor((FFT + 1) * 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1) / SAMPLE_RATE)
    bank, at = np.zeros((MELS, FFT // 2 + 1)), np.arange(FFT // 2 + 1)
    for i in range(MELS):
        low, mid, high = bins[i : i + 3]
        rise, fall = (at - low) / max(mid - low, 1), (high - at) / max(high - mid, 1)
        bank[i] = np.where((at >= low) & (at < mid), rise, np.where((at >= mid) & (at < high), fall, 0))
    return bank


def face_boxes(landmarks: np.ndarray) -> np.ndarray:
    """(T, 3) centre x, y of the crop's square and half its side, of landmarks (T, 468, 2 or 3); smoothed, gaps bridged."""
    low, high = np.nanmin(landmarks[..., :2], 1), np.nanmax(landmarks[..., :2], 1)
    half = (high - low).max(1) / 2
    rows = np.stack([(low + high)[:, 0] / 2, (low + high)[:, 1] / 2, half], 1)
    known = np.flatnonzero(~np.isnan(rows).any(1))
    rows = np.stack([np.interp(np.arange(len(rows)), known, rows[known, i]) for i in range(3)], 1)
    padded = np.pad(rows, ((SMOOTH // 2, SMOOTH // 2), (0, 0)), mode="edge")
    rows = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH, axis=0), -1)
    return np.stack([rows[:, 0], rows[:, 1] + CROP * rows[:, 2], rows[:, 2] * (1 + CROP)], 1)


def face_crops(frames: Tensor, boxes: np.ndarray) -> Tensor:
    """(T, 3, 224, 224) BGR 0..255 of frames (T, H, W, 3) uint8 RGB and boxes (T, 3); grey beyond the picture."""
    return square_crops(frames.permute(0, 3, 1, 2).flip(1).float() - GREY, boxes, SIDE, beyond="zeros") + GREY


def crops_of(frames: np.ndarray, landmarks: np.ndarray) -> Tensor:
    """(T, 3, 224, 224) uint8 BGR crops of a face's frames (T, H, W, 3) uint8; InputError where there is no face."""
    if np.isnan(landmarks).all():
        raise InputError("video", f"{len(frames)} frames", "no face found in any of them", "give a video of one face")
    boxes, parts = face_boxes(landmarks), []
    for start in range(0, len(frames), BATCH):
        part = slice(start, start + BATCH)
        parts.append(face_crops(torch.from_numpy(np.ascontiguousarray(frames[part])), boxes[part]).round().byte())
    return torch.cat(parts)


def _at_25(crops: Tensor, fps: float) -> Tensor:
    """The nearest frames in time at 25 a second."""
    if abs(fps - FPS) < 1e-6:
        return crops
    nearest = ((np.arange(int(len(crops) / fps * FPS)) + 0.5) / FPS * fps).astype(int)
    return crops[torch.from_numpy(np.minimum(nearest, len(crops) - 1))]


@torch.inference_mode()
def embeddings(net: SyncNet, crops: Tensor, samples: np.ndarray, fps: float) -> tuple[Tensor, Tensor]:
    """(N, 1024) of crops (T, 3, 224, 224) uint8 and of their sound, window n beginning at frame n."""
    crops = _at_25(crops, fps)
    rows = torch.from_numpy(mfcc(samples[: len(crops) * SAMPLE_RATE // FPS + WINDOW]))  # of a long sound only what is seen
    count = min(len(crops) - FRAMES + 1, (len(rows) - ROWS) // 4 + 1)
    if count < 2:
        rule = "SyncNet needs at least 0.3 s of picture and sound"
        raise InputError("video", f"{len(crops) / FPS:.2f} s", rule, "measure a longer clip")
    seen, heard = [], []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        windows = crops[start : stop + FRAMES - 1].float().unfold(0, FRAMES, 1).permute(0, 1, 4, 2, 3)
        seen.append(net.embed_faces(windows))
        heard.append(net.embed_audio(torch.stack([rows[4 * i : 4 * i + ROWS].T for i in range(start, stop)])[:, None]))
    return torch.cat(seen), torch.cat(heard)


def distances(seen: Tensor, heard: Tensor, reach: int = REACH) -> np.ndarray:
    """(2 reach + 1,) mean distance with the sound of window n + lag, lag -reach..reach, over the pairs there are."""
    count = len(seen)
    reach = min(reach, count - 1)
    return np.array([
        float((seen[max(0, -k) : count - max(0, k)] - heard[max(0, k) : count - max(0, -k)] + 1e-6).norm(dim=1).mean())
        for k in range(-reach, reach + 1)])


def score_of(curve: np.ndarray) -> SyncNetScore:
    """Score of distances by lag: Sync-D the least, Sync-C the median less it."""
    best = int(curve.argmin())
    return SyncNetScore(
        sync_c=float(np.median(curve) - curve[best]), sync_d=float(curve[best]), offset_frames=(len(curve) - 1) // 2 - best)


def sync_confidence(
    net: SyncNet, frames: np.ndarray, landmarks: np.ndarray, samples: np.ndarray, fps: float, reach: int = REACH,
) -> SyncNetScore:
    """Score of one face's video (T, H, W, 3) uint8 with landmarks (T, 468, 3) and its 16 kHz sound."""
    return score_of(distances(*embeddings(net, crops_of(frames, landmarks), samples, fps), reach))
