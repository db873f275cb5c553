"""Checkpoints of which every machine holds a part. Standard library only.

Of a model that is split across machines each writes what its own processes hold. The manifest of
such a part has, beside what every manifest has:

    part, parts    which it is, from 0, and of how many
    save           the same in all parts of one checkpoint, and in no other's

The whole is put together where the parts meet, in one folder with one manifest, which has in
`of_parts` the names of the files of each. A part is all that its machine needs to go on beside the
others, by as many machines and processes; any other number of them needs the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.contract.checkpoints import SHARDS, UNWANTED
from trainer.contract.errors import IntegrityError
from trainer.contract.world import Rank

OWN = (f"{SHARDS}/__", "rng_state_")
"""How the names of the files begin that no other machine has."""


def part_facts(rank: Rank, save: str) -> dict[str, Any]:
    """Return what the manifest says of the part of the machine that a process is on."""
    each = rank.local_world_size
    return {"part": rank.rank // each, "parts": rank.world_size // each, "save": save}


def common_files(staged: Path) -> dict[str, bytes]:
    """Return the content of the small files that every part has, by name."""
    files = {p.relative_to(staged).as_posix(): p for p in staged.rglob("*") if p.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith(OWN) and name not in UNWANTED
    }


def is_part(manifest: Mapping[str, Any]) -> bool:
    """Whether it lacks what other machines hold."""
    return int(manifest.get("parts", 1)) > 1


def refuse_parts_of_others(manifest: Mapping[str, Any], rank: Rank, name: str) -> None:
    """Refuse to go on from a part by other machines or processes than wrote it.

    Raises:
        IntegrityError: it lacks what the others had.
    """
    each = manifest.get("processes", 1) // manifest.get("parts", 1)
    here = (rank.rank // rank.local_world_size, rank.world_size, rank.local_world_size)
    if is_part(manifest) and (manifest.get("part"), manifest["processes"], each) != here:
        raise IntegrityError(
            f"{name} is part {manifest.get('part')} of {manifest['parts']} machines' with "
            f"{manifest['processes']} processes, and cannot go on as machine {here[0]} of "
            f"{here[1] // here[2]} with {here[1]}.",
            "Put the whole checkpoint there: all parts in one folder.",
        )


def whole(manifests: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Return the manifest of what these parts are together.

    Args:
        manifests: of all parts, in their order.
        where: they are, for messages.

    Raises:
        IntegrityError: they do not belong together, or one of them is missing.
    """
    files: dict[str, Any] = {}
    first = {name: value for name, value in manifests[0].items() if name not in {"files", "part"}}
    for number, manifest in enumerate(manifests):
        facts = {name: value for name, value in manifest.items() if name not in {"files", "part"}}
        # Compared as a whole: step, save, and how many parts and processes there are.
        if facts != first or manifest.get("part") != number:
            raise IntegrityError(f"Part {number} of {where} is of another checkpoint.")
        for name, one in manifest["files"].items():
            if files.setdefault(name, one) != one:
                raise IntegrityError(f"{name} is not the same in all parts of {where}.")
    if first.get("parts") != len(manifests):
        raise IntegrityError(f"{where} has {first.get('parts')} parts, and {len(manifests)} came.")
    of_parts = [sorted(manifest["files"]) for manifest in manifests]
    return {**first, "parts": 1, "of_parts": of_parts, "files": files}


def needed_on(
    manifest: Mapping[str, Any], node_rank: int, *, nodes: int, processes: int
) -> dict[str, Any]:
    """Return the manifest of what one of the machines needs of a checkpoint to go on from it.

    Args:
        manifest: of the whole.
        node_rank: which machine.
        nodes: how many there are.
        processes: how many train together on all of them.
    """
    of_parts = manifest.get("of_parts")
    if not of_parts or (len(of_parts), manifest["processes"]) != (nodes, processes):
        return dict(manifest)
    facts = {name: value for name, value in manifest.items() if name not in {"files", "of_parts"}}
    files = {name: manifest["files"][name] for name in of_parts[node_rank]}
    return {**facts, "parts": nodes, "part": node_rank, "files": files}
