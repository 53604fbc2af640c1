"""A plan's digest: what production held of every row that a batch touches, and what became of each."""

from __future__ import annotations

import hashlib

import asyncpg

from sync.parts import Parts


async def before_images(connection: asyncpg.Connection, parts: Parts) -> str:
    """Lock every row of production that the batch touches and return a digest of what they hold."""
    batch, company = parts.batch.batch, parts.batch.company_id
    digest = hashlib.blake2b(digest_size=16)
    for name, merge in parts.merges.items():
        for op in "udis":
            await connection.fetchval(merge.lock(op), batch, company)
        text = await connection.fetchval(
            f"""SELECT md5(string_agg(x.image, '' ORDER BY x.ordinal)) FROM (
                SELECT s.ordinal, md5(ROW(t.*)::text) AS image FROM {merge.staging.relation} s
                LEFT JOIN {merge.relation} t ON {merge.match} WHERE s.batch = $1) x""",
            batch,
            company,
        )
        digest.update(f"{name}:{text}\n".encode())
    return digest.hexdigest()


async def digest_of(connection: asyncpg.Connection, parts: Parts, before: str) -> str:
    """Return a digest over (key, action, before-image) of everything that the batch touched."""
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    for name, merge in parts.merges.items():
        text = await connection.fetchval(
            f"""SELECT md5(string_agg(concat_ws(' ', s.ordinal, s.op, s.reason, {merge.staging.key_text("s")}::text),
                ',' ORDER BY s.ordinal)) FROM {merge.staging.relation} s WHERE s.batch = $1""",
            parts.batch.batch,
        )
        digest.update(f"{name}:{text}\n".encode())
    return digest.hexdigest()
