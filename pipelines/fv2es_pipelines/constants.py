"""The numbers that tie media to the model: preprocessing must be the same in training, export and serving.

Each constant names its unit, its rule and where it comes from. "The original" is the published code of FV2ES
(paper: "FV2ES: A Fully End2End Multimodal System for Fast Yet Effective Video Emotion Recognition Inference").
"""

from typing import Final

# --- Frames ----------------------------------------------------------------------------------------------------------

FRAME_STEP_S: Final = 0.5
"""Seconds between sampled frames, counted from the utterance's start. Source: the original, which takes every 15th
picture of what it believes to be 29.97 pictures per second; here it is taken by timestamp."""

TIMESTAMP_TOLERANCE_S: Final = 1e-3
"""Slack when a timestamp is compared with a sampling time. Matroska and FLV round timestamps to 1 ms, so a picture
that was due at `t` may be stamped up to half of that later."""

# --- Faces -----------------------------------------------------------------------------------------------------------

FACE_SIZE_PX: Final = 48
"""Side of the square face picture the visual branch takes. Source: the original (`image_size=48` of its MTCNN)."""

FACE_MARGIN_PX: Final = 2
"""Margin round the face in output pixels: the box grows by `margin * side / (48 - margin)`, half on each side.
Source: the original (`margin=2` of its MTCNN)."""

DETECTOR_MIN_FACE_PX: Final = 20
"""Smallest face looked for, in pixels of the full-size picture. Source: facenet-pytorch's MTCNN default."""

DETECTOR_THRESHOLDS: Final = (0.6, 0.7, 0.7)
"""Least face probability kept after P-Net, R-Net and O-Net. Source: facenet-pytorch's MTCNN default."""

DETECTOR_PYRAMID_FACTOR: Final = 0.709
"""Ratio of sides between two levels of the picture pyramid. Source: facenet-pytorch's MTCNN default."""

DETECTOR_CELL_PX: Final = 12
"""Side of the window P-Net judges, in pixels of a pyramid level. Source: MTCNN (Zhang et al. 2016), figure 2."""

DETECTOR_STRIDE_PX: Final = 2
"""Distance between two windows of P-Net, in pixels of a pyramid level. Source: the one 2x2 pooling in P-Net."""

DETECTOR_REFINE_PX: Final = 24
"""Side of the square picture R-Net takes. Source: MTCNN (Zhang et al. 2016), figure 2."""

DETECTOR_OUTPUT_PX: Final = 48
"""Side of the square picture O-Net takes. Source: MTCNN (Zhang et al. 2016), figure 2."""

DETECTOR_MEAN: Final = 127.5
"""Subtracted from 8-bit values before every net of the detector. Source: facenet-pytorch's detector."""

DETECTOR_SCALE: Final = 0.0078125
"""Factor after the subtraction, 1/128. Source: facenet-pytorch's detector."""

VISUAL_MEAN_RGB: Final = (159.0, 111.0, 102.0)
"""Mean of face pixels per channel, red first, on the scale 0..255. Source: the original's normalisation."""

VISUAL_STD_RGB: Final = (37.0, 33.0, 32.0)
"""Standard deviation of face pixels per channel, red first, on the scale 0..255. Source: as the mean."""

# --- Sound -----------------------------------------------------------------------------------------------------------

SAMPLE_RATE_HZ: Final = 16_000
"""Samples per second of the mono sound the spectrum is computed from. Source: the original."""

FFT_LENGTH: Final = 400
"""Samples under a window, and points of its Fourier transform (25 ms). Source: the original (torchaudio's default)."""

HOP_LENGTH: Final = 200
"""Samples between two windows (12.5 ms). Source: the original (torchaudio's default of half a window)."""

NUM_MELS: Final = 128
"""Mel bands, HTK scale, 0 Hz to half the sample rate, triangles of height 1 (not normalised by their area). Bands 0,
3, 6 and 13 hold no bin of the transform and are always zero. Source: the original (torchaudio's default)."""

MEL_POWER: Final = 2.0
"""Power of the magnitude: 2 gives energy. No logarithm is taken. Source: the original (torchaudio's default)."""

MIN_WAVE_SAMPLES: Final = FFT_LENGTH // 2 + 1
"""Shortest sound whose edges can be mirrored by half a window, as a centred spectrum needs. Shorter counts as none."""

PIECE_FRAMES: Final = 32
"""Spectrum frames in a piece of sound (0.4 s). The last piece is filled with zeros on the right. Source: the original."""

PIECE_CHANNELS: Final = 4
"""Channels of a piece: channel `c` holds mel bands `32 c` to `32 c + 31`. Source: the original."""

PIECE_MELS: Final = NUM_MELS // PIECE_CHANNELS
"""Mel bands in each channel of a piece."""

# --- Words -----------------------------------------------------------------------------------------------------------

MAX_TOKENS: Final = 100
"""Most tokens of an utterance, special tokens included; the rest is cut off. Source: the original."""
