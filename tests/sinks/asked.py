"""Metadata, and filters of it, of every form: strategies."""

from __future__ import annotations

from hypothesis import strategies as st

SCALARS = st.one_of(st.integers(-2, 2), st.sampled_from([0.5, True, False, "", "a", "ab", "1", "é", 'it\'s "x"', None]))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))
METADATA = st.dictionaries(st.sampled_from(["a", "b", 'odd "name"']), VALUES, max_size=3)
ASKED = SCALARS.filter(lambda value: value is not None)
ORDERED = ASKED.filter(lambda value: not isinstance(value, bool))
COMPARISONS = st.one_of(
    SCALARS,
    st.lists(ASKED, max_size=3),
    st.builds(lambda sign, value: {sign: value}, st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), ORDERED),
    st.builds(lambda value: {"$ne": value}, SCALARS),
    st.builds(lambda value: {"$prefix": value}, st.sampled_from(["", "a", "é", "it's"])),
    st.builds(lambda value: {"$exists": value}, st.booleans()),
)
FIELDS = st.sampled_from(["a", "b", "a.a", "b.b.a", 'odd "name"'])
WHERE = st.dictionaries(FIELDS, COMPARISONS, min_size=1, max_size=2)
