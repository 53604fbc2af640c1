"""Vectors in production's own table, searched by pgvector under row-level security."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import numpy as np

from localstore.columns import dump_json
from localstore.errors import VectorsUnavailable, WrongMode
from localstore.identifiers import check_tenant_id
from localstore.postgres.companies import REGISTER
from localstore.postgres.pool import Pool
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.postgres import relation
from localstore.vectors.blocks import parsed
from localstore.vectors.interface import VectorsInterface
from localstore.vectors.table import VECTORS
from localstore.vectors.values import (
    Embedding,
    Match,
    Metric,
    Query,
    Stored,
    Vector,
    check_model,
    check_query,
    check_same_dimension,
    other_dimension,
)

OPERATORS: Final[Mapping[Metric, str]] = {"cosine": "<=>", "dot": "<#>", "l2": "<->"}
"""pgvector's distances: one less the cosine, the negated product, and the distance itself."""

CANDIDATES: Final = 100
"""More than pgvector's own 40: an answer of ten then misses next to nothing, and takes little longer."""

CANDIDATES_MAX: Final = 1000
"""pgvector's own limit."""

MODE_SERVED: Final = "postgresql"

_KEY: Final = "company_id = $1 AND model = $2 AND item = $3"

_EXTENSION: Final = """
    SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attname = 'embedding'
    JOIN pg_type t ON t.oid = a.atttypid AND t.typname = 'vector' WHERE e.extname = 'vector'"""


class PgVectors(VectorsInterface):
    """A company's vectors in production. Every call is one transaction of that company's, as `app_user`.

    Reads are allowed whatever the company's mode, writes only where its truth is here. The table is the one that sync
    makes when it first brings vectors. Without the extension, or while the table waits for it, all but searches work.
    """

    def __init__(self, pool: Pool, company_id: str, schema: str = "public") -> None:
        self._pool = pool
        self._company = check_tenant_id(company_id)
        self._schema = schema
        self._table = relation(schema, VECTORS.name)

    def __repr__(self) -> str:
        return f"<PgVectors of {self._company} in {self._pool!r}>"

    async def count(self, model: str | None = None) -> int:
        """Return how many vectors there are, of one model or of all."""
        condition, arguments = "company_id = $1", [self._company]
        if model is not None:
            condition, arguments = f"{condition} AND model = $2", [*arguments, check_model(model)]
        async with self._transaction(readonly=True) as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {self._table} WHERE {condition}", *arguments))

    async def nearest(self, query: Embedding, *, model: str, k: int = 10, candidates: int = CANDIDATES) -> list[Match]:
        """Return about the `k` nearest by cosine, by the model's index: faster among many, and may miss some.

        `candidates` is how many the index looks at before it trusts its answer. Where `sync init` has made no index
        the answer is exact. Only this company's are ever counted among the `k`.
        """
        asked = check_query(model, query, k, "cosine", None)
        async with self._transaction(readonly=True) as connection:
            schema = await self._extension(connection)
            await connection.execute(
                "SELECT set_config('hnsw.iterative_scan', 'strict_order', true), "
                "set_config('hnsw.ef_search', $1, true)",
                str(min(max(asked.k, candidates), CANDIDATES_MAX)),
            )
            rows = await connection.fetch(
                self.nearest_statement(asked, schema), self._company, asked.embedding.tolist(), asked.k
            )
        return [_match(row, "cosine") for row in rows if not math.isnan(row["distance"])]

    def nearest_statement(self, query: Query, schema: str) -> str:
        """Return the statement behind `nearest`: $1 the company, $2 the query's numbers, $3 how many."""
        kind = f"{schema}.vector({query.dimension})"
        return (
            "SELECT t.item, t.content_hash, t.metadata::text AS metadata, "
            f"(t.embedding::{kind}) OPERATOR({schema}.<=>) ($2::real[])::{kind} AS distance FROM {self._table} t "
            # The index's condition is only known to hold where these two are written out.
            f"WHERE t.company_id = $1 AND t.model = {quote_literal(query.model)} AND t.dimension = {query.dimension} "
            "ORDER BY distance LIMIT $3"
        )

    async def _put(self, model: str, vectors: list[Stored]) -> None:
        async with self._transaction(create=True) as connection:
            # Two first puts of one model at once would each see none of the other's dimension.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('localstore/vectors/' || $1 || '/' || $2, 0))",
                self._company,
                model,
            )
            check_same_dimension(vectors, model, await self._dimension(connection, model, vectors[0].dimension))
            await connection.executemany(
                f"INSERT INTO {self._table} (company_id, model, item, dimension, content_hash, metadata, embedding) "
                "VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::real[]) "
                "ON CONFLICT (company_id, model, item) DO UPDATE SET dimension = excluded.dimension, "
                "content_hash = excluded.content_hash, metadata = excluded.metadata, embedding = excluded.embedding",
                [
                    (
                        self._company,
                        model,
                        vector.item,
                        vector.dimension,
                        vector.content_hash,
                        vector.metadata,
                        vector.floats.tolist(),
                    )
                    for vector in vectors
                ],
            )

    async def _search(self, query: Query) -> list[Match]:
        async with self._transaction(readonly=True) as connection:
            known = await self._dimension(connection, query.model, query.dimension)
            if known is None:
                return []
            if known != query.dimension:
                raise other_dimension(query.model, known, query.dimension)
            schema = await self._extension(connection)
            distance = f"t.embedding OPERATOR({schema}.{OPERATORS[query.metric]}) ($2::real[])::{schema}.vector"
            arguments: list[Any] = [self._company, query.embedding.tolist(), query.model, query.dimension, query.k]
            filters = ""
            for key, choices in query.where:
                arguments += [key, [dump_json(choice) for choice in choices]]
                filters += f" AND t.metadata -> ${len(arguments) - 1} = ANY (${len(arguments)}::text[]::jsonb[])"
            rows = await connection.fetch(
                f"SELECT t.item, t.content_hash, t.metadata::text AS metadata, {distance} AS distance "
                f"FROM {self._table} t WHERE t.company_id = $1 AND t.model = $3 "
                f"AND {schema}.vector_dims(t.embedding) = $4{filters} "
                'ORDER BY distance, t.item COLLATE "C" LIMIT $5',
                *arguments,
            )
        return [_match(row, query.metric) for row in rows if not math.isnan(row["distance"])]

    async def _get(self, model: str, item: str) -> Vector | None:
        async with self._transaction(readonly=True) as connection:
            row = await connection.fetchrow(
                "SELECT content_hash, metadata::text AS metadata, embedding::real[] AS embedding "
                f"FROM {self._table} WHERE {_KEY}",
                self._company,
                model,
                item,
            )
        if row is None or not row["embedding"]:
            return None
        floats = np.array(row["embedding"], np.float32)
        return Vector(item, floats, row["content_hash"], parsed(row["metadata"] or "{}"))

    async def _delete(self, model: str, item: str) -> bool:
        return await self._delete_where(_KEY, self._company, model, item) > 0

    async def _delete_model(self, model: str) -> int:
        return await self._delete_where("company_id = $1 AND model = $2", self._company, model)

    async def _delete_where(self, condition: str, *arguments: str) -> int:
        async with self._transaction() as connection:
            tag: str = await connection.execute(f"DELETE FROM {self._table} WHERE {condition}", *arguments)
            return int(tag.rsplit(" ", 1)[-1])

    async def _hashes(self, model: str) -> dict[str, str | None]:
        async with self._transaction(readonly=True) as connection:
            rows = await connection.fetch(
                f"SELECT item, content_hash FROM {self._table} WHERE company_id = $1 AND model = $2",
                self._company,
                model,
            )
        return {row["item"]: row["content_hash"] for row in rows}

    async def _dimension(self, connection: asyncpg.Connection, model: str, wanted: int) -> int | None:
        """Return `wanted` if the model has vectors of that dimension, else another one that it has, or None.

        The vectors themselves say it: beside them other programs may have written anything. They may be arrays yet.
        """
        of_model = f"FROM {self._table} WHERE company_id = $1 AND model = $2"
        found: int | None = await connection.fetchval(
            f"SELECT coalesce("
            f"(SELECT $3::integer {of_model} AND cardinality(embedding::real[]) = $3 LIMIT 1), "
            f"(SELECT cardinality(embedding::real[]) {of_model} AND cardinality(embedding::real[]) > 0 LIMIT 1))",
            self._company,
            model,
            wanted,
        )
        return found

    async def _extension(self, connection: asyncpg.Connection) -> str:
        """Return the schema of pgvector's type and operators, quoted."""
        schema: str | None = await connection.fetchval(_EXTENSION, self._table)
        if schema is None:
            raise VectorsUnavailable(
                "production cannot search vectors: it lacks the extension vector, or the table still waits for it",
                hint="let an owner of the database run CREATE EXTENSION vector, then: localstore sync push --promote",
                tenant=self._company,
            )
        return quote_identifier(schema)

    @asynccontextmanager
    async def _transaction(self, *, readonly: bool = False, create: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Run a block in one transaction of the company; one that writes also keeps its mode from changing."""
        async with self._pool.transaction(self._company, readonly=readonly) as connection:
            if await connection.fetchval("SELECT to_regclass($1) IS NULL", self._table):
                raise VectorsUnavailable(
                    f"production has no table {self._table}: no vectors have been brought there yet",
                    hint="localstore sync push --promote, from a tenant that has vectors",
                    tenant=self._company,
                )
            if not readonly:
                self._check_mode(await connection.fetchval(REGISTER, self._schema if create else None))
            yield connection

    def _check_mode(self, mode: str | None) -> None:
        if mode not in {None, MODE_SERVED}:
            raise WrongMode(
                f"the vectors of tenant {self._company} are written to its file: its mode is {mode}",
                hint=f"write to the file (STORAGE_TYPE=file or hybrid), or `localstore mode advance {self._company}`",
                tenant=self._company,
            )


def _match(row: asyncpg.Record, metric: Metric) -> Match:
    """Return a row of a search, its distance as a score."""
    distance = float(row["distance"])
    score = {"cosine": 1.0 - distance, "dot": -distance, "l2": distance}[metric] + 0.0
    return Match(row["item"], score, row["content_hash"], parsed(row["metadata"] or "{}"))
