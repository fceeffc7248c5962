"""Serve a model folder over HTTP. In a checkout, with `pip install fastapi uvicorn`:

ADAPTREC_MODEL=my-model uvicorn app:app --app-dir docs/serving
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import adaptrec

model = adaptrec.load_model(os.environ["ADAPTREC_MODEL"])
app = FastAPI(title="AdaptRec")


class Query(BaseModel):
    """One user."""

    history: Annotated[list[str], Field(max_length=10_000)]
    k: int = 10
    exclude_history: bool = False


@app.post("/recommend")
def recommend(query: Query) -> dict[str, Any]:
    """The best items after a history; 422 with one line where there can be none."""
    try:
        return asdict(model.recommend(query.history, query.k, query.exclude_history))
    except adaptrec.UserError as error:
        raise HTTPException(422, str(error)) from error
