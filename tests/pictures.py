"""Pictures of more than 8 bits a channel, written by hand: PNG and TIFF as their specifications have them."""

import struct
import zlib

import numpy as np

PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png16(pixels: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """uint16 pixels (H, W, C) as a PNG, with chunks before and after those of the pixels."""
    H, W, C = pixels.shape
    rows = (b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", W, H, 16, PNG_COLOURS[C], 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(b"".join(rows))) + after
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def tiff(
    pixels: np.ndarray,
    order: str = "<",
    *,
    bits: int | None = None,
    photometric: int | None = None,
    extra: int | None = None,
    planes: int = 1,
    orientation: int = 1,
) -> bytes:
    """Pixels (H, W, C) of any type as a TIFF of one strip (a plane), the directory first.

    Args:
        order: of bytes, "<" or ">".
        bits, photometric, extra, planes, orientation: tags 258, 262 (by default black is 0, or RGB), 338 (what a
            channel beyond the colours is), 284 and 274.
    """
    H, W, C = pixels.shape
    stored = pixels if planes == 1 else np.moveaxis(pixels, 2, 0)
    content = stored.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = 1 if planes == 1 else C
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    photometric = (2 if C > 2 else 1) if photometric is None else photometric
    tags = {256: [W], 257: [H], 258: [bits or 8 * pixels.itemsize] * C, 259: [1], 262: [photometric], 273: [0] * strips}
    tags |= {274: [orientation], 277: [C], 278: [H], 279: [len(content) // strips] * strips, 284: [planes]}
    tags |= {} if extra is None else {338: [extra]}
    tags |= {339: [kind] * C}
    place = 8 + 2 + 12 * len(tags) + 4
    start = place + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [start + k * (len(content) // strips) for k in range(strips)]
    directory, others = struct.pack(f"{order}H", len(tags)), b""
    for tag, values in tags.items():
        value = values[0] if len(values) == 1 else place + len(others)
        directory += struct.pack(f"{order}HHII", tag, 4, len(values), value)
        others += b"" if len(values) == 1 else struct.pack(f"{order}{len(values)}I", *values)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + directory + bytes(4) + others + content
