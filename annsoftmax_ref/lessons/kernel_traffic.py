"""What a kernel's launch did to memory: how much (``Traffic``), and which lane used which element (``Request``)."""

from __future__ import annotations

from dataclasses import dataclass, field

SECTOR = 32  # bytes: what a GPU moves at once between its memory and its caches


@dataclass(frozen=True)
class Traffic:
    """Counts of a whole launch. They are exact, and they are no times.

    A request is one load or store of a warp, by all its lanes at once; it moves whole sectors of 32 bytes. A shared
    wavefront is one pass of shared memory; a request without bank conflicts takes one.
    """

    global_loads: int
    global_stores: int
    global_load_bytes: int
    global_store_bytes: int
    global_requests: int
    global_sectors: int
    shared_loads: int
    shared_stores: int
    shared_load_bytes: int
    shared_store_bytes: int
    shared_requests: int
    shared_wavefronts: int

    @property
    def sectors_a_request(self) -> float:
        return self.global_sectors / max(1, self.global_requests)

    @property
    def used(self) -> float:
        """The part of the bytes moved that lanes had asked for; above 1 where lanes ask for the same ones."""
        return (self.global_load_bytes + self.global_store_bytes) / max(1, SECTOR * self.global_sectors)

    def __repr__(self) -> str:
        lines = [
            f"global loads   {self.global_loads:>9,}, {self.global_load_bytes:>11,} bytes",
            f"global stores  {self.global_stores:>9,}, {self.global_store_bytes:>11,} bytes",
            f"requests       {self.global_requests:>9,}, {self.global_sectors:>11,} sectors of {SECTOR} bytes: "
            f"{self.sectors_a_request:.1f} a request, {self.used:.0%} of their bytes asked for",
        ]
        if self.shared_requests:
            each = self.shared_wavefronts / self.shared_requests
            lines.append(
                f"shared memory  {self.shared_loads + self.shared_stores:>9,} loads and stores, "
                f"in {self.shared_requests:,} requests of {each:.1f} wavefronts each"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Request:
    """One load or store of a warp.

    array: the argument's name, or "shared". elements: for each lane that took part the first element that it used;
    of shared memory, the number of a word of 4 bytes. each: how many elements a lane used. item: bytes of an element.
    line: of the cell; 0: unknown. sectors: numbers of the sectors touched, from that in which the array begins.
    """

    store: bool
    array: str
    line: int
    item: int
    each: int
    elements: dict[int, int] = field(default_factory=dict)
    sectors: tuple[int, ...] = ()

    def __repr__(self) -> str:
        first, last = min(self.elements.values()), max(self.elements.values()) + self.each - 1
        verb = "stores" if self.store else "loads"
        bytes_each = f"{self.each * self.item} bytes a lane"
        where = f"line {self.line}: " if self.line else ""
        moved = "" if self.array == "shared" else f", {len(self.sectors)} sectors"
        return f"{where}{len(self.elements)} lanes {verb[:-1]} {self.array}[{first}] to [{last}], {bytes_each}{moved}"
