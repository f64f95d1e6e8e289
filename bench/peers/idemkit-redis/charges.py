"""A charge in a FastAPI program under idemkit's middleware. It is the upstream as well and keeps the ledger of its effects."""

import asyncio
import os
from collections import Counter

from fastapi import FastAPI, Request, Response
from idemkit import HttpConfig, IdempotencyMiddleware, PostgresBackend, RedisBackend

url = os.environ["STORE_URL"]
backend = (RedisBackend if url.startswith("redis") else PostgresBackend).from_url(url)
app = FastAPI()
app.add_middleware(IdempotencyMiddleware, backend=backend, config=HttpConfig(scope=lambda _: "bench"))
effects = Counter()
numbers = [0]


@app.post("/charges")
async def charge(request: Request) -> Response:
    await request.body()
    key = request.headers.get("idempotency-key", "none")
    effects[key] += 1
    numbers[0] += 1
    number = numbers[0]
    if pause := request.headers.get("x-pause-ms"):
        await asyncio.sleep(int(pause) / 1000)
    text = f'{{"key":"{key}","number":{number:012},"filling":"'
    text += "x" * (1024 - len(text) - 2) + '"}'
    return Response(text, status_code=201, media_type="application/json")


@app.get("/ledger")
async def ledger() -> dict:
    return {"effects": effects.total(), "doubled": sum(1 for times in effects.values() if times > 1)}
