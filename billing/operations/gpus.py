"""What GPUs of our own cost: say it, list it, take a mistake away. Each function is one transaction. Only margins read it: nobody is charged by it."""

from billing.audit.store import record
from billing.db import Database
from billing.errors import NotFound
from billing.margins import store
from billing.margins.gpu import WEIGHTS, GpuCost, check_gpu
from billing.tenants.store import note_change

__all__ = ["GpuCost", "add_gpu", "list_gpus", "remove_gpu"]


def add_gpu(
    db: Database,
    *,
    backend: str,
    gpus: int,
    hour_pico: int,
    currency: str,
    start_us: int | None = None,
    end_us: int | None = None,
    weights: tuple[int, int, int] = WEIGHTS,
    now_us: int,
) -> GpuCost:
    """Say that so many GPUs stood behind a backend from an instant (now by default) until another, at `hour_pico` of a currency per GPU and hour.

    Instants may have passed: a bill comes later than what it is for. What is there beside it adds up. Where it has no end, the backend's entry without
    one that began earlier ends where this one begins. Raises `Invalid`.
    """
    begin_us = now_us if start_us is None else start_us
    with db.write() as session:
        note_change(session, None, now_us)
        cost = GpuCost(
            id=store.next_gpu_id(session), backend=backend, gpus=gpus, hour_pico=hour_pico, currency=currency, start_us=begin_us, end_us=end_us,
            weights=weights, created_us=now_us,
        )  # fmt: skip
        check_gpu(cost)
        if end_us is None:
            store.end_gpus(session, backend, begin_us)
        store.insert_gpu(session, cost)
        record(session, now_us, action="gpu-cost.set", tenant_id=None, subject=str(cost.id), before=None, after=cost)
        return cost


def list_gpus(db: Database) -> list[GpuCost]:
    """Return every entry, by backend and start."""
    with db.read() as session:
        return store.all_gpus(session)


def remove_gpu(db: Database, gpu_id: int, now_us: int) -> GpuCost:
    """Take an entry away and return it; reports do without it from now on. Raises `NotFound`."""
    with db.write() as session:
        note_change(session, None, now_us)
        found = store.get_gpu(session, gpu_id)
        if found is None:
            raise NotFound("entry of what GPUs cost", str(gpu_id))
        store.delete_gpu(session, gpu_id)
        record(session, now_us, action="gpu-cost.remove", tenant_id=None, subject=str(gpu_id), before=found, after=None)
        return found
