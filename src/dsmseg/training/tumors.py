"""Which kinds of tumor a prepared case is known to lack: tumors that are put into it are then all that it has."""

from functools import cache

from dsmseg.datasets.store import CaseRecord
from dsmseg.synthesis.protocol import protocol
from dsmseg.taxonomy import TUMORS, find
from dsmseg.training.data_settings import Store


def absent_in(store: Store | None, record: CaseRecord) -> frozenset[int]:
    """Give the ids of the kinds of tumor that a case is known to lack.

    These are the kinds that its data set annotates and of which it shows none; those that its description names as
    absent; and in a healthy data set all that it does not annotate. A data set of the synthetic benchmark lacks what
    its bodies do not grow.
    """
    unlabelled = frozenset(one.id for one in TUMORS) - set(record.annotated)
    if record.dataset in _grown():
        unlabelled -= _grown()[record.dataset]
    elif store is None or record.dataset not in store.healthy:
        unlabelled &= frozenset(record.absent)
    shown = {one for one, voxels in record.voxels.items() if voxels}
    return unlabelled | (frozenset(one.id for one in TUMORS if one.id in record.annotated) - shown)


@cache
def _grown() -> dict[str, frozenset[int]]:
    """Give the ids of the tumors that grow in each virtual data set."""
    return {one.name: frozenset(find(name).id for name in one.tumors) for one in protocol().datasets}
