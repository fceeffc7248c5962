"""Whether a server still has the model that it had: the vectors of a few fixed texts.

A server does not say which weights it holds, and its vectors are not the same bit for bit: the other texts of
a batch change the last digits. So no digest of rounded vectors is stable, as some of thousands of numbers lie
next to where rounding changes. The vectors that were found first are kept in the cache, and later ones within
`TOLERANCE` are taken for those of the same model, which then has the digest of the first. That digest is of
few and coarse numbers, so that two machines find the same one, but for bad luck.

Symbols in shape comments: `P` probe texts, `D` width of a vector.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.files import cache_folder, path_component, write_atomically
from benchmark.llm.server import Server
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = (
    "Stainless steel wood screws, 4 x 40 mm, box of 100",
    "Acoustic guitar strings, phosphor bronze, light gauge",
    "Moisturising face cream with vitamin E for dry skin",
    "Digital kitchen scale",
    "Rotes Baumwoll-T-Shirt für Kinder, Größe 128",
    "Casque audio sans fil à réduction de bruit",
    "2-in-1",
    "The printer works well, but the cartridges are empty after a week; I would not buy it again.",
)
"""They never change: digests in records are of these."""
TOLERANCE = 0.03
"""Largest difference of a text's vector, as a share of its length. MiniLM's vector of a text alone and beside
longer ones differs by 7e-7 in float32, .0012 in float16 and .0091 in bfloat16."""
SAME = 1e-5
"""Difference of two texts' vectors, as a share of their length, up to which they are one: that of a batch's
rounding in float32. States of a real model, of which a few numbers may be much larger than the others, differ
by more."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What a server makes of `TEXTS`."""

    digest: str
    width: int
    """`D`."""
    reported: dict[str, str]
    """What the answer says of the model."""


def probe(server: Server, begun: bool = False) -> Probe:
    """Ask for the vectors of `TEXTS`; like those of an earlier use of the model's name, they have its digest.

    `begun` as for `Server.reported_embed`, which raises `UserError`; so do vectors that are all the same.
    """
    vectors, reported = server.reported_embed(TEXTS, begun)  # [P, D]
    apart = (vectors - vectors[0]).norm(dim=1)  # [P, D] -> [P]
    if (apart <= SAME * vectors[0].norm()).all():
        raise UserError(
            f"{server} gives the same vector for {len(TEXTS)} different texts, from which nothing can be "
            "learned; see which model it serves, and whether that makes embeddings of texts."
        )
    return Probe(_recognised(vectors, server), vectors.shape[1], reported)


def _recognised(vectors: Tensor, server: Server) -> str:
    """The digest of `vectors` `[P, D]`, or that of earlier ones that are nearly the same."""
    from safetensors.torch import save

    folder = cache_folder() / "servers" / path_component(f"{server.api}:{server.model}")
    known = dict(_known(folder))
    for digest, earlier in known.items():
        if _alike(vectors, earlier):
            return digest
    digest = _digest(vectors)
    if digest in known:  # another model of nearly the same angles
        digest = hashlib.sha256(vectors.half().numpy().tobytes()).hexdigest()
    if known:
        log.warning(
            "%s embeds the probe texts otherwise than before, so that its model must be another one: texts "
            "are encoded anew, and runs have other records",
            server,
        )
    with suppress(OSError):  # a cache that cannot be written: reported where it is needed
        write_atomically(folder / f"{digest}.safetensors", save({"vectors": vectors}))
    return digest


def _known(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Digest and vectors `[P, D]` of earlier uses."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for file in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, SafetensorError, KeyError):
            yield file.stem, load_file(file)["vectors"]


def _alike(vectors: Tensor, earlier: Tensor) -> bool:
    if vectors.shape != earlier.shape:
        return False
    apart = (vectors - earlier).norm(dim=1)  # [P, D] -> [P]
    return bool((apart <= TOLERANCE * earlier.norm(dim=1)).all())


def _digest(vectors: Tensor) -> str:
    """Of the lengths to two digits and the cosines to two decimals."""
    import torch

    lengths = vectors.norm(dim=1)  # [P, D] -> [P]
    directions = torch.nn.functional.normalize(vectors)  # [P, D]
    cosines = (directions @ directions.T).flatten()  # [P, P] -> [P * P]
    numbers = [f"{length:.1e}" for length in lengths.tolist()]
    numbers += [f"{round(cosine, 2) + 0.0:.2f}" for cosine in cosines.tolist()]  # + 0.0: no -0.00
    return hashlib.sha256(json.dumps([vectors.shape[1], numbers]).encode()).hexdigest()
