"""Describes a finished data set: counts it, measures it by models, draws charts, and writes a page.

`counting` counts texts, groups and people; `measures` uses CLIP and, in `diversity`, a sentence model; `charts` draws
the curves and bars; `page` writes the sections that every page has; `triplets` and `people` are the pages of both kinds
of pipelines:

    statistics.md      the page to read; written last, so where it is, the rest is whole
    statistics.json    every number on it
    *.png, *.jpg       charts; some pairs or people that were kept, some that were rejected

Records are read once, one by one; memory holds counts, the distinct words and n-grams, and four bytes per score.
"""
