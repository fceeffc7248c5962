"""Adaptation methods. A built-in one is a file of this folder and one line below."""

BUILTIN = {
    "id": "methods.id:Id",
    "tmlp": "methods.tmlp:TMLP",
    "tmoe": "methods.tmoe:TMoE",
    "ssna": "methods.ssna:SSNA",
    "ssna-mean": "methods.ssna:SSNAMean",
    "ssna-weighted": "methods.ssna:SSNAWeighted",
}
