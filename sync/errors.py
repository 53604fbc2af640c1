"""Every error that sync raises, in one tree below localstore's.

LocalStoreError
└── SyncError                     something about carrying a tenant's changes to production
    ├── SyncRefused               a guard refused; nothing was changed
    │   ├── ForkError             a file and production tell two histories of one replica
    │   │   └── StaleFile         production knows later batches of this replica: the file is an older copy
    │   ├── UnknownSchema         production's table has another shape than the tenant's
    │   │   └── UnsupportedTable  production cannot hold such a table at all
    │   ├── NotPrepared           the database was never prepared for sync
    │   ├── HeldRows              a batch has rows that production cannot take, and none were to be held
    │   ├── TooManyDeletes        a batch deletes more rows of a table than is allowed unasked
    │   ├── BatchWithdrawn        the batch was given up; its changes travel in a later one
    │   └── NotReady              a tenant's mode cannot be changed yet; it is as it was
    ├── StalePlan                 production moved since the plan was made
    ├── BatchNotFound             production's ledger knows no such batch
    ├── PromotionFailed           a promotion came to no end and was rolled back whole
    ├── BundleNotWritten          a bundle could not be written to the disk
    ├── DamagedBundle             a bundle is not what was sealed
    ├── ModeInDoubt               the connection was lost while production was told a tenant's new mode
    └── NothingToDo               what was asked for is done already, or there is nothing to do it to
"""

from __future__ import annotations

from localstore.errors import LocalStoreError


class SyncError(LocalStoreError):
    """Raised when changes could not be carried to production; they remain in the tenant's file."""

    code = "sync"


class SyncRefused(SyncError):
    """Raised when a guard refused the operation; nothing was changed on either side."""

    code = "refused"
    exit_code = 6


class ForkError(SyncRefused):
    """Raised when a tenant's file and production's ledger tell two histories of one replica."""

    code = "fork"


class StaleFile(ForkError):
    """Raised when production knows later batches of this replica: the file was restored or copied from an older one."""

    code = "stale_file"


class UnknownSchema(SyncRefused):
    """Raised when production's table has another shape than the tenant's; the message names each difference."""

    code = "unknown_schema"


class UnsupportedTable(UnknownSchema):
    """Raised when production cannot hold a table of this shape at all."""

    code = "unsupported_table"


class NotPrepared(SyncRefused):
    """Raised when the database was never prepared for sync."""

    code = "not_prepared"


class HeldRows(SyncRefused):
    """Raised when a batch has rows that production cannot take and was to be given up rather than hold them."""

    code = "held_rows"


class TooManyDeletes(SyncRefused):
    """Raised when a batch deletes more rows of a table than is allowed unasked."""

    code = "too_many_deletes"


class BatchWithdrawn(SyncRefused):
    """Raised when a batch was given up; its changes travel in a later one."""

    code = "batch_withdrawn"


class NotReady(SyncRefused):
    """Raised when something stands in the way of a change of a tenant's mode, which is as it was; the hint names it."""

    code = "not_ready"


class ModeInDoubt(SyncError):
    """Raised when nobody knows whether production took a tenant's new mode; until then the file takes no writes."""

    code = "mode_in_doubt"
    retryable = True


class StalePlan(SyncError):
    """Raised when production moved since the plan was made, so that promoting would not do what the plan said."""

    code = "stale_plan"
    exit_code = 5


class BatchNotFound(SyncError):
    """Raised when production's ledger knows no such batch."""

    code = "batch_not_found"


class PromotionFailed(SyncError):
    """Raised when a promotion came to no end and was rolled back whole; it can be tried again."""

    code = "promotion_failed"
    retryable = True


class BundleNotWritten(SyncError):
    """Raised when a bundle could not be written, for want of room or rights; its changes remain in the file."""

    code = "bundle_not_written"


class DamagedBundle(SyncError):
    """Raised when a bundle's bytes, counts or hashes are not what was sealed."""

    code = "damaged_bundle"


class NothingToDo(SyncError):
    """Raised when what was asked for is done already, or there is nothing to do it to."""

    code = "nothing_to_do"


def forked(company: str, seq: int) -> ForkError:
    """Return the error for a batch that is another one in production than in the tenant's file."""
    return ForkError(
        f"batch {seq} of this replica is another one in production than in the tenant's file; nothing was changed",
        hint=f"localstore sync rebase --tenant {company}",
        tenant=company,
    )
