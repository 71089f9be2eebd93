"""A case of a store, small and with known contents."""

import numpy as np

from dsmseg.datasets.store import CaseRecord, Settings, StoredCase, as_rows, write_case

LIVER, KIDNEYS, LIVER_TUMOR = 6, (2, 3), 31
SHAPE = (60, 50, 40)


def store_case(
    folder,
    dataset="lits",
    case="1",
    *,
    shape=SHAPE,
    tumor=True,
    window=(-175.0, 250.0),
    merged=(),
    unknown=False,
    absent=(),
) -> StoredCase:
    """A case whose HU are the number of the voxel (modulo the window), with a liver, kidneys and a small tumor.

    ``unknown``: of the lower half of all slices, nothing is known.
    """
    folder, shape = folder / dataset / case, SHAPE
    folder.mkdir(parents=True)
    low, high = window
    image = (np.arange(np.prod(shape)).reshape(shape) % int(high - low) + low).astype(np.int16)
    codes = np.zeros(shape, np.uint8)
    codes[10:40, 10:30, 5:25] = 1
    codes[45:55, 10:20, 5:15] = 3
    if tumor:
        codes[20:23, 20:23, 10:13] = 2
    if unknown:
        codes[..., : shape[2] // 2] = 4
    sets = ((), (LIVER,), (LIVER, LIVER_TUMOR), KIDNEYS, (0,))
    places = {LIVER: np.argwhere((codes == 1) | (codes == 2)), 2: np.argwhere(codes == 3), 3: np.argwhere(codes == 3)}
    places |= {LIVER_TUMOR: np.argwhere(codes == 2)} if tumor else {}
    annotated = (2, 3, LIVER, LIVER_TUMOR)
    record = CaseRecord(
        dataset=dataset,
        case=case,
        sources=(),
        description="",
        shape=shape,
        affine=as_rows(np.eye(4)),
        own_shape=shape,
        own_affine=as_rows(np.eye(4)),
        placing="header",
        sets=sets,
        annotated=annotated,
        merged=merged,
        voxels={one: len(places.get(one, ())) for one in annotated},
        body_ml=1.0,
        hu={},
        absent=absent,
    )
    locations = {one: those.astype(np.int16) for one, those in places.items()}
    write_case(
        folder, record, image=image, codes=codes, locations=locations, fingerprint=np.zeros((12, 12, 12), np.int8)
    )
    return StoredCase(folder, record, Settings(hu_window=window))
