"""Which split a molecule is in: training, validation or test."""

from .molecules import fraction


def split_of(canonical: str, *, validation: float, test: float, seed: int) -> str:
    """The split of a molecule: it follows from its canonical SMILES and the seed alone.

    So it is the same in all data sets, and whatever is sampled. With the same seed, the molecules of a smaller test
    split are all in a larger one.

    Parameters
    ----------
    canonical
        Canonical SMILES.
    validation, test
        Shares of these splits, in (0, 1); the rest is for training.
    seed
        Seed of the split.

    Returns
    -------
    ``train``, ``validation`` or ``test``.
    """
    share = fraction(canonical, seed)
    if share < test:
        return "test"
    return "validation" if share < test + validation else "train"
