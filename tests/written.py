"""Small files in the formats that the loaders read, for the tests to write."""

import io
import random
import struct

from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def damaged(original, trials, seed, within=None):
    """(place, whether it is cut there, the bytes): every third time cut short, else one bit flipped; place after
    place anywhere, or each other one among the first ``within`` bytes."""
    rng = random.Random(seed)
    for trial in range(trials):
        place = rng.randrange(len(original) if within is None or trial % 2 else within)
        cut = trial % 3 == 0
        broken = bytearray(original[:place] if cut else original)
        if not cut:
            broken[place] ^= 1 << rng.randrange(8)
        yield place, cut, broken


def png(shade):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def frame(content):
    """One record: cut where the magic number stands at a multiple of 4 bytes, as dmlc-core's writer does."""
    places = [i for i in range(0, len(content) - len(content) % 4, 4) if content[i : i + 4] == MAGIC]
    starts, ends = [0, *(p + 4 for p in places)], [*places, len(content)]
    out = b""
    for n, (start, end) in enumerate(zip(starts, ends, strict=True)):
        flag = 0 if not places else 1 if n == 0 else 3 if n == len(places) else 2
        out += MAGIC + struct.pack("<I", flag << 29 | end - start) + content[start:end]
    return out + b"\0" * (-len(out) % 4)


def content(label, image, key=0):
    if isinstance(label, (list, tuple)):
        return struct.pack(f"<IfQQ{len(label)}f", len(label), 0.0, key, 0, *label) + image
    return struct.pack("<IfQQ", 0, label, key, 0) + image


def write(folder, records, name="train"):
    """records: (key, content) -> .rec and .idx."""
    rec, idx = b"", ""
    for key, what in records:
        idx += f"{key}\t{len(rec)}\n"
        rec += frame(what)
    (folder / f"{name}.rec").write_bytes(rec)
    (folder / f"{name}.idx").write_text(idx)
    return folder / f"{name}.rec"


def write_faces(folder):
    """As InsightFace packs: header, images 1 .. 12 of 4 identities, identities 13 .. 16."""
    records = [(0, content((13, 17), b""))]
    for key in range(1, 13):
        label = (key - 1) // 3
        records.append((key, content(label if key % 2 else (label, 7), png(10 * key), key)))
    records += [(13 + k, content((1 + 3 * k, 4 + 3 * k), b"")) for k in range(4)]
    return write(folder, records)
