"""Digests of earlier code that computes the same as today's.

A run is made again where the code of its method changed. Some changes leave every figure as it is, such as a
new member of `Method` that the method does not use. Such a change adds a line here, so that hours of training
count on. The change must have been tried: the same run before and after it gives equal metrics, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

EARLIER: Mapping[str, tuple[str, ...]] = {
    "e9e7471d814dc084": ("315632d90515a933",),  # id
    "85255464f507ddd0": ("c5615d6b07972065", "244901cb838da50d", "285fb6141a4d51b5"),  # lora
    "3925630b50adcd54": ("10dc0c7e87edd19f", "42d7cfa4e829ab0c", "84faa7d8722bccc1"),  # adalora
    "4c028a918b8db973": ("c2113ffa3961287c", "ad24d0ea34974d7b", "18fe05a6b98d01a5"),  # full
    "88cf3315b0ff9d22": ("40142fc62a295ee5", "c5238e75eeb25a6d", "ecd783c66d21b700"),  # peft
    "8bd822b2ec1c4bb9": ("2a319eb5b4484c6d",),  # dora
    "b8c3f738148c4140": ("77a12db7f50cd8e3",),  # vera
    "df4aa508bbcb30ae": ("0616f2e014d1df6d",),  # ia3
    "4d0178c987d5820b": ("0a129db4f8f0be93",),  # bitfit
    "d1ac2170d6d8a3cd": ("15ec2d5ae0729020",),  # houlsby
    "6b8ed563418a079c": ("3b7d4887c071b192",),  # tmlp
    "e0ffcb9c5b4e77a3": ("21a019fed814653b",),  # tmoe
    "b9d41cc0495fc300": ("1652f7e7c84d7ad2",),  # ssna, ssna-mean, ssna-weighted
    "a4b419d7a11294b5": ("a05de3591fcb6676",),  # alphafuse
    "612602e06e69393c": ("a6b879db159466ad",),  # ladder
    "6e4d4e1056a4bdb5": ("a526ff517252b173",),  # iisan
    "5e15cb523adc08d8": ("1e82bacbac52dd25", "25155ed1e928a4ca"),  # popularity
    "036c200b10214a8e": ("6c7f4998f827e5f4", "8569daacfa5eaa43"),  # transitions
    "b9bd99a26e42b325": ("cbfa27fd6fabfb19", "781780c2ca9dcabe"),  # text-knn
    "71f360f8fba96336": ("65ebbc985b736a27", "45316448a99171eb"),  # blend
}
"""Digest of a method's or control's code now -> digests of earlier code with the same effect."""


def same_effect(earlier: str, now: str) -> bool:
    """Whether code of digest `earlier` computes what code of digest `now` computes.

    The digest of a mixture is that of the method and that of the control, with + between them.
    """
    parts, current = earlier.split("+"), now.split("+")
    return len(parts) == len(current) and all(
        own == today or own in EARLIER.get(today, ()) for own, today in zip(parts, current, strict=True)
    )
