"""Packing as one would say it: one long integer, element j at bit j * b of it."""


def pack(residues: list[int], bits: int) -> bytes:
    string = sum(residue << (j * bits) for j, residue in enumerate(residues))
    return string.to_bytes((len(residues) * bits + 7) // 8, "little")


def unpack(packed: bytes, length: int, bits: int) -> list[int]:
    string = int.from_bytes(packed, "little")
    return [string >> (j * bits) & (2**bits - 1) for j in range(length)]
