"""Adaptation methods and controls. A built-in one is a file of this folder and one line below."""

BUILTIN = {
    "id": "methods.id:Id",
    "llminit": "methods.llminit:LLMInit",
    "ace": "methods.ace:ACE",
    "alphafuse": "methods.alphafuse:AlphaFuse",
    "vqrec": "methods.vqrec:VQRec",
    "lora": "methods.lora:LoRA",
    "adalora": "methods.adalora:AdaLoRA",
    "dora": "methods.dora:DoRA",
    "vera": "methods.vera:VeRA",
    "ia3": "methods.ia3:IA3",
    "bitfit": "methods.bitfit:BitFit",
    "houlsby": "methods.houlsby:Houlsby",
    "full": "methods.full:Full",
    "peft": "methods.any_peft:AnyPeft",
    "linear": "methods.linear:Linear",
    "tmlp": "methods.tmlp:TMLP",
    "whitenrec": "methods.whitenrec:WhitenRec",
    "whitenrec-plus": "methods.whitenrec:WhitenRecPlus",
    "tmoe": "methods.tmoe:TMoE",
    "ssna": "methods.ssna:SSNA",
    "ssna-mean": "methods.ssna:SSNAMean",
    "ssna-weighted": "methods.ssna:SSNAWeighted",
    "ladder": "methods.ladder:Ladder",
    "iisan": "methods.iisan:IISAN",
}
CONTROLS = {
    "popularity": "methods.controls.popularity:Popularity",
    "transitions": "methods.controls.transitions:Transitions",
    "text-knn": "methods.controls.text_knn:TextKnn",
    "blend": "methods.controls.blend:Blend",
}
"""Recommenders without training."""
