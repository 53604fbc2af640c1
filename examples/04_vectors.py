"""Find articles by words, see which embedding is out of date, and find the same in production."""

from __future__ import annotations

import asyncio

from localstore import HashingEmbedder, LocalStore
from sync import SyncEngine

ARTICLES = {
    "knowledge_base/freshdesk/1": "Printer offline: restart the spooler",
    "knowledge_base/freshdesk/2": "Reset a forgotten password",
    "knowledge_base/freshdesk/3": "Printer beeps: open the paper tray",
}


async def main() -> None:
    """Embed three texts. A real program embeds with a model; this embedder knows words and nothing of their meaning."""
    embedder = HashingEmbedder(128)
    async with LocalStore("data", models=[]) as store, SyncEngine(store, to="embedded") as engine:
        vectors = store.tenant("wedosoft").vectors
        for item, text in ARTICLES.items():
            await vectors.put(item, embedder.embed(text), model=embedder.model, text=text)
        nearest = await vectors.search(embedder.embed("the printer beeps"), model=embedder.model, k=2)
        print("nearest:", [match.item for match in nearest])

        changed = ARTICLES | {"knowledge_base/freshdesk/2": "Reset a password, or a PIN"}
        print("stale:", await vectors.stale(changed, model=embedder.model))

        result = await engine.push(promote=True)
        print("promoted:", result.tenants[0].tables["vectors"]["inserted"], "vectors")


if __name__ == "__main__":
    asyncio.run(main())
